"""Figures of the paper's numbers, each made so that ours can stand beside them: score against D / k, masks' overlap, gap recovery, latency.

The paper's values are grey, ours coloured; of the heat maps, which need the colour, the title says whose they are. Every function takes
tidy tables with the columns of the functions of :mod:`orchard.papers.ifpruning.data.published`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from orchard import plot
from orchard.papers.ifpruning.data.published import PARTS
from orchard.papers.ifpruning.figures.looks import LOOKS, WIDE, taken_legend
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns

BARS = "9B"  # the source whose recovery is bars
ACROSS = 3  # heat maps in a row
MOST_SETS = 10  # a map of more sets has no numbers written into its cells
USUAL_LOW = 0.5  # of the colours, unless chance or a value lies below
GREYS = ("#3d3d3d", "#757575", "#a8a8a8", "#d4d4d4")  # the parts of a request in the paper's bars
COLOURS = (PALETTE[3], PALETTE[1], PALETTE[9], PALETTE[0])  # and in ours
TIMED = {  # decoders of the experiment `latency`
    "dense_D": "large dense", "dense_k": "small dense", "ifp": "IFP", "ifp_masked": "IFP, masked at full width", "moe": "experts per token",
}  # fmt: skip


def _sources(published: pd.DataFrame | None, ours: pd.DataFrame | None) -> list[tuple[bool, pd.DataFrame]]:
    """The tables that were given, one at least: whether it is the paper's, and the table."""
    return [(paper, table) for paper, table in ((True, published), (False, ours)) if table is not None]


@plot.use_style()
def source_scaling(
    published: pd.DataFrame | None = None, ours: pd.DataFrame | None = None, *, y_label: str = "score (%)"
) -> Figure:
    """Score against the width of the source over the width that is used, D / k: one panel per ``panel``, the paper's first.

    Columns panel, line, ratio, score; ours also seed, drawn as mean and band. All panels share the horizontal axis; each has its own
    vertical one, since scores of different benchmarks share nothing."""
    tables = _sources(published, ours)
    for paper, table in tables:
        names = ("panel", "line", "ratio", "score", *(() if paper else ("seed",)))
        check_columns(table, {name: name for name in names}, "source_scaling")
    panels = [(paper, name, part) for paper, table in tables for name, part in table.groupby("panel", sort=False)]
    across = min(len(panels), 5)
    down = -(-len(panels) // across)
    made, axes = plot.figure(WIDE if across > 1 else COLUMN, 0.3 + 1.75 * down, rows=down, columns=across)
    ratios = pd.concat([table["ratio"] for _, table in tables])
    shown: dict[str, Artist] = {}
    for place, (paper, name, part) in enumerate(panels):
        frame = axes[place]
        plot.sweep(
            None if paper else part, published=part if paper else None, x="ratio", y="score", hue="line", x_label="D / k",
            y_label=y_label if place % across == 0 else "", axes=frame, known=LOOKS,
        )  # fmt: skip
        frame.set_title(f"{name}, paper" if paper else f"{name}, ours", fontsize=7)
        if not paper:
            frame.plot(part["ratio"], part["score"], ".", color=GREY, markersize=3, zorder=1, label="_")
        frame.set_xlim(ratios.min() / 1.15, ratios.max() * 1.15)
        frame.tick_params(axis="x", labelrotation=90 if across > 1 else 0)
        frame.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        frame.yaxis.set_major_locator(MaxNLocator(5))
        handles, labels = taken_legend(frame)
        shown |= dict(zip(labels, handles, strict=True))
    for frame in axes[len(panels) :]:
        frame.remove()
    made.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4)
    return made


