"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.ablation import (
    channel_use,
    consistency,
    gate_losses,
    one_change_dots,
    paired_effects,
    phase_maps,
    prefix_overlap,
    spread_lines,
)
from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling

__all__ = [
    "channel_use",
    "consistency",
    "gate_losses",
    "latency_bars",
    "one_change_dots",
    "overlap_maps",
    "paired_effects",
    "phase_maps",
    "prefix_overlap",
    "recovery_bars",
    "source_scaling",
    "spread_lines",
]
