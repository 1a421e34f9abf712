"""Figures of the RATTENTION series: a table in, a figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from orchard import plot
from orchard.nn import window_mask
from orchard.papers.rattention.evidence import difference
from orchard.papers.rattention.method import residual_linear_attention
from orchard.papers.rattention.reference import feature_map
from orchard.stats import paired_bootstrap

BRANCHES = {"sliding window": "#0173b2", "linear attention": "#de8f05", "not visible": "#ececec"}


def coverage_table(length: int = 24, window: int = 5) -> pd.DataFrame:
    """Which branch lets query t see key s: columns query, key, branch."""
    t = torch.arange(length)
    local = window_mask(t, t, window).numpy()
    past = np.tril(np.ones((length, length), dtype=bool))
    branch = np.where(local, "sliding window", np.where(past, "linear attention", "not visible"))
    query, key = np.meshgrid(np.arange(length), np.arange(length), indexing="ij")
    return pd.DataFrame({"query": query.ravel(), "key": key.ravel(), "branch": branch.ravel()})


def coverage(length: int = 24, window: int = 5) -> Figure:
    """The two branches partition the causal past."""
    return plot.heat_map(
        coverage_table(length, window), row="query", column="key", value="branch", x_label="key position s", y_label="query position t",
        value_label="seen by", colours=BRANCHES,
    )  # fmt: skip


def feature_map_table(scale: float = 1.0, dim: int = 16, draws: int = 512) -> pd.DataFrame:
    """Entropy of each half of the softmax feature map for random vectors of a given scale, beside the largest possible."""
    x = torch.randn(draws, dim, generator=torch.Generator().manual_seed(0))
    rows = []
    for factor in np.geomspace(0.1, 10, 25):
        phi = feature_map(x * float(factor * scale), "softmax").unflatten(-1, (2, dim))
        entropy = -(phi * phi.clamp_min(1e-30).log()).sum(-1).mean()
        rows.append({"scale": float(factor * scale), "entropy": float(entropy), "arm": "softmax", "seed": 0})
    return pd.DataFrame(rows)


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
    return plot.learning_curves(
        norm_jump_table(length, window, scale),
        x="position",
        y="rms",
        x_label="position t (tokens)",
        y_label="RMS of the linear branch",
    )


def feature_entropy(scale: float = 1.0) -> Figure:
    """Small inputs give a flat map, large ones a one-hot map; unit variance lies between."""
    return plot.learning_curves(
        feature_map_table(scale),
        x="scale",
        y="entropy",
        x_label="standard deviation of the input",
        y_label="entropy of φ (nats)",
    )


def learning_curves(table: pd.DataFrame, arms: list[str]) -> Figure:
    """Validation loss of some arms against steps, with bands over seeds."""
    part = table[table["arm"].isin(arms)].dropna(subset=["validation_loss"])
    return plot.learning_curves(
        part, y="validation_loss", x_label="optimizer step", y_label="validation loss (nats/byte)"
    )


def training_loss(table: pd.DataFrame, arms: list[str]) -> Figure:
    """Training loss of some arms against steps, with bands over seeds."""
    part = table[table["arm"].isin(arms)].dropna(subset=["loss"])
    return plot.learning_curves(part, x_label="optimizer step", y_label="training loss (nats/byte)")


def tuning(table: pd.DataFrame) -> Figure:
    """Validation loss against learning rate, one line per family."""
    return plot.learning_curves(
        table.assign(rate=table["learning_rate"] * 1e3), x="rate", y="validation_loss", x_label="learning rate (10⁻³)",
        y_label="validation loss (nats/byte)",
    )  # fmt: skip


def window_sweep(table: pd.DataFrame) -> Figure:
    """Bits per byte against the window; arms without one are horizontal lines."""
    shown = table[~table["family"].isin(["swa_mem", "swa_flops"])].assign(arm=table["family"])
    return plot.sweep(
        shown, x="window", y="bits_per_byte", x_label="window w + 1 (tokens)", y_label="test loss (bits/byte)"
    )


def pareto(table: pd.DataFrame) -> Figure:
    """Bits per byte against the bytes of cache that one step of decoding reads per sequence at the training length."""
    return plot.pareto(
        table.assign(kib=table["cache_bytes"] / 1024), cost="kib", loss="bits_per_byte", x_label="cache read per decoded token (KiB, bf16)",
        y_label="test loss (bits/byte)",
    )  # fmt: skip


def strata_table(units: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Bits per byte by arm and copy-distance stratum, over all seeds and test windows, with the stratum's share of the bytes."""
    sums = units[units["arm"].isin(arms)].groupby(["stratum", "arm"], sort=False)[["nats", "bytes"]].sum().reset_index()
    sums["bits_per_byte"] = sums["nats"] / np.log(2) / sums["bytes"]
    sums["share"] = sums["bytes"] / sums.groupby("arm")["bytes"].transform("sum")
    return sums.drop(columns=["nats", "bytes"])


def strata(units: pd.DataFrame, arms: list[str]) -> Figure:
    """Bits per byte by copy-distance stratum."""
    return plot.heat_map(
        strata_table(units, arms), row="arm", column="stratum", value="bits_per_byte", x_label="copy distance (bytes)", y_label="",
        value_label="bits/byte",
    )  # fmt: skip


def effects(units: pd.DataFrame, by: str, base: str) -> pd.DataFrame:
    """Difference of every other value of ``by`` from ``base`` in bits per byte, with a 95 % interval over seeds and test windows."""
    rows = []
    for name in [n for n in pd.unique(units[by]) if n != base]:
        paired = difference(units, by, name, base, name)
        interval = paired_bootstrap(paired["value"].to_numpy(), paired["seed"].to_numpy())
        rows.append({"label": name, "effect": interval.estimate, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def ablation(table: pd.DataFrame) -> Figure:
    """Effects of an ablation: right of zero is worse than the base."""
    return plot.forest(table, x_label="change in test loss (bits/byte)")


def claims_forest(verdicts: pd.DataFrame) -> Figure:
    """Measured effects of the claims about loss, in bits per byte, coloured by verdict; thresholds are ticks."""
    table = verdicts[verdicts["metric"].str.contains("bits/byte") & verdicts["effect"].notna()]
    shown = table.assign(label=table["id"], threshold=table["threshold"])[
        ["label", "effect", "low", "high", "threshold", "verdict"]
    ]
    return plot.forest(shown, x_label="effect (bits/byte)")


def published_sweep(published: pd.DataFrame) -> Figure:
    """The paper's own Pareto figure (its figure 4), redrawn from its numbers: MMLU against the window at 3B."""
    table = published[published["table"] == "Figure 4"]
    parts = table["arm"].str.extract(r"^(?P<arm>[^@]+)(?:@(?P<window>\d+))?$")
    points = parts.assign(window=pd.to_numeric(parts["window"]), value=table["value"])
    points = points[points["window"] != 0]
    return plot.sweep(
        None, published=points, x="window", y="value", x_label="window w (tokens)", y_label="MMLU, 5-shot (%)"
    )
