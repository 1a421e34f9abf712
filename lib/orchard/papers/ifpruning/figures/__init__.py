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
from orchard.papers.ifpruning.figures.build import (
    initial_mass,
    iteration_sums,
    jacobian_map,
    jacobian_table,
    mass_table,
    weights,
    weights_table,
)
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
    "channel_use",
    "collapse_gauge",
    "consistency",
    "domain_scores",
    "example_text",
    "gain_explained",
    "gate_losses",
    "initial_mass",
    "iteration_sums",
    "jacobian_map",
    "jacobian_table",
    "latency_bars",
    "latency_ratios",
    "mask_map",
    "mass_table",
    "one_change_dots",
    "overlap_maps",
    "paired_effects",
    "phase_maps",
    "prefix_overlap",
    "prompt_lengths",
    "recovery_bars",
    "source_scaling",
    "spread_lines",
    "stage_curves",
    "swapped_masks",
    "task_masks",
    "weights",
    "weights_table",
]
