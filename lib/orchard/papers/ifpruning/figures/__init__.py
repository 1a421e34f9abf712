"""The figures of the series: a table in, a Figure out."""

from __future__ import annotations

from orchard.papers.ifpruning.figures.build import (
    initial_mass,
    iteration_sums,
    jacobian_map,
    jacobian_table,
    mass_table,
    weights,
    weights_table,
)
from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling
from orchard.papers.ifpruning.figures.stdlib10 import example_text, prompt_lengths

__all__ = [
    "example_text",
    "initial_mass",
    "iteration_sums",
    "jacobian_map",
    "jacobian_table",
    "latency_bars",
    "mass_table",
    "overlap_maps",
    "prompt_lengths",
    "recovery_bars",
    "source_scaling",
    "weights",
    "weights_table",
]
