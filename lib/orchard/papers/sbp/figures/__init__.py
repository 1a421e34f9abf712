"""Figures of the series: functions from a table to a Figure."""

from __future__ import annotations

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
from orchard.papers.sbp.figures.browser import browsed
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
    "browsed",
    "concept_divergence",
    "concept_drift",
    "concepts_of_seed",
    "consequences",
    "differences",
    "distances",
    "ends",
    "learning",
    "novelty_of_sources",
    "partner_scatter",
    "pooled",
    "quality_against_size",
    "quality_rates",
    "recovered",
    "recovery",
    "tuning",
]
