"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling

__all__ = ["latency_bars", "overlap_maps", "recovery_bars", "source_scaling"]
