"""What the analyses of notebook 03 have in common: their sizes, and which arms have synthetic documents."""

from __future__ import annotations

from dataclasses import dataclass

from orchard.papers.sbp.experiments.arms import ARMS, REFERENCES, Study
from orchard.papers.sbp.experiments.comparison import arms_of
from orchard.papers.sbp.experiments.profiles import Cell
from orchard.papers.sbp.method.models import Size
from orchard.runs import Setting

SYNTHETIC = tuple(arm for arm in ARMS if arm not in (*REFERENCES, "icp"))
EXACT = "exact"  # the world's own law, beside the arms


@dataclass(frozen=True)
class Sizes:
    """Sizes of the analyses in a profile."""

    documents: int  # of a synthetic corpus, measured at most
    duplicates_at: int  # K of duplicate@K
    distances: int  # documents of each kind whose cosines are taken, at most
    partners: int  # held-out documents with a partner, at most
    seeds: int  # seed documents of the concept laws
    each: int  # samples from each of them
    smaller: tuple[Size, ...]  # of synthesizers beside the profile's own
    shares: tuple[float, ...]  # of the tuning steps, at the profile's own size
    size_cells: int  # cells of `dep` in which sizes are compared
    size_samples: int  # documents from each size


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        documents=2048, duplicates_at=1024, distances=512, partners=250, seeds=12, each=64,
        smaller=(), shares=(1 / 6, 1 / 3, 2 / 3, 1.0), size_cells=1, size_samples=384,
    ),
    "gpu": Sizes(
        documents=4_096, duplicates_at=4_096, distances=4_096, partners=2_000, seeds=64, each=64,
        smaller=(Size(128, 4, 2, 2, 344), Size(192, 6, 3, 3, 512)), shares=(0.1, 0.25, 0.5, 1.0), size_cells=3, size_samples=4_096,
    ),
    "paper": Sizes(
        documents=1_000_000, duplicates_at=1_000_000, distances=4_096, partners=2_000, seeds=64, each=64,
        smaller=(), shares=(1.0,), size_cells=1, size_samples=4_096,
    ),
}  # fmt: skip


def synthetic_arms(setting: Setting, cell: Cell) -> list[str]:
    """The arms of the comparison in a cell that have a synthetic corpus."""
    return [arm for arm in SYNTHETIC if arm in arms_of(setting, cell)]


def analysed(found: list[tuple[Cell, Study]]) -> list[tuple[Cell, Study]]:
    """Every cell of `dep`, about which the claims are, and the first one of every other variant, for comparison."""
    first: dict[str, Cell] = {}
    for cell, _ in found:
        first.setdefault(cell.variant, cell)
    return [row for row in found if row[0].variant == "dep" or row[0] == first[row[0].variant]]
