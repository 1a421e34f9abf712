"""What is asked: the tables by name, the evidence of each claim, and the sizes of the profiles.

A table is a function of a setting and a runner; it runs what the store lacks. Evidence has the columns part, seed, unit and value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from orchard.evidence import Evidence, exact
from orchard.papers.rattention.experiments import ablations, checks, long_context, speed, window_sweep
from orchard.papers.rattention.experiments.profiles import PROFILES
from orchard.papers.rattention.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["EVIDENCE", "EXPERIMENTS", "LAUNCH", "PROFILES", "paper_shapes"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "exact_checks": checks.exact_checks,
    "published": checks.published,
    "paper_shapes": checks.published_shapes,
    "tuning": window_sweep.tuning,
    "training": window_sweep.training,
    "training_facts": partial(window_sweep.window_sweep, main=True),
    "training_units": partial(window_sweep.window_sweep_units, main=True),
    "window_sweep": window_sweep.window_sweep,
    "window_sweep_units": window_sweep.window_sweep_units,
    "ablation": ablations.ablation,
    "ablation_units": ablations.ablation_units,
    "state_drift": ablations.state_drift,
    "state_dtype_loss": ablations.state_dtype_loss,
    "ruler": long_context.ruler,
    "ruler_units": long_context.ruler_units,
    "ruler_curves": long_context.ruler_curves,
    "throughput": speed.throughput,
    "accuracy": speed.accuracy,
    "decode": speed.decode,
    "memory": speed.memory,
    "timing": speed.timing,
}

# A claim that is missing here is one whose experiment is not part of this series yet; its verdict says so.
EVIDENCE: dict[str, Evidence] = {
    **{id_: exact("exact_checks", claim=id_) for id_ in ("C1", "C2", "C3", "C4", "C4b", "C5", "C6", "C16", "C17")},
    "C7": partial(window_sweep.sweep_far, "swa"),
    "C7b": partial(window_sweep.sweep_far, "swa_mem"),
    "C8": window_sweep.against_full,
    "C9": partial(long_context.against, ("full_rope", "full_rnope", "swa@{half}")),
    "C10": partial(long_context.against, ("swa@{eighth}", "swa_mem@{eighth}")),
    "C11": long_context.smaller_windows,
    "C12": partial(ablations.ablated, ("identity",)),
    "C13": partial(ablations.ablated, ("−SWA", "−norm", "head split")),
    "C14": speed.step_ratios,
    "C15": speed.tile_gain,
}

LAUNCH = "orchard run rattention --profile paper --device cuda   (one arm after the other on one accelerator)"
