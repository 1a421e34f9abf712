"""How the arms of the series are drawn, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable

from orchard import plot
from orchard.plot.style import INK, PALETTE

LOOKS: dict[str, plot.Look] = {
    "repetition": plot.Look(PALETTE[1], "s"),
    "oracle": plot.Look(PALETTE[2], "D"),
    "sbp-nn-lm": plot.Look(PALETTE[0], "o"),
    "sbp-nn-tfidf": plot.Look(PALETTE[9], "X"),
    "sbp-random": plot.Look(PALETTE[3], "v"),
    "sbp-true": plot.Look(PALETTE[4], "^"),
    "uncond": plot.Look(PALETTE[5], "P"),
    "paraphrase": plot.Look(PALETTE[8], "*"),
    "icp": plot.Look(PALETTE[6], "<"),
    "exact-posterior": plot.Look(INK, "h"),
}


def looks(arms: Iterable[str]) -> dict[str, plot.Look]:
    """A look for each arm."""
    return plot.looks(arms, LOOKS)
