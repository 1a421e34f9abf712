"""Figures of the series: functions from a table to a Figure."""

from orchard.papers.sbp.figures.pairing import hub_degrees, pair_precision, pairing_speed
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
    "differences",
    "ends",
    "hub_degrees",
    "learning",
    "pair_precision",
    "pairing_speed",
    "recovered",
    "recovery",
    "tuning",
]
