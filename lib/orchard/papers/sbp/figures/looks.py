"""How the arms of the series are drawn and what they are called, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure

from orchard import plot
from orchard.plot.style import INK, PALETTE

LOOKS: dict[str, plot.Look] = {
    "repetition": plot.Look(PALETTE[1], "s"),
    "oracle": plot.Look(PALETTE[2], "D"),
    "sbp-nn-lm": plot.Look(PALETTE[0], "o"),
    "sbp-nn-tfidf": plot.Look(PALETTE[9], "X"),
    "sbp-random": plot.Look(PALETTE[3], "v"),
    "sbp-true": plot.Look(PALETTE[4], "^"),
    "sbp-unrelated": plot.Look(PALETTE[7], ">"),
    "uncond": plot.Look(PALETTE[5], "P"),
    "paraphrase": plot.Look(PALETTE[8], "*"),
    "icp": plot.Look(PALETTE[6], "<"),
    "exact-posterior": plot.Look(INK, "h"),
}
WORDS = {
    "repetition": "D repeated", "oracle": "oracle: fresh documents", "sbp-nn-lm": "SBP", "sbp-nn-tfidf": "SBP, TF-IDF neighbours",
    "sbp-random": "random pairs", "sbp-true": "true pairs", "sbp-unrelated": "pairs that share nothing",
    "uncond": "samples without a seed", "paraphrase": "noisy copies of seeds",
    "icp": "neighbours in one context", "exact-posterior": "samples of the exact law", "exact": "exact law",
    "distilled": "distilled from the ensemble",
}  # fmt: skip
WORLDS = {
    "dep": "documents share concepts", "indep": "no shared information", "near-dup": "some near copies", "hier": "topics and subtopics",
    "facts": "facts",
}  # fmt: skip


def looks(arms: Iterable[str]) -> dict[str, plot.Look]:
    """A look for each arm."""
    return plot.looks(arms, LOOKS)


def words(arm: str) -> str:
    """What an arm is called; other names stay."""
    return WORDS.get(arm, arm)


def titled(figure: Figure, title: str) -> Figure:
    """The figure with one line that says what is seen, and arms in words wherever a legend names them."""
    for legend in [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]:
        for text in legend.get_texts():
            text.set_text(words(text.get_text()))
    figure.suptitle(f"\n{title}", x=0.01, ha="left", fontsize=7, fontweight="bold")  # the first line is for the profile
    return figure
