"""What several figures of the series draw: named rows, best and last checkpoints, lines with bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from orchard import plot
from orchard.plot.style import COLUMN

CHECKPOINTS = ("best", "last")
EXCESS = "loss above Bayes\n(nats/document)"
WIDE = 2 * COLUMN


def rows(axes: Axes, names: Sequence[str], named: bool = True) -> None:
    """A row for each name, from the top; ``named=False`` beside a panel that has the names."""
    axes.set_yticks(range(len(names)), list(names) if named else [""] * len(names))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def ends(axes: Axes, table: pd.DataFrame, order: Sequence[str]) -> None:
    """``best`` (filled) and ``last`` (hollow) of every training of an arm, joined by a line; a row per arm."""
    looks = plot.looks(order)
    for arm, part in table.groupby("arm"):
        look = looks[str(arm)]
        place = order.index(str(arm)) + np.linspace(-0.15, 0.15, len(part))
        axes.hlines(place, part["best"], part["last"], color=look.colour, linewidth=0.8)
        axes.plot(part["last"], place, look.marker, color=look.colour, markerfacecolor="white")
        axes.plot(part["best"], place, look.marker, color=look.colour)


def line(axes: Axes, table: pd.DataFrame, x: str, y: str, look: plot.Look, label: str) -> pd.DataFrame:
    """Mean over the cells at every ``x``, with a band from the least to the greatest; returns mean, min and max."""
    points = table.groupby(x)[y].agg(["mean", "min", "max"])
    axes.fill_between(points.index, points["min"], points["max"], color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(points.index, points["mean"], color=look.colour, marker=look.marker, label=label)
    return points


def y_of(axes: Axes, checkpoint: str) -> None:
    """The label of a vertical axis with losses."""
    axes.set_ylabel(f"{EXCESS}, {checkpoint}")
