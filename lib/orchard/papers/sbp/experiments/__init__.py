"""The register of the series: experiments and evidence by name, profiles, published shapes, and the command for a corpus of your own.

An experiment gives a tidy table in a setting, running what the store lacks. Evidence gives rows with part, seed, unit and value from
such tables; its rules lie beside the experiments that they judge.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from orchard.evidence import Evidence, exact
from orchard.papers.sbp.experiments import (
    ablations,
    bounds,
    checks,
    comparison,
    concepts,
    costs,
    gates,
    pairs,
    partners,
    quality,
    real_text,
    regularisation,
    rounds,
    scaling,
    speed,
)
from orchard.papers.sbp.experiments.arms import UNRELATED
from orchard.papers.sbp.experiments.profiles import PROFILES, scale
from orchard.papers.sbp.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["CONTROLS", "EVIDENCE", "EXPERIMENTS", "GATES", "LAUNCH", "PROFILES", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "published": checks.published, "paper_shapes": checks.published_shapes, "invariants": checks.invariants,
    "tuning": regularisation.tuning, "curves": comparison.curves, "documents": comparison.documents,
    "ledger": comparison.ledger, "stages": comparison.stages,
    "degrees": pairs.degrees, "similarity": pairs.similarity, "thresholds": pairs.thresholds, "paired": pairs.paired,
    "near_duplicates": pairs.near_duplicates,
    "sampling_speed": speed.sampling_speed,
    "bounds": bounds.bounds, "information": bounds.information, "cloze": bounds.cloze,
    "quality": quality.quality, "rejections": quality.rejections, "novelty": quality.novelty,
    "quality_by_size": quality.quality_by_size,
    "partners": partners.partners_table, "consequences": partners.consequences,
    "concept_law": concepts.concept_law, "drift": concepts.drift,
    "ablations": ablations.ablations, "dose_response": ablations.dose_response, "share_sweep": ablations.share_sweep,
    "ensembles": ablations.ensembles,
    "costs": costs.costs, "flop_matched": costs.flop_matched,
    "rounds": rounds.rounds, "scaling": scaling.scaling, "learnable": scaling.learnable,
    "real_text_tuning": real_text.regularisation, "real_text": real_text.real_text, "real_text_curves": real_text.real_text_curves,
    "real_text_pairs": real_text.real_text_pairs, "real_text_gap": real_text.real_text_gap,
    "real_text_novelty": real_text.real_text_novelty, "real_text_samples": real_text.real_text_samples,
}  # fmt: skip
EVIDENCE: dict[str, Evidence] = {
    "K1": partial(comparison.gap, second="repetition"), "K2": comparison.recovered, "K3": comparison.pair_information,
    "K3b": partial(comparison.gap, second="sbp-random", variant="indep"), "K4": partners.uses_seed,
    "K4b": partners.not_below_exact, "K5": concepts.follows_posterior, "K6": comparison.crossing, "K7": quality.few_copies,
    "K8": quality.better_with_size, "K9": ablations.interior_share, "K10": costs.beats_with_equal_flops,
    "K11": exact("invariants"),
}  # fmt: skip
CONTROLS: dict[str, Evidence] = {  # what lacks the claimed cause, under the same rule
    "K1": partial(comparison.gap, second="repetition", variant="indep"), "K2": partial(comparison.recovered, variant="indep"),
    "K3": partial(comparison.pair_information, first="uncond"), "K3b": partial(comparison.gap, second="sbp-random"),
    "K4": partial(partners.uses_seed, arm=UNRELATED), "K4b": partners.below_alone,
    "K5": partial(concepts.follows_posterior, arm=UNRELATED), "K6": partial(comparison.crossing, variant="indep"),
    "K7": partial(quality.few_copies, source=quality.COPIED), "K8": partial(quality.better_with_size, column="real"),
    "K9": partial(ablations.interior_share, arm="exact-posterior"), "K10": partial(costs.beats_with_equal_flops, first="sbp-random"),
}  # fmt: skip
COMPETENT = gates.all_of(gates.can_write(), gates.tuned_inside("repetition", "oracle", "sbp-nn-lm"), gates.oracle_gains)
GATES: dict[str, gates.Gate] = {
    "K1": COMPETENT, "K2": COMPETENT, "K3": gates.all_of(gates.can_write(), gates.no_worse), "K3b": gates.can_write("indep"),
    "K4": gates.can_write(), "K4b": gates.can_write(), "K5": gates.can_write(), "K6": gates.all_of(COMPETENT, gates.seen_early),
    "K7": gates.can_write(), "K8": gates.spread, "K9": gates.both_write, "K10": COMPETENT,
}  # fmt: skip
LAUNCH = "orchard sbp run TEXT OUT   (pair, tune, synthesise, filter and mix on a corpus of your own)"
