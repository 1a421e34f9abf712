"""Figures of 01_build: what the layer is made of."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from orchard import plot
from orchard.kernels.residual import feature_map, residual_linear_attention
from orchard.nn import window_mask
from orchard.papers.rattention.figures.looks import LOOKS, titled
from orchard.plot.style import PALETTE

BRANCHES = {
    "sliding window": LOOKS["swa"].colour, "linear attention": LOOKS["la"].colour, "both": PALETTE[2], "neither": PALETTE[3],
    "not visible": "#ececec",
}  # fmt: skip


def coverage_table(length: int = 24, window: int = 5, delay: int | None = None) -> pd.DataFrame:
    """Which branch lets query t see key s: columns query, key, branch. The linear branch reads 0 ... t - delay; None: window + 1."""
    t = torch.arange(length)
    query, key = np.meshgrid(t, t, indexing="ij")
    near, far = window_mask(t, t, window).numpy(), query - key >= (window + 1 if delay is None else delay)
    kinds = ["not visible", "both", "sliding window", "linear attention"]
    branch = np.select([key > query, near & far, near, far], kinds, "neither")
    return pd.DataFrame({"query": query.ravel(), "key": key.ravel(), "branch": branch.ravel()})


def coverage(length: int = 24, window: int = 5, delay: int | None = None) -> Figure:
    """The two branches partition the causal past; with a smaller delay tokens are read twice, with a larger one there is a gap."""
    table = coverage_table(length, window, delay)
    seen = set(table["branch"])
    made = plot.heat_map(
        table, row="query", column="key", value="branch", x_label="key position s", y_label="query position t",
        value_label="seen by", colours={name: colour for name, colour in BRANCHES.items() if name in seen},
    )  # fmt: skip
    past = table[table["branch"] != "not visible"]["branch"]
    once = past.isin(["sliding window", "linear attention"]).mean()
    return titled(made, f"{once:.0%} of the past is seen by exactly one branch")


def feature_map_table(dim: int = 16, draws: int = 512) -> pd.DataFrame:
    """Entropy of each half of the softmax feature map for random vectors of every scale."""
    x = torch.randn(draws, dim, generator=torch.Generator().manual_seed(0))
    rows = []
    for scale in np.geomspace(0.1, 10, 25).tolist():
        entropy = float(_entropy(feature_map(x * scale, "softmax").unflatten(-1, (2, dim))).mean())
        rows.append({"scale": scale, "entropy": entropy, "arm": "softmax", "seed": 0})
    return pd.DataFrame(rows)


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum(-1)


def features(temperature: float = 1.0, dim: int = 16) -> Figure:
    """Both halves of φ(x / temperature) for one x of unit variance: flat when it is hot, one entry each when it is cold."""
    x = torch.randn(dim, generator=torch.Generator().manual_seed(0))
    halves = feature_map(x / temperature, "softmax").unflatten(-1, (2, dim))
    made, (axes,) = plot.figure()
    at = np.arange(1, dim + 1)
    for shift, name, half in zip((-0.2, 0.2), ("softmax(x / τ)", "softmax(−x / τ)"), halves, strict=True):
        axes.bar(at + shift, half.numpy(), width=0.4, label=name)
    axes.set(xlabel="channel of x", ylabel="entry of φ", ylim=(0, 1), xticks=at)
    axes.legend(loc="upper right")
    near, far = _entropy(halves).tolist()
    return titled(made, f"τ = {temperature:g}: entropy {near:.2f} and {far:.2f} of {math.log(dim):.2f} nats")


def norm_jump_table(length: int = 48, window: int = 15, scale: float = 1.0) -> pd.DataFrame:
    """Root mean square of the linear branch at every position, before and after its norm, for random inputs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (scale * torch.randn(8, length, 1, 16, generator=generator) for _ in range(3))
    out, _ = residual_linear_attention(q, k, v, window)
    size = out.pow(2).mean(-1)
    normed = size / (size + 1e-6)
    rows = [
        {"position": t, "rms": float(value[:, t].mean().sqrt()), "arm": name, "seed": 0}
        for name, value in (("before the norm", size), ("after the norm", normed)) for t in range(length)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def norm_jump(length: int = 48, window: int = 15, scale: float = 1.0) -> Figure:
    """The linear branch is silent until the window is full; then the norm lifts it to unit size at once."""
    table = norm_jump_table(length, window, scale)
    made = plot.learning_curves(
        table, x="position", y="rms", x_label="position t (tokens)", y_label="RMS of the linear branch"
    )
    return titled(made, f"silent up to t = {min(window, length - 1)}, of unit size behind its norm from then on")


def feature_entropy() -> Figure:
    """Small inputs give a flat map, large ones a one-hot map; unit variance lies between."""
    table, label = feature_map_table(), "standard deviation of the input"
    made = plot.learning_curves(table, x="scale", y="entropy", x_label=label, y_label="entropy of φ (nats)")
    at = np.interp(1.0, table["scale"], table["entropy"])
    return titled(made, f"{at:.2f} nats at a standard deviation of one, {table['entropy'].max():.2f} where it is flat")
