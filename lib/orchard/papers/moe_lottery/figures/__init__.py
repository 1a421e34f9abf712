"""Figures of the MoE lottery series: a table in, a figure out."""

from orchard.papers.moe_lottery.figures.build import (
    EXAMPLES,
    counting,
    counting_table,
    mass,
    mass_table,
    router,
    router_table,
    routing,
    routing_table,
    savings,
    toy,
)
from orchard.papers.moe_lottery.figures.capabilities import (
    against_sparsity,
    ask,
    asked,
    beside_table_4,
    capability_grid,
    error_bars,
    recovery_bars,
    relative_drops,
)
from orchard.papers.moe_lottery.figures.checkpoint import agreement, by_hand, importance, importance_table, router_mass

__all__ = [
    "EXAMPLES",
    "against_sparsity",
    "agreement",
    "ask",
    "asked",
    "beside_table_4",
    "by_hand",
    "capability_grid",
    "counting",
    "counting_table",
    "error_bars",
    "importance",
    "importance_table",
    "mass",
    "mass_table",
    "recovery_bars",
    "relative_drops",
    "router",
    "router_mass",
    "router_table",
    "routing",
    "routing_table",
    "savings",
    "toy",
]