@plot.use_style()
def overlap_maps(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Overlap of masks between sets of prompts, a heat map per layer, all on one colour scale up to 1, with the blocks framed.

    Columns layer, row, column, overlap, row_block, column_block, chance. The scale begins at 0.5 as in the paper, or at the tenth below
    chance or the smallest overlap where these are lower. Chance (k / D, two random masks) is a line across the colour bar."""
    import seaborn as sns

    names = ("layer", "row", "column", "overlap", "row_block", "column_block", "chance")
    check_columns(table, {name: name for name in names}, "overlap_maps")
    chance, layers = table["chance"].iloc[0], list(pd.unique(table["layer"]))
    least = min(USUAL_LOW, chance, table["overlap"].min())
    scale = Normalize(np.floor(least * 10 + 1e-9) / 10, 1.0)
    sets = table.drop_duplicates("row").set_index("row")["row_block"]
    order = [name for block in pd.unique(sets) for name in sets.index[sets == block]]  # a block's sets stand together
    ends = np.cumsum([0, *sets.value_counts(sort=False).reindex(pd.unique(sets))])
    down, across = -(-len(layers) // ACROSS), min(ACROSS, len(layers))
    width, height = (COLUMN, 2.2) if across == 1 else (WIDE, 1.8)
    made, axes = plot.figure(width, 0.9 + height * down, rows=down, columns=across)
    for place, (frame, layer) in enumerate(zip(axes, layers, strict=False)):
        part = table[table["layer"] == layer]
        grid = part.pivot(index="row", columns="column", values="overlap").reindex(index=order, columns=order)
        words = grid.map(lambda value: f"{value:.2f}".removeprefix("0")) if len(order) <= MOST_SETS else None
        small = {"fontsize": 5}
        sns.heatmap(grid, annot=words, fmt="", cmap="cividis", norm=scale, cbar=False, ax=frame, annot_kws=small)
        for start, end in itertools.pairwise(ends):
            outline: dict[str, Any] = {"edgecolor": PALETTE[3], "linewidth": 1.4, "clip_on": False}
            frame.add_patch(Rectangle((start, start), end - start, end - start, fill=False, **outline))
        below, left = place + across >= len(layers), place % across == 0
        frame.set(title=str(layer), xlabel="", ylabel="")
        frame.set_xticks(np.arange(len(order)) + 0.5, order if below else [""] * len(order), rotation=90, fontsize=6)
        frame.set_yticks(np.arange(len(order)) + 0.5, order if left else [""] * len(order), rotation=0, fontsize=6)
    for frame in axes[len(layers) :]:
        frame.remove()
    bar = made.colorbar(ScalarMappable(scale, "cividis"), ax=axes[: len(layers)], label="overlap |A ∩ B| / k", pad=0.02)
    bar.ax.axhline(chance, color="white", linewidth=2.6)
    bar.ax.axhline(chance, color=PALETTE[3], linewidth=1.4)
    bar.ax.annotate(
        f"chance\n{chance:.2f}", (0, chance), xycoords=("axes fraction", "data"), xytext=(-2, 0), color=PALETTE[3],
        textcoords="offset points", ha="right", va="center", fontsize=6,
    )  # fmt: skip
    if title:
        made.suptitle(title, fontsize=8, x=0.01, ha="left")
    return made


@plot.use_style()
def recovery_bars(published: pd.DataFrame, ours: pd.DataFrame | None = None) -> Figure:
    """Gap recovery R: 0 is the dense model of the small width, 1 the unpruned source, negative is worse than dense.

    ``published``: columns dataset, size, gap (points between the two, in brackets: where it is small R means little), recovery; bars
    are of the 9B source, markers of the others. ``ours``: columns dataset, recovery, low, high; bars with intervals, in their own panel."""
    tables = _sources(published, ours)
    counts = [table["dataset"].nunique() for _, table in tables]
    made, panels = plot.figure(COLUMN if len(tables) == 1 else WIDE, 0.9 + 0.135 * max(counts), columns=len(tables))
    ends = [table[name] for _, table in tables for name in ("recovery", "low", "high") if name in table]
    low, high = 1.08 * pd.concat(ends).min(), 1.04 * pd.concat(ends).max()
    for (paper, table), axes in zip(tables, panels, strict=True):
        names = ("dataset", "size", "gap", "recovery") if paper else ("dataset", "recovery", "low", "high")
        check_columns(table, {name: name for name in names}, "recovery_bars")
        bars = (table[table["size"] == BARS] if paper else table).sort_values("recovery").reset_index(drop=True)
        colour, label = ("#c8c8c8", f"{BARS}→3B") if paper else (PALETTE[0], None)
        axes.barh(bars.index, bars["recovery"], color=colour, label=label)
        if paper:
            places = {name: place for place, name in bars["dataset"].items()}
            others = [name for name in pd.unique(table["size"]) if name != BARS]
            for other, marker in zip(others, "<>sDv", strict=False):
                part = table[table["size"] == other]
                axes.plot(part["recovery"], part["dataset"].map(places), marker, color=GREY, markerfacecolor="white",
                          markersize=3.5, label=f"{other}→3B")  # fmt: skip
            *markers, bar = axes.get_legend_handles_labels()[0]
            made.legend(handles=[bar, *markers], loc="outside lower center", ncols=3)
            labels = [f"{row.dataset} ({row.gap:.1f})" for row in bars.itertuples()]
        else:
            axes.hlines(bars.index, bars["low"], bars["high"], color=INK, linewidth=1)
            labels = list(bars["dataset"])
        for at, dashes in ((0, "-"), (1, "--"), (0.5, ":")):  # C3 asks for at least 0.5
            if not paper or at != 0.5:
                axes.axvline(at, color=INK, linewidth=0.8, linestyle=dashes)
        axes.set_yticks(bars.index, labels, fontsize=6.5)
        axes.set_ylim(len(bars) - 0.4 - max(counts), len(bars) - 0.4)  # bars of one thickness in both panels
        title = "paper" if paper else "ours"
        axes.set(xlim=(min(low, -0.05), max(high, 1.05)), title=title, xlabel="gap recovery R")
        axes.grid(False, axis="y")
    return made


@plot.use_style()
def latency_bars(published: pd.DataFrame, ours: pd.DataFrame | None = None) -> Figure:
    """Times of a request by part, models downwards: left to the first token (select, load, prefill), right all of it, with decoding.

    Columns model, select, load, prefill, decode (seconds; select and load are 0 for a dense model) and, where models of several families
    are compared, family. The paper's times stand in the upper panels in grey, ours below: machines differ, and so do the axes."""
    tables = _sources(published, ours)
    counts = [len(table) for _, table in tables]
    heights = [0.65 + 0.17 * count for count in counts]
    made, panels = plot.figure(WIDE, 0.3 + sum(heights), rows=len(tables), columns=2)
    grid = panels[0].get_gridspec()
    assert grid is not None
    grid.set_height_ratios(heights)
    handles: list[BarContainer] = []
    for row, (paper, table) in enumerate(tables):
        check_columns(table, {name: name for name in ("model", *PARTS)}, "latency_bars")
        many = "family" in table and table["family"].nunique() > 1
        named = table["model"].replace(TIMED)
        labels = named + " (" + table["family"] + ")" if many else named
        for column, shown in enumerate((PARTS[:-1], PARTS)):
            axes = panels[2 * row + column]
            left, drawn = np.zeros(len(table)), []
            for part, colour in zip(shown, GREYS if paper else COLOURS, strict=False):
                times = table[part].to_numpy(dtype=float) * (1 if paper else 1e3)
                drawn.append(axes.barh(range(len(table)), times, left=left, color=colour, label=part))
                left += times
            axes.grid(False, axis="y")
            axes.margins(x=0.02)
            axes.set_yticks(range(len(table)), labels if column == 0 else [])
            axes.set_ylim(len(table) - 0.5, -0.5)
            whole, whose = ("until the first token", "whole request")[column], "paper" if paper else "ours"
            axes.set(title=f"{whole}, {whose}", xlabel="seconds" if paper else "milliseconds")
        handles += drawn
    by_column = [handles[part + row * len(PARTS)] for part in range(len(PARTS)) for row in range(len(tables))]
    made.legend(handles=by_column, loc="outside lower center", ncols=len(PARTS))
    return made
