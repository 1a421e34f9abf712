"""Figures of the RATTENTION series: a table in, a figure out."""

from orchard.papers.rattention.figures.build import (
    coverage,
    coverage_table,
    feature_entropy,
    feature_map_table,
    norm_jump,
    norm_jump_table,
)
from orchard.papers.rattention.figures.efficiency import calculator, decode, step_bars, throughput, tiles, timing
from orchard.papers.rattention.figures.sweep import (
    ablation,
    claims_forest,
    effects,
    learning_curves,
    pareto,
    published_sweep,
    strata,
    strata_table,
    training_loss,
    tuning,
    window_sweep,
)

__all__ = [
    "ablation",
    "calculator",
    "claims_forest",
    "coverage",
    "coverage_table",
    "decode",
    "effects",
    "feature_entropy",
    "feature_map_table",
    "learning_curves",
    "norm_jump",
    "norm_jump_table",
    "pareto",
    "published_sweep",
    "step_bars",
    "strata",
    "strata_table",
    "throughput",
    "tiles",
    "timing",
    "training_loss",
    "tuning",
    "window_sweep",
]
