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

__all__ = [
    "EXAMPLES",
    "counting",
    "counting_table",
    "mass",
    "mass_table",
    "router",
    "router_table",
    "routing",
    "routing_table",
    "savings",
    "toy",
]
