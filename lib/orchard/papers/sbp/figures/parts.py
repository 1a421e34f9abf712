"""What several figures of the series draw: named rows, best and last checkpoints, lines with bands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchard import plot
from orchard.papers.sbp.figures.looks import WORLDS, looks, words
from orchard.plot.style import COLUMN, GREY

CHECKPOINTS = ("best", "last")
EXCESS = "loss above Bayes\n(nats/document)"
WIDE = 2 * COLUMN
BELOW: Final = "outside lower center"  # where a legend of several panels stands


def panels(
    table: pd.DataFrame, height: float, each: float = 0.0, margin: float = WIDE, names: Mapping[str, str] = WORLDS
) -> tuple[Figure, list[Axes], list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each variant of a table, named, and each with its rows; ``each`` inches wide, and a ``margin`` for all.

    Variants come in the order of ``names``, what a title says of each.
    """
    found = [name for name in names if (table["variant"] == name).any()]
    made, axes = plot.figure(each * len(found) + margin, height, columns=len(found))
    for panel, variant in zip(axes, found, strict=True):
        panel.set_title(names[variant])
    return made, axes, [(panel, table[table["variant"] == name]) for panel, name in zip(axes, found, strict=True)]


def rows(axes: Axes, names: Sequence[str], named: bool = True) -> None:
    """A row for each name, from the top; ``named=False`` beside a panel that has the names."""
    axes.set_yticks(range(len(names)), [words(name) if named else "" for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def not_run(axes: Axes, names: Sequence[str], found: Iterable[str]) -> None:
    """Say so in every row of a panel whose name is not among those ``found``."""
    for place in [place for place, name in enumerate(names) if name not in set(found)]:
        at = axes.get_yaxis_transform()
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a line of zero may pass behind the words
        axes.text(0.02, place, "not run here", color=GREY, fontsize=6, va="center", transform=at, bbox=paper)


def ends(axes: Axes, table: pd.DataFrame, order: Sequence[str]) -> None:
    """``best`` (filled) and ``last`` (hollow) of every training of an arm, joined by a line; a row per arm."""
    known = looks(order)
    for arm, part in table.groupby("arm"):
        look = known[str(arm)]
        place = order.index(str(arm)) + np.linspace(-0.15, 0.15, len(part))
        axes.hlines(place, part["best"], part["last"], color=look.colour, linewidth=0.8)
        axes.plot(part["last"], place, look.marker, color=look.colour, markerfacecolor="white")
        axes.plot(part["best"], place, look.marker, color=look.colour)


def line(axes: Axes, table: pd.DataFrame, x: str, y: str, look: plot.Look, label: str) -> pd.DataFrame:
    """Mean over the cells at every ``x``, every cell a dot, with a band from the least to the greatest; returns mean, min and max."""
    points = table.groupby(x)[y].agg(["mean", "min", "max"])
    axes.fill_between(points.index, points["min"], points["max"], color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(table[x], table[y], ".", color=look.colour, markersize=2.5, alpha=0.7)
    axes.plot(points.index, points["mean"], color=look.colour, marker=look.marker, label=label)
    return points


def cells_of(table: pd.DataFrame) -> str:
    """How many worlds and seeds a table has, in words."""
    cells = table[["world", "seed"]].drop_duplicates()
    if len(cells) == 1:
        return "one world, one seed"
    return f"worlds: {cells['world'].nunique()}, seeds: {cells['seed'].nunique()}"


def y_of(axes: Axes, checkpoint: str) -> None:
    """The label of a vertical axis with losses."""
    axes.set_ylabel(f"{EXCESS}, {checkpoint}")
