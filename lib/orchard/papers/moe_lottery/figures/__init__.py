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

__all__ = [
    "EXAMPLES",
    "against_sparsity",
    "ask",
    "asked",
    "beside_table_4",
    "capability_grid",
    "counting",
    "counting_table",
    "error_bars",
    "mass",
    "mass_table",
    "recovery_bars",
    "relative_drops",
    "router",
    "router_table",
    "routing",
    "routing_table",
    "savings",
    "toy",
]
