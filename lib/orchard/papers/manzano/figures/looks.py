"""How the arms of the series are drawn and what they are called, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.manzano.experiments.arms import ARMS, words
from orchard.papers.manzano.method.unified import IMAGE, READ, SLOT, TEXT
from orchard.plot.style import INK, PALETTE

LOOKS: dict[str, plot.Look] = {  # by the names of `experiments.arms`
    "hybrid": plot.Look(PALETTE[0], "o"), "discrete": plot.Look(PALETTE[1], "s"), "pure_discrete": plot.Look(PALETTE[1], "s"),
    "pure_discrete_feat": plot.Look(PALETTE[5], "P"), "dual_encoder": plot.Look(PALETTE[3], "v"),
    "dual_semantic": plot.Look(PALETTE[4], "^"), "und_only": plot.Look(PALETTE[2], "D"), "gen_only": plot.Look(PALETTE[9], "X"),
    "blind": plot.Look(PALETTE[7], "x"), "quarter": plot.Look(PALETTE[8], "*"), "posthoc": plot.Look(PALETTE[6], "<"),
    "bottleneck": plot.Look(INK, "h"),
}  # fmt: skip
ADAPTERS = {"continuous": plot.Look(PALETTE[0], "o"), "discrete": plot.Look(PALETTE[1], "s")}
TASKS = {"read": "characters of the strip", "objects": "objects of a caption", "name": "invented names"}
KINDS = {  # of positions of a sequence
    READ: ("only read", "#dddddd"), SLOT: ("slot for a vector of the picture", PALETTE[9]),
    TEXT: ("text target", PALETTE[0]), IMAGE: ("image target", PALETTE[1]),
}  # fmt: skip


@plot.use_style()
def titled(figure: Figure, title: str, handles: Sequence[Any] = (), columns: int = 3) -> Figure:
    """The figure with one line that says what is seen, and a legend below it where there are handles."""
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.suptitle(f"\n{title}", x=0.01, ha="left", fontsize=7, fontweight="bold")  # the first line is for the profile
    return figure


def labelled(*panels: Axes) -> list[Any]:
    """What has a label in these axes."""
    return [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]


def downwards(axes: Axes, names: Sequence[str], size: float = 7.0) -> None:
    """Named rows, the first of them on top."""
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")


def framed(axes: Axes, right: bool) -> None:
    """A green frame around what is right, an orange one around what is not."""
    for side in axes.spines.values():
        side.set(visible=True, linewidth=1.8, color=PALETTE[2] if right else PALETTE[3])


def picture(axes: Axes, pixels: object, title: str = "") -> None:
    """Pixels as they are, without ticks."""
    axes.imshow(pixels, interpolation="nearest")  # type: ignore[arg-type]
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.set_title(title, fontsize=6.5, loc="center", pad=2)


def stream(name: str) -> str:
    """A stream of stage 0 in words: "read k2" is "characters of the strip, 2 a token"."""
    task, _, density = name.partition(" k")
    said = TASKS.get(task, task)
    return f"{said}, {density} a token" if task == "read" else said


def named(table: pd.DataFrame, column: str = "arm") -> tuple[pd.DataFrame, dict[str, plot.Look]]:
    """The table with its arms in words, and how each of them looks."""
    given = plot.looks(map(str, pd.unique(table[column])), LOOKS)
    return table.assign(**{column: table[column].map(words)}), {words(arm).lower(): look for arm, look in given.items()}


def arms_in_words(arms: Iterable[str]) -> pd.DataFrame:
    """The arms of a notebook: name in code, in words, what its language model reads, whose codes it writes, its share of the steps."""
    reads = {"continuous": "continuous vectors", "codes": "rows of the codes", "adapter": "the discrete adapter's output"}  # fmt: skip
    rows = {
        arm: (words(arm), reads.get(ARMS[arm].reads, "nothing") if ARMS[arm].understanding else "-",
              ARMS[arm].codes if ARMS[arm].generation else "-", ARMS[arm].steps)
        for arm in arms
    }  # fmt: skip
    columns = ["in words", "reads of a picture", "writes codes of", "share of the steps"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("arm")
