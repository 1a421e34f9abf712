"""How each family of arms looks in every figure of this paper, and its arms in words.

The paper's own figures call RAttention ``RAtt``. ``swa@16`` is a name for code; figures and tables say "sliding window 16".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchard import plot
from orchard.papers.rattention.experiments.recall import ALSO_GLOBAL
from orchard.plot.style import INK, PALETTE, Look, looks, use_style

LOOKS: dict[str, Look] = {
    "full": Look(PALETTE[2], "D"),
    "full_rope": Look(PALETTE[2], "D"),
    "full_rnope": Look(PALETTE[9], "X"),
    "swa": Look(PALETTE[1], "s"),
    "swa_mem": Look(PALETTE[3], "v"),
    "swa_flops": Look(PALETTE[5], "P"),
    "ratt": Look(PALETTE[0], "o"),
    "rattn": Look(PALETTE[0], "o"),
    "la": Look(PALETTE[4], "^"),
}
KINDS = {
    "full_rope": ("full attention", "every layer reads everything, with rotary positions"),
    "full_rnope": ("full attention, NoPE", "full attention whose global layers have no positions, as all arms below"),
    "la": ("linear attention alone", "local layers have the state and no window"),
    "swa": ("sliding window", "local layers read the last W tokens, the current one counted"),
    "rattn": ("RAttention", "the window of W, and a state of all tokens before it"),
    "swa_mem": ("window, memory of", "a window widened by as many tokens as the state weighs: as much memory as RAttention W"),
    "swa_flops": ("window, compute of", "a window widened until it computes as much as RAttention W"),
}  # fmt: skip
LETTERS = {
    "swa": "W", "rattn": "R", "swa_mem": "M", "swa_flops": "C", "full_rope": "full", "full_rnope": "NoPE", "la": "linear",
}  # fmt: skip


def words(arm: str) -> str:
    """An arm in words: "sliding window 16", "window, memory of RAttention 16"; a name that is none is left as it is."""
    name, also_global = arm.removesuffix(ALSO_GLOBAL), arm.endswith(ALSO_GLOBAL)
    kind, _, window = name.partition("@")
    if kind not in KINDS:
        return arm
    said = f"{KINDS[kind][0]} {'RAttention ' if kind in ('swa_mem', 'swa_flops') and window else ''}{window}".strip()
    return f"{said}, one global layer" if also_global else said


def short(arm: str) -> str:
    """An arm beside its point: "W 16", "R 16", "full". What the letters are says :func:`letters_legend`."""
    kind, _, window = arm.partition("@")
    return f"{LETTERS[kind]} {window}".strip() if kind in LETTERS else arm


def in_short(table: pd.DataFrame, at: list[str]) -> tuple[pd.DataFrame, dict[str, Look]]:
    """The table with its arms in :func:`short`, and how each looks. Arms that share their mean point (one model under two names) become
    one, "W 32 = M 16"."""
    given = looks(map(str, pd.unique(table["arm"])), LOOKS)
    means = table.groupby("arm", sort=False)[at].mean().round(9)
    together = means.reset_index().groupby(at, sort=False, dropna=False)["arm"].agg(list)
    said = {arm: " = ".join(map(short, names)) for names in together for arm in names}
    kept = table[table["arm"].isin([names[0] for names in together])]
    return kept.assign(arm=kept["arm"].map(said)), {
        said[arm].lower(): look for arm, look in given.items() if arm in set(kept["arm"])
    }


def letters_legend(figure: Figure, arms: Iterable[str], columns: int = 2, also: Sequence[Artist] = ()) -> None:
    """Below the figure, what the letters of :func:`short` are, a marker for each; then the handles of ``also``."""
    kinds = dict.fromkeys(name.partition("@")[0] for name in arms)
    handles = []
    for kind in (kind for kind in kinds if kind in LETTERS):
        said = KINDS[kind][0] + (" RAttention" if kind in ("swa_mem", "swa_flops") else "")
        style: dict[str, Any] = {"color": LOOKS[kind].colour, "marker": LOOKS[kind].marker, "linestyle": "none"}
        handles.append(Line2D([], [], label=f"{LETTERS[kind]}: {said}", **style))
    figure.legend(handles=[*handles, *also], loc="outside lower center", ncols=columns)


def against_cost(axes: Axes, table: pd.DataFrame, cost: str, says: str) -> None:
    """Bits per byte against a cost: every arm at its mean over the shared seeds, their range and the frontier; every seed is a dot."""
    at = [cost, "bits_per_byte"]
    shown, known = in_short(shared(table), at)
    plot.pareto(shown, cost=cost, loss=at[1], x_label=says, y_label="test loss (bits/byte)", axes=axes, known=known)
    dots(axes, in_short(table, at)[0], cost, at[1], known)


def shared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that every arm has, so that no mean hangs on which seeds an arm was given."""
    seeds = set.intersection(*(set(rows) for _, rows in table.groupby("arm")["seed"]))
    return table[table["seed"].isin(seeds)]


