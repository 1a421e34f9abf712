"""SoftTopK beside the iterative form of the literature: seconds forward and backward in turns, and how exact each is.

    closed form      one sort, the gradient by formula
    20 iterations    coordinate descent, epsilon from 4 times 0.7 per step; the gradient by autograd through all of them

At the published width of the inner layer (6B: D = 16384, k = 6656, 56 layers) and epsilon = 0.3, on standard normal logits in float32.
Exactness: how far the sum is from k, worst row, and the largest distance of a weight from the closed form in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from orchard import timing
from orchard.config import REQUIRED
from orchard.papers.ifpruning.softtopk import soft_top_k, soft_top_k_iterative
from orchard.runs import Run, Runner, Setting, Workspace
from orchard.train import choose

EPSILON, ITERATIONS = 0.3, 20


@dataclass(frozen=True)
class Sizes:
    """What is measured: examples of a batch, and how often."""

    batch: int
    rounds: int
    layers: int = 56
    width: int = 16384
    k: int = 6656


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(batch=1, rounds=5), "gpu": Sizes(batch=8, rounds=30), "paper": Sizes(batch=8, rounds=30),
}  # fmt: skip
BENCH = Sizes(batch=8, rounds=5)  # of `orchard bench ifpruning`


def measured(sizes: Sizes, device: str, seed: int = 0) -> list[dict[str, Any]]:
    """Rows form, round, seconds (forward and backward), sum_error, weight_error."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.batch, sizes.layers, sizes.width)
    z = torch.randn(shape, generator=generator).to(device).requires_grad_()
    grad = torch.randn(shape, generator=generator).to(device)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "closed form": lambda z: soft_top_k(z, sizes.k, EPSILON),
        f"{ITERATIONS} iterations": lambda z: soft_top_k_iterative(z, sizes.k, EPSILON, ITERATIONS),
    }
    with torch.no_grad():
        exact = soft_top_k(z.double(), sizes.k, EPSILON)
        errors = {}
        for name, form in forms.items():
            weights = form(z).double()
            errors[name] = {
                "sum_error": float((weights.sum(dim=-1) - sizes.k).abs().max()),
                "weight_error": float((weights - exact).abs().max()),
            }
    steps: dict[str, timing.Step] = {name: _step(form, z, grad) for name, form in forms.items()}
    times = timing.interleaved(steps, sizes.rounds, device)
    return [
        {"form": name, "round": number, "seconds": seconds, **errors[name]}
        for name, taken in times.items()
        for number, seconds in enumerate(taken)
    ]


def _step(form: Callable[[Tensor], Tensor], z: Tensor, grad: Tensor) -> timing.Step:
    return lambda: torch.autograd.grad(form(z), z, grad)


class SoftTopKSpeed(Run):
    """Rows of :func:`measured`."""

    class Config(Run.Config):
        batch: int = REQUIRED
        rounds: int = REQUIRED
        layers: int = REQUIRED
        width: int = REQUIRED
        k: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Measure on the device of the run."""
        cfg = self.cfg
        hardware = choose(work.device)
        sizes = Sizes(cfg.batch, cfg.rounds, cfg.layers, cfg.width, cfg.k)
        return {"rows": measured(sizes, hardware.device), "hardware": str(hardware)}


def softtopk_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`measured` at the size of the profile."""
    sizes = SIZES[setting.profile]
    return pd.DataFrame(run([SoftTopKSpeed.Config(**asdict(sizes), label="speed of SoftTopK")])[0].result["rows"])


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """One row per form: median seconds, the median over rounds of its time over that of the closed form, and how exact it is."""
    wide = table.pivot(index="round", columns="form", values="seconds")
    errors = table.groupby("form", sort=False)[["sum_error", "weight_error"]].first()
    times = wide.div(wide["closed form"], axis=0).median()
    found = errors.assign(seconds=wide.median(), times=times)[["seconds", "times", "sum_error", "weight_error"]]
    return found.rename(columns={
        "times": "times the closed form", "sum_error": "sum - k, worst", "weight_error": "weight, worst error",
    }).reset_index()  # fmt: skip


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"softtopk_speed": softtopk_speed}
