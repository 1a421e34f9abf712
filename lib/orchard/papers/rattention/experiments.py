"""The experiments of the RATTENTION series by name: each gives a tidy table in a setting, running what the store lacks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch

from orchard.papers.rattention import ablations, checks, efficiency, long_context, sweep
from orchard.papers.rattention.ablations import VARIANTS, variant
from orchard.papers.rattention.arms import paper_model
from orchard.papers.rattention.profiles import PROFILES, Profile, model, run_config
from orchard.paths import root
from orchard.runs import Runner, Setting, tabulated, tabulation

__all__ = ["EXPERIMENTS", "LAUNCH", "PROFILES", "VARIANTS", "Profile", "model", "paper_shapes", "run_config", "variant"]

BYTES = 2  # per element of a bf16 cache


def exact_checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Deterministic checks of the method and closed forms, independent of profile and data: claim, part, seed, unit, value."""
    tables = [root() / "papers" / "rattention" / "published.csv"]
    return tabulated(
        run, tabulation(checks.exact_checks, "exact checks", tables), tabulation(checks.kernel_checks, "exact checks of the kernels")
    )  # fmt: skip


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per published size and arm: parameters, FLOPs per token, cache, training FLOPs."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return checks.published()


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "exact_checks": exact_checks,
    "published": published,
    "paper_shapes": published_shapes,
    "tuning": sweep.tuning,
    "training": sweep.training,
    "training_facts": sweep.training_facts,
    "training_units": sweep.training_units,
    "window_sweep": sweep.window_sweep,
    "window_sweep_units": sweep.window_sweep_units,
    "ablation": ablations.ablation,
    "ablation_units": ablations.ablation_units,
    "state_drift": ablations.state_drift,
    "state_dtype_loss": ablations.state_dtype_loss,
    **long_context.EXPERIMENTS,
    **efficiency.EXPERIMENTS,
}


def paper_shapes() -> pd.DataFrame:
    """The published models on the meta device: parameters, forward FLOPs per token, cache bytes, and how to launch them."""
    rows = []
    for size in ("3B", "12B"):
        for name in ("full_rope", "swa@2048", "rattn@512"):
            with torch.device("meta"):
                decoder = paper_model(size, name).build()
            rows.append({
                "model": size, "arm": name,
                "parameters": decoder.num_parameters(embedding=False),
                "matmul parameters": decoder.num_parameters(embedding=False, norms=False),
                "GFLOPs per token at 4k": decoder.flops_per_token(4096) / 1e9,
                "KV MiB at 4k": decoder.cache_bytes(4096, BYTES) / 2**20,
                "KV MiB at 32k": decoder.cache_bytes(32768, BYTES) / 2**20,
                "training FLOPs": 3 * decoder.flops_per_token(4096) * {"3B": 400e9, "12B": 600e9}[size],
            })  # fmt: skip
    return pd.DataFrame(rows)


LAUNCH = "orchard run rattention --profile paper --device cuda   (one arm after the other on one accelerator)"
