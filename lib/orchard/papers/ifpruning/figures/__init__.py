"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling
from orchard.papers.ifpruning.figures.stdlib10 import example_text, prompt_lengths

__all__ = ["example_text", "latency_bars", "overlap_maps", "prompt_lengths", "recovery_bars", "source_scaling"]
