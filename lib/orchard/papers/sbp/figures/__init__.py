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

__all__ = [
    "cloze_accuracy",
    "concept_world",
    "document_bounds",
    "near_duplicates",
    "pair_gain",
    "precision_recall",
    "similarity",
    "world_tables",
]
