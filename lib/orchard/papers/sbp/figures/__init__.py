"""Figures of the series: functions from a table to a Figure."""

from orchard.papers.sbp.figures.training import (
    against,
    differences,
    ends,
    learning,
    recovered,
    recovery,
    tuning,
)

__all__ = ["against", "differences", "ends", "learning", "recovered", "recovery", "tuning"]
