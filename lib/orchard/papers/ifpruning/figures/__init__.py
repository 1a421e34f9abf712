"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling
from orchard.papers.ifpruning.figures.serving import batch_width, cache_curves, latency_ratios, task_masks
from orchard.papers.ifpruning.figures.stdlib10 import example_text, prompt_lengths

__all__ = [
    "batch_width",
    "cache_curves",
    "example_text",
    "latency_bars",
    "latency_ratios",
    "overlap_maps",
    "prompt_lengths",
    "recovery_bars",
    "source_scaling",
    "task_masks",
]
