"""What is asked: the tables by name, the evidence of each claim, and the sizes of the profiles.

A table is a function of a setting and a runner; it runs what the store lacks. Evidence has the columns part, seed, unit and value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from orchard.evidence import Evidence, Tables, exact
from orchard.papers.rattention.experiments import ablations, checks, long_context, recall, speed, window_sweep
from orchard.papers.rattention.experiments.profiles import PROFILES, model, tuning_table
from orchard.papers.rattention.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["CONTROLS", "EVIDENCE", "EXPERIMENTS", "GATES", "LAUNCH", "PROFILES", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "exact_checks": checks.exact_checks,
    "published": checks.published,
    "paper_shapes": checks.published_shapes,
    "tuning": lambda setting, run: tuning_table(window_sweep.rates(setting, run)),
    "training": window_sweep.training,
    "training_facts": partial(window_sweep.window_sweep, main=True),
    "training_units": partial(window_sweep.window_sweep_units, main=True),
    "window_sweep": window_sweep.window_sweep,
    "window_sweep_units": window_sweep.window_sweep_units,
    "recall_units": recall.recall_units,
    "recall_decisive": recall.decisive,
    "recall_curves": recall.recall_curves,
    "recall_tuning": lambda setting, run: tuning_table(recall.rates(setting, run)),
    "ablation": ablations.ablation,
    "ablation_units": ablations.ablation_units,
    "ablation_curves": ablations.ablation_curves,
    "ablation_tuning": lambda setting, run: tuning_table(ablations.rates(setting, run), "variant"),
    "state_drift": ablations.state_drift,
    "state_dtype_loss": ablations.state_dtype_loss,
    "ruler": long_context.ruler,
    "ruler_units": long_context.ruler_units,
    "ruler_curves": long_context.ruler_curves,
    "ruler_tuning": lambda setting, run: tuning_table(long_context.rates(setting, run)),
    "throughput": speed.throughput,
    "accuracy": speed.accuracy,
    "decode": speed.decode,
    "memory": speed.memory,
    "timing": speed.timing,
}

OTHERS, SMALL = ("full_rope", "full_rnope", "swa@{half}"), ("swa@{eighth}", "swa_mem@{eighth}")  # of C9 and C10
MAPS, PARTS = ("identity",), ("−SWA", "−norm", "head split")  # of C12 and C13

# A claim that is missing here is one that no experiment of this series measures; its verdict says so.
EVIDENCE: dict[str, Evidence] = {
    **{id_: exact("exact_checks", claim=id_) for id_ in ("C1", "C2", "C3", "C4", "C4b", "C5", "C6", "C16", "C17")},
    "C7": partial(window_sweep.sweep_clue, "swa", window_sweep.far),
    "C7b": partial(window_sweep.sweep_clue, "swa_mem", window_sweep.far),
    "C7r": partial(recall.recalled, "swa"),
    "C7br": partial(recall.recalled, "swa_mem"),
    "C8": partial(window_sweep.against_full, "rattn"),
    "C9": partial(long_context.against, OTHERS),
    "C10": partial(long_context.against, SMALL),
    "C11": long_context.smaller_windows,
    "C12": partial(ablations.ablated, MAPS),
    "C13": partial(ablations.ablated, PARTS),
    "C14": speed.step_ratios,
    "C15": speed.tile_gain,
}

GATES: dict[str, Callable[[Tables], tuple[bool, str]]] = {
    **dict.fromkeys(("C7", "C7b"), window_sweep.something_to_recall),
    "C7r": partial(recall.task_is_learned, "swa"),
    "C7br": partial(recall.task_is_learned, "swa_mem"),
    "C8": window_sweep.full_has_learned,
    "C9": partial(
        long_context.learned, dict.fromkeys(("full_rope", "full_rnope", "rattn@{eighth}"), long_context.LEARNED)
    ),
    "C10": partial(long_context.learned, {"rattn@{eighth}": long_context.LEARNED, "swa@{eighth}": long_context.BEGUN}),
    "C11": partial(long_context.learned, {"rattn": long_context.LEARNED}),
    "C12": partial(ablations.base_has_learned, MAPS),
    "C13": partial(ablations.base_has_learned, PARTS),
    "C14": speed.quiet_gpu,
    "C15": speed.pairs_on_gpu,
}

# Evidence in which the claimed cause is absent, under the rule of its claim.
CONTROLS: dict[str, Evidence] = {
    "C7": partial(window_sweep.sweep_clue, "swa", window_sweep.near),
    "C7b": partial(window_sweep.sweep_clue, "swa_mem", window_sweep.near),
    "C7r": partial(recall.recalled, "swa", pattern=recall.ALSO_GLOBAL),
    "C7br": partial(recall.recalled, "swa_mem", pattern=recall.ALSO_GLOBAL),
    "C8": partial(window_sweep.against_full, "swa"),
    "C9": partial(long_context.against, OTHERS, multiple=1),
    "C10": partial(long_context.against, SMALL, instead="swa@{half}"),
    "C11": partial(long_context.smaller_windows, multiples=(1, 1)),
    "C12": partial(ablations.ablated, MAPS, instead="placebo"),
    "C13": partial(ablations.ablated, PARTS, instead="placebo"),
    "C14": partial(speed.step_ratios, ours="full_rope"),
    "C15": speed.base_against_itself,
}


def scale(profile: str) -> str:
    """The size of a profile's models in a few words."""
    size = PROFILES[profile]
    with torch.device("meta"):
        parameters = model("full_rope", size).build().num_parameters(embedding=False)
    counts = sorted({len(size.seeds), len(size.main_seeds or size.seeds)})
    return f"{parameters / 1e6:.2g} M parameters, {' to '.join(map(str, counts))} seeds an arm"


LAUNCH = "orchard run rattention --profile paper --device cuda   (one arm after the other on one accelerator)"