def arms_in_words(arms: Iterable[str]) -> pd.DataFrame:
    """The arms of a notebook: name in code, in words, what its local layers read."""
    names = list(dict.fromkeys(arms))
    rows = {name: (words(name), KINDS.get(name.partition("@")[0], ("", ""))[1]) for name in names}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["in words", "its local layers"]).rename_axis("arm")


def named(table: pd.DataFrame, column: str = "arm") -> tuple[pd.DataFrame, dict[str, Look]]:
    """The table with its arms in words, and how each of them looks."""
    given = looks(map(str, pd.unique(table[column])), LOOKS)
    return table.assign(**{column: table[column].map(words)}), {words(arm).lower(): look for arm, look in given.items()}


def dots(
    axes: Axes, table: pd.DataFrame, x: str, y: str, known: Mapping[str, Look], hue: str = "arm", edge: float = 0.99
) -> None:
    """Every row of ``table`` (one per seed) as a dot; without an ``x`` at the right edge of the axes, on the arm's line."""
    for arm, rows in table.groupby(hue, sort=False):
        look = known[str(arm).lower()]
        style: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3, "color": look.colour}
        style |= {"alpha": 0.7, "zorder": 2.5}
        at = rows.dropna(subset=[x])
        axes.plot(at[x], at[y], **style)
        flat = rows[rows[x].isna()]
        axes.plot([edge] * len(flat), flat[y], transform=axes.get_yaxis_transform(), **style)


def lines(axes: Axes, table: pd.DataFrame, x: str, y: str, x_label: str, y_label: str, ends: bool = False) -> None:
    """The arms in words: means and bands over seeds, every seed a dot (``ends``: at the last ``x`` alone)."""
    shown, known = named(table)
    plot.learning_curves(shown, x=x, y=y, x_label=x_label, y_label=y_label, axes=axes, known=known)
    dots(axes, shown[shown[x] == shown[x].max()] if ends else shown, x, y, known)


@use_style()
def titled(figure: Figure, says: str) -> Figure:
    """The figure with one line above it that says what is seen; over a single panel it ends at its right edge."""
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    if len(panels) == 1:
        panels[0].set_title(says, loc="right", fontsize=7)
    else:
        figure.suptitle(says, x=0.01, ha="left", fontsize=7.5)
    return figure


def legend_below(figure: Figure, *panels: Axes, columns: int = 3) -> None:
    """One legend below the figure with what these panels show, in the place of all others."""
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.remove()
    handles = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def intervals(
    axes: Axes, places: Sequence[Any], rows: pd.DataFrame, colour: str, hollow: bool = False, label: str = "_"
) -> None:
    """An interval for each row, its middle, and a tick for every seed."""
    axes.hlines(places, rows["low"], rows["high"], color=colour, linewidth=1.6)
    for place, seeds in zip(places, rows["seeds"], strict=True):
        axes.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=5, alpha=0.6)
    face = "white" if hollow else colour
    axes.plot(rows["effect"], places, "o", color=colour, markerfacecolor=face, markersize=4, label=label, zorder=3)


def octaves(axes: Axes, ticks: Iterable[Any], number: Callable[[float], str]) -> None:
    """A binary logarithmic x axis with these ticks."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(map(float, ticks))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def rule(axes: Axes, value: float, says: str, *, vertical: bool = False) -> None:
    """The threshold of a claim as a dotted line, named in the legend."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=INK, linewidth=0.9, linestyle=":", label=says)
