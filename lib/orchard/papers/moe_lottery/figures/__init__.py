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
from orchard.papers.moe_lottery.figures.checkpoint import agreement, by_hand, importance, importance_table, router_mass

__all__ = [
    "EXAMPLES",
    "agreement",
    "by_hand",
    "counting",
    "counting_table",
    "importance",
    "importance_table",
    "mass",
    "mass_table",
    "router",
    "router_mass",
    "router_table",
    "routing",
    "routing_table",
    "savings",
    "toy",
]
