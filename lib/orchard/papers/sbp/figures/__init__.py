"""Figures of the series: functions from a table to a Figure."""

from __future__ import (
    annotations,
)

from orchard.papers.sbp.figures.analysis import (
    concept_divergence,
    concept_drift,
    concepts_of_seed,
    consequences,
    distances,
    novelty_of_sources,
    partner_scatter,
    pooled,
    quality_against_size,
    quality_rates,
)
from orchard.papers.sbp.figures.browser import (
    browsed,
)
from orchard.papers.sbp.figures.build import (
    cloze_accuracy,
    concept_world,
    document_bounds,
    near_duplicates,
    pair_gain,
    precision_recall,
    similarity,
    world_tables,
)
from orchard.papers.sbp.figures.pairing import (
    hub_degrees,
    pair_precision,
    pairing_speed,
)
from orchard.papers.sbp.figures.sampling import (
    rejection_rates,
    sampling_speed,
)
from orchard.papers.sbp.figures.training import (
    against,
    differences,
    ends,
    learning,
    recovered,
    recovery,
    tuning,
)

__all__ = [
    "against",
    "annotations",
    "browsed",
    "cloze_accuracy",
    "concept_divergence",
    "concept_drift",
    "concept_world",
    "concepts_of_seed",
    "consequences",
    "differences",
    "distances",
    "document_bounds",
    "ends",
    "hub_degrees",
    "learning",
    "near_duplicates",
    "novelty_of_sources",
    "pair_gain",
    "pair_precision",
    "pairing_speed",
    "partner_scatter",
    "pooled",
    "precision_recall",
    "quality_against_size",
    "quality_rates",
    "recovered",
    "recovery",
    "rejection_rates",
    "sampling_speed",
    "similarity",
    "tuning",
    "world_tables",
]
