"""Figures of associative recall: accuracy against the filler, the number of pairs and the steps."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.rattention.experiments.recall import ALSO_GLOBAL, RECALLED
from orchard.papers.rattention.figures.looks import legend_below, lines, rule, titled, words
from orchard.plot.style import INK

LEAD = 0.5  # accuracy: the threshold of claims C7r and C7br


def means(units: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, seed, number of pairs and filler: near and far accuracy in percent."""
    found = units.groupby(["arm", "seed", "pairs", "filler"], sort=False)[["near", "far"]].mean()
    return (100 * found).reset_index()


def _panel(axes: Axes, table: pd.DataFrame, x: str, label: str) -> None:
    lines(axes, table, x, "far", label, "far values recalled (%)")
    axes.set_ylim(-3, 103)


@plot.use_style()
def recall(units: pd.DataFrame, curves: pd.DataFrame, decisive: Sequence[int] = ()) -> Figure:
    """Accuracy of far values against the length of the filler, the number of pairs and the optimizer step; every seed is a dot. Solid
    lines have local layers alone, dashed ones of the same colour a global layer. Dotted: what full attention must reach. Grey: the fillers
    that decide, with a line at what RAttention needs there to be `LEAD` above the better of the two windows."""
    table = means(units)
    middle, longest = table["pairs"].value_counts().idxmax(), table["filler"].max()
    made, (left, centre, right) = plot.figure(7.0, 3.2, columns=3)
    _panel(left, table[table["pairs"] == middle], "filler", f"filler (tokens), {middle:g} pairs")
    _panel(centre, table[table["filler"] == longest], "pairs", f"pairs, filler of {longest:g} tokens")
    steps = curves.dropna(subset=["validation_accuracy"])
    _panel(right, steps.assign(far=100 * steps["validation_accuracy"]), "step", "optimizer step")
    rule(left, 100 * RECALLED, "asked of full attention (the gate)")
    if decisive:
        span = min(decisive) - 2, max(decisive) + 2
        left.axvspan(*span, color="#ececec", zorder=0, label="where C7r and C7br are decided")
        at = table[(table["pairs"] == middle) & table["filler"].isin(decisive)]
        windows = at[at["arm"].str.match(r"swa(_mem)?@\d+$")].groupby("arm")["far"].mean()
        asked = windows.max() + 100 * LEAD
        left.hlines(asked, *span, color=INK, linewidth=1.2, label="asked of RAttention there")
    legend_below(made, left)
    ours = [said for said in recalled(units, alone=True) if said.startswith(("RAttention", "sliding"))]
    return titled(made, f"behind {longest:g} tokens: {', '.join(ours)}")


def recalled(units: pd.DataFrame, alone: bool) -> list[str]:
    """What each arm recalls at the longest filler, in words: of those without a global layer, or of those with one."""
    table = means(units)
    middle = table["pairs"].value_counts().idxmax()
    far = table[(table["filler"] == table["filler"].max()) & (table["pairs"] == middle)]
    found = far.groupby("arm", sort=False)["far"].mean()
    return [f"{words(arm)}: {value:.0f} %" for arm, value in found.items() if str(arm).endswith(ALSO_GLOBAL) != alone]
