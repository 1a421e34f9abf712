"""Figures of the RATTENTION series: a table in, a figure out."""

from orchard.papers.rattention.figures.build import (
    coverage,
    coverage_table,
    feature_entropy,
    feature_map_table,
    norm_jump,
    norm_jump_table,
)
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
from orchard.papers.rattention.figures.use import completion, memory, next_token_table

__all__ = [
    "ablation",
    "claims_forest",
    "completion",
    "coverage",
    "coverage_table",
    "effects",
    "feature_entropy",
    "feature_map_table",
    "learning_curves",
    "memory",
    "next_token_table",
    "norm_jump",
    "norm_jump_table",
    "pareto",
    "published_sweep",
    "strata",
    "strata_table",
    "training_loss",
    "tuning",
    "window_sweep",
]
