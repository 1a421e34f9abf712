"""Figures of the series: functions from a table to a Figure."""

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
from orchard.papers.sbp.figures.pairing import hub_degrees, pair_precision, pairing_speed
from orchard.papers.sbp.figures.real_text import (
    paying,
    text_ends,
    text_learning,
    text_novelty,
    text_partners,
    text_relations,
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
    "cloze_accuracy",
    "concept_world",
    "differences",
    "document_bounds",
    "ends",
    "hub_degrees",
    "learning",
    "near_duplicates",
    "pair_gain",
    "pair_precision",
    "pairing_speed",
    "paying",
    "precision_recall",
    "recovered",
    "recovery",
    "similarity",
    "text_ends",
    "text_learning",
    "text_novelty",
    "text_partners",
    "text_relations",
    "tuning",
    "world_tables",
]
