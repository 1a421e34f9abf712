"""How the arms of the series are drawn and what they are called, the same in every figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.manzano.method.unified import IMAGE, READ, SLOT, TEXT
from orchard.plot.style import INK, PALETTE

LOOKS: dict[str, plot.Look] = {
    "hybrid": plot.Look(PALETTE[0], "o"),
    "pure_discrete": plot.Look(PALETTE[1], "s"),
    "pure_discrete_rows": plot.Look(PALETTE[5], "P"),
    "pure_discrete_feat": plot.Look(PALETTE[8], "*"),
    "dual_encoder": plot.Look(PALETTE[3], "v"),
    "dual_semantic": plot.Look(PALETTE[4], "^"),
    "und_only": plot.Look(PALETTE[2], "D"),
    "gen_only": plot.Look(PALETTE[9], "X"),
    "blind": plot.Look(PALETTE[7], "x"),
    "shuffled": plot.Look(PALETTE[7], "+"),
    "posthoc": plot.Look(PALETTE[6], "<"),
    "bottleneck": plot.Look(INK, "h"),
}
KINDS = {  # of positions of a sequence
    READ: ("read alone", "#dddddd"), SLOT: ("slot for a vector of the picture", PALETTE[9]),
    TEXT: ("text target", PALETTE[0]), IMAGE: ("image target", PALETTE[1]),
}  # fmt: skip


def titled(figure: Figure, title: str) -> Figure:
    """The figure with one line that says what is seen."""
    figure.suptitle(f"\n{title}", x=0.01, ha="left", fontsize=7, fontweight="bold")  # the first line is for the profile
    return figure


def picture(axes: Axes, pixels: object, title: str = "") -> None:
    """Pixels as they are, without ticks."""
    axes.imshow(pixels, interpolation="nearest")  # type: ignore[arg-type]
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.set_title(title, fontsize=6.5, loc="center", pad=2)
