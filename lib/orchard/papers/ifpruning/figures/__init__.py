"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.comparison import arm_differences, arm_scores, domain_scores, gain_explained
from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling
from orchard.papers.ifpruning.figures.serving import batch_width, cache_curves, latency_ratios, task_masks
from orchard.papers.ifpruning.figures.stdlib10 import example_text, prompt_lengths
from orchard.papers.ifpruning.figures.training import collapse_gauge, mask_map, stage_curves, swapped_masks

__all__ = [
    "arm_differences",
    "arm_scores",
    "batch_width",
    "cache_curves",
    "collapse_gauge",
    "domain_scores",
    "example_text",
    "gain_explained",
    "latency_bars",
    "latency_ratios",
    "mask_map",
    "overlap_maps",
    "prompt_lengths",
    "recovery_bars",
    "source_scaling",
    "stage_curves",
    "swapped_masks",
    "task_masks",
]
