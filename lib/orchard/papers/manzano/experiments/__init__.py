"""The register of the series: experiments and evidence by name, gates and controls, profiles, published shapes, the command for pictures
of your own.

An experiment gives a tidy table in a setting, running what the store lacks. Evidence gives rows with part, seed, unit and value from
such tables; its rules lie beside the experiments that they judge.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from orchard.evidence import Evidence, exact
from orchard.papers.manzano.experiments import checks, density, editing, recipe, scaling, single_task, speed, strategies
from orchard.papers.manzano.experiments.gates import GATES
from orchard.papers.manzano.experiments.profiles import PROFILES, scale
from orchard.papers.manzano.runs.shapes import paper_shapes
from orchard.papers.manzano.runs.tokenizer import SHUFFLED
from orchard.runs import Runner, Setting

__all__ = ["CONTROLS", "EVIDENCE", "EXPERIMENTS", "GATES", "LAUNCH", "PROFILES", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "tokenizers": recipe.tokenizers, "ceilings": recipe.ceilings, "code_use": recipe.code_use,
    "published": checks.published, "contradictions": checks.contradictions, "published_shapes": checks.published_shapes,
    "checks": checks.checks, "speed": speed.speed,
    "rates": strategies.rates, "strategies": strategies.strategies, "conflict": strategies.conflict, "adapters": strategies.adapters,
    "adapter_training": strategies.adapter_training,
    "density": density.density, "density_tokenizers": density.density_tokenizers, "single_task": single_task.single_task,
    "scaling": scaling.scaling, "decoder_scaling": scaling.decoder_scaling,
    "edits": editing.edits, "edit_gallery": editing.edit_gallery, "edit_reader": editing.edit_reader,
    "curves": recipe.curves, "mixture": recipe.mixture, "gallery": recipe.gallery,
}  # fmt: skip
READING = strategies.GROUPS
text, every_group, drawn = (partial(strategies.ahead, metrics=of) for of in (("text-rich",), READING, (strategies.DRAWN,)))  # fmt: skip
EVIDENCE: dict[str, Evidence] = {
    "M1a": text, "M1b": partial(every_group, second="dual_encoder"), "M2": strategies.more_on_text, "M2c": density.grows,
    "M2b": partial(strategies.adapters_apart, first="bottleneck", second="posthoc"),
    "R1": partial(strategies.adapters_apart, first="hybrid", second="posthoc"),
    "M3a": drawn, "M3b": partial(drawn, second="dual_encoder", ratio=True), "M11": partial(drawn, second="dual_semantic", ratio=True),
    "M4": single_task.not_worse, "M5": scaling.grows, "M6": partial(scaling.decoder_gain, metric=scaling.STRUCTURE),
    "M6b": partial(scaling.decoder_gain, metric=strategies.DRAWN), "M9": editing.both_needed,
    "M10": exact("checks", claim="M10"), "S1": exact("checks", claim="S1"), "S2": exact("checks", claim="S2"), "S3": checks.unchanged,
    "S4": exact("checks", claim="S4"), "S5": exact("checks", claim="S5"), "S6": exact("checks", claim="S6"),
    "S7": recipe.learned, "S7b": recipe.sees, "P1": checks.consistent,
}  # fmt: skip
CONTROLS: dict[str, Evidence] = {  # what lacks the claimed cause, under the same rule
    "M1a": partial(density.gap_at, k=1), "M1b": partial(every_group, first="quarter", second="dual_encoder"),
    "M2": partial(strategies.more_on_text, shown="_other"), "M2c": partial(density.grows, suffix="_other"),
    "M2b": partial(strategies.adapters_apart, first="bottleneck", second="posthoc", shown="another"),
    "R1": partial(strategies.adapters_apart, first="hybrid", second="posthoc", shown="another"),
    "M3a": partial(drawn, first="hybrid_shuffled"), "M3b": partial(drawn, first="hybrid_shuffled", second="dual_encoder", ratio=True),
    "M11": partial(drawn, first="hybrid_shuffled", second="dual_semantic", ratio=True),
    "M4": partial(single_task.not_worse, first="quarter"), "M5": partial(scaling.grows, arm="blind"),
    "M6": partial(scaling.decoder_gain, metric=scaling.STRUCTURE, largest="shuffled"),
    "M6b": partial(scaling.decoder_gain, metric=strategies.DRAWN, largest="shuffled"), "M9": partial(editing.both_needed, shuffled=True),
    "S3": partial(checks.unchanged, control=True), "S7": partial(recipe.learned, prefix=SHUFFLED),
}  # fmt: skip
LAUNCH = (
    "orchard manzano tokenizer train --images FOLDER --out NEW   "
    "(then: orchard manzano unify --backbone FOLDER --images FOLDER --out NEW)"
)
