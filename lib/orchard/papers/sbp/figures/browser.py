"""Figure of the browser from a seed to its samples: tokens, what they share with the seed, and the concepts that they imply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from orchard import plot
from orchard.plot.style import INK, PALETTE

LINE, LINES = 14, 3  # tokens in a line, lines of a document that are shown
SHOWN = 3  # concepts with a colour of their own: those that the seed may have
ROW = 0.17  # inches of a line of tokens, and of the line above them
OTHER, MARKED = "#c8c8c8", "#ffe08a"


@dataclass(frozen=True)
class Row:
    """A document: its tokens as words, which of them the seed has too, and P(c | d) (NaN: impossible)."""

    words: Sequence[str]
    marked: Bool[np.ndarray, "_"] | None
    law: Float64[np.ndarray, "concepts"]


@dataclass(frozen=True)
class Page:
    """A seed and its samples; ``same``: P(same concept as the seed) of each sample."""

    seed: Row
    samples: list[Row]
    synthesizer: str
    temperature: float
    same: list[float]


@plot.use_style()
def browsed(page: Page) -> Figure:
    """Documents as lines of tokens on the left, what d1 shares marked; on the right the concepts of each as a bar."""
    rows = [page.seed, *page.samples]
    lines = max(1, min(LINES, max(-(-len(row.words) // LINE) for row in rows)))
    height = ROW * (lines + 1) + 0.04
    made, panels = plot.figure(7.4, 0.75 + height * len(rows), columns=2)
    left, right = panels
    top = np.argsort(-np.nan_to_num(page.seed.law), kind="stable")[:SHOWN]
    left.set_axis_off()
    left.set_xlim(0, LINE)
    for axes in panels:
        axes.set_ylim(len(rows) - 0.5, -0.5)
    for place, row in enumerate(rows):
        chance = f"P(same concept) = {page.same[place - 1]:.2f}" if np.isfinite(row.law).all() else "impossible"
        name, colour = ("seed d₁", PALETTE[0]) if place == 0 else (f"sample {place}: {chance}", INK)
        left.text(0, place - 0.5 + ROW / 2 / height, name, fontsize=6.5, color=colour, va="center", weight="bold")
        _words(left, row, place - 0.5, lines, height)
        _bar(right, row.law, place, top)
    right.set_xlim(0, 1)
    right.set_yticks([])
    right.grid(False)
    right.set_xlabel("P(c | d)")
    left.set_title(f"{page.synthesizer}, temperature {page.temperature:g}", fontsize=8)
    left.get_subplotspec().get_gridspec().set_width_ratios([4.2, 1])  # type: ignore[union-attr]
    handles = [Patch(color=PALETTE[i], label=f"concept {c}") for i, c in enumerate(top)]
    handles += [
        Patch(color=OTHER, label="other concepts"), Patch(facecolor="white", edgecolor=INK, hatch="////", label="impossible"),
        Patch(color=MARKED, label="2-grams or more of d₁"),
    ]  # fmt: skip
    made.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=1.2, columnspacing=1.0)
    return made


def _words(axes: Axes, row: Row, top: float, lines: int, height: float) -> None:
    """The tokens in lines below the name of the document; what does not fit is told by three dots."""
    room = LINE * lines
    for i, word in enumerate(row.words[:room]):
        line, column = divmod(i, LINE)
        cut = i == room - 1 and len(row.words) > room
        inside = row.marked is not None and bool(row.marked[i])
        axes.text(
            column + 0.5, top + ROW * (line + 1.5) / height, "…" if cut else _short(word), fontsize=6.2, color=INK,
            ha="center", va="center", bbox={"facecolor": MARKED, "edgecolor": "none", "pad": 1.2} if inside else None,
        )  # fmt: skip


def _short(word: str) -> str:
    return word.replace("[genre ", "G").rstrip("]")


def _bar(axes: Axes, law: Float64[np.ndarray, "concepts"], place: int, top: np.ndarray) -> None:
    if not np.isfinite(law).all():
        axes.barh(place, 1, height=0.5, facecolor="white", edgecolor=INK, hatch="////", linewidth=0.6)
        return
    start = 0.0
    for number, concept in enumerate(top):
        axes.barh(place, law[concept], left=start, height=0.5, color=PALETTE[number])
        start += float(law[concept])
    axes.barh(place, max(0.0, 1 - start), left=start, height=0.5, color=OTHER)
