"""The register: every experiment by name, the evidence of every claim, the profiles, the published sizes, how to begin at scale.

An experiment gives a tidy table in a setting and runs what the store lacks; the evidence of a claim is read from such tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from orchard.evidence import Evidence
from orchard.papers.ifpruning.experiments import ablations, checks, comparison, explanation, real_text, serving, speed
from orchard.papers.ifpruning.experiments.arms import rates
from orchard.papers.ifpruning.experiments.gates import CONTROLS, GATES
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Profile
from orchard.papers.ifpruning.method.models import decoder
from orchard.papers.ifpruning.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["CONTROLS", "EVIDENCE", "EXPERIMENTS", "GATES", "LAUNCH", "PROFILES", "Profile", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "published": checks.paper_numbers, "published_latency": checks.paper_latency, "paper_shapes": checks.published_shapes,
    "rates": rates, "arms": comparison.arms, "answers": comparison.answers, "curves": comparison.curves,
    "null_curves": partial(comparison.curves, variant="null"),
    "mask_overlaps": comparison.mask_overlaps, "softtopk_checks": checks.softtopk_checks, "pruning_checks": checks.pruning_checks,
    "iterations": checks.iterations, "softtopk_speed": speed.softtopk_speed, "latency": speed.latency,
    "serving_replay": serving.serving_replay, "batches": serving.batches, "per_task": serving.per_task,
    "initial_spread": ablations.initial_spread, "one_change": ablations.one_change,
    "phase": ablations.phase, "source_sizes": ablations.source_sizes, "shared_prefixes": ablations.shared_prefixes,
    "scores": explanation.scores, "differences": explanation.differences, "explained": explanation.explained,
    "collapse": explanation.collapse, "swaps": explanation.swaps, "prompt_pairs": explanation.prompt_pairs,
    "stdlib10": real_text.stdlib10, "stdlib10_summary": real_text.stdlib10_summary,
    "instructions": real_text.instructions, "instructions_summary": real_text.instructions_summary,
}  # fmt: skip

EVIDENCE: dict[str, Evidence] = {
    "V1": checks.v1, "V1b": checks.v1b, "V2": checks.v2, "V3": checks.v3, "V4": checks.v4, "V5": checks.v5,
    "C1": comparison.beats_dense, "C1s": comparison.beats_dense_by_seed, "C1f": comparison.beats_longer,
    "C1n": comparison.nothing_to_gain, "C2": comparison.beats_static, "C2s": comparison.learned_selection, "C3": comparison.recovery,
    "C4": ablations.grows_with_source, "C5": comparison.per_task, "C6a": comparison.structure, "C6a2": comparison.above_chance,
    "C6b": comparison.early_layers_agree, "C6c": comparison.not_collapsed, "C6d": comparison.masks_matter,
    "C7": speed.overhead_is_small, "C7b": speed.decodes_like_dense, "C8": comparison.pretraining_matters,
    "C9": speed.mixture_decodes_slowly, "C10": comparison.gates_agree, "C11": ablations.consistency,
    "C11b": ablations.consistency_by_chance,
}  # fmt: skip


def scale(profile: str) -> str:
    """The size of what is pruned at a profile, in words; parameters are those beside embeddings."""
    chosen = PROFILES[profile]
    with torch.device("meta"):
        small, large = (decoder(chosen.size, width, 1).build() for width in (chosen.size.keep, chosen.size.width))
    active, whole = (model.num_parameters(embedding=False) / 1e6 for model in (small, large))
    return f"{active:.2g} of {whole:.2g} M parameters, {chosen.corpus.num_keys} keys, {len(chosen.seeds)} models"


LAUNCH = "orchard ifpruning train MODEL DATA OUT --predictor FOLDER --keep K   (a predictor and masks for a decoder of transformers)"
