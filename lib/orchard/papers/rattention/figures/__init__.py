"""Figures of the RATTENTION series: a table in, a figure out."""

from orchard.papers.rattention.figures.ablation import (
    ablation,
    beside_paper,
    by_stratum,
    compare,
    effects,
    global_ratio,
    reading,
    reading_table,
    state_drift,
)
from orchard.papers.rattention.figures.build import (
    coverage,
    coverage_table,
    feature_entropy,
    feature_map_table,
    norm_jump,
    norm_jump_table,
)
from orchard.papers.rattention.figures.sweep import (
    claims_forest,
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
    "beside_paper",
    "by_stratum",
    "claims_forest",
    "compare",
    "coverage",
    "coverage_table",
    "effects",
    "feature_entropy",
    "feature_map_table",
    "global_ratio",
    "learning_curves",
    "norm_jump",
    "norm_jump_table",
    "pareto",
    "published_sweep",
    "reading",
    "reading_table",
    "state_drift",
    "strata",
    "strata_table",
    "training_loss",
    "tuning",
    "window_sweep",
]
