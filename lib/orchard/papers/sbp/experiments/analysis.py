"""What the analyses of notebook 03 have in common: which arms have synthetic documents, and which cells are analysed."""

from __future__ import annotations

from orchard.papers.sbp.experiments.arms import ARMS, REFERENCES, Study
from orchard.papers.sbp.experiments.comparison import arms_of
from orchard.papers.sbp.experiments.profiles import Cell
from orchard.runs import Setting

SYNTHETIC = tuple(arm for arm in ARMS if arm not in (*REFERENCES, "icp"))
EXACT = "exact"  # the world's own law, beside the arms


def synthetic_arms(setting: Setting, cell: Cell) -> list[str]:
    """The arms of the comparison in a cell that have a synthetic corpus."""
    return [arm for arm in SYNTHETIC if arm in arms_of(setting, cell)]


def analysed(found: list[tuple[Cell, Study]]) -> list[tuple[Cell, Study]]:
    """Every cell of `dep`, about which the claims are, and the first one of every other variant, for comparison."""
    first: dict[str, Cell] = {}
    for cell, _ in found:
        first.setdefault(cell.variant, cell)
    return [row for row in found if row[0].variant == "dep" or row[0] == first[row[0].variant]]
