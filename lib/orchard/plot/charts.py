"""Charts that several papers draw. Each takes a tidy table (one row per arm, seed and point) and returns a Figure.

Lines are means over seeds and bands run from the smallest to the largest seed; one seed has no band. Labels with units
are arguments without a default, on purpose. With ``axes`` a chart draws into a panel of a figure made by ``figure()``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orchard.plot.labels import place_labels
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, Look, check_columns, figure, looks, use_style

LINES = ("-", "--", ":", "-.")
FLAT = ("--", "-.", ":")  # horizontal lines: never solid
LEGEND_ROW = 0.16  # inches
MOST_NUMBERS = 64  # a heat map with at most this many cells has its numbers written in


@use_style()
def learning_curves(
    table: pd.DataFrame, *, x_label: str, y_label: str, x: str = "step", y: str = "loss", hue: str = "arm",
    seed: str = "seed", axes: Axes | None = None, known: Mapping[str, Look] | None = None,
) -> Figure:  # fmt: skip
    """``y`` against ``x``, one line per ``hue``: mean over seeds, band from the smallest to the largest seed.

    Rows without ``y`` (a step at which another value was logged) are left out, so that they do not cut the line.
    Arms of one colour differ in line style. ``known`` (here and below) has the looks of families, as in ``looks()``.
    """
    check_columns(table, {"x": x, "y": y, "hue": hue, "seed": seed}, "learning_curves")
    arms = list(pd.unique(table[hue]))
    axes, own = _axes(axes, len(arms))
    given, seen = looks(map(str, arms), known), dict[str, int]()
    for arm in arms:
        look = given[str(arm)]
        line, seen[look.colour] = LINES[seen.get(look.colour, 0) % len(LINES)], seen.get(look.colour, 0) + 1
        points = _over_seeds(table[table[hue] == arm].dropna(subset=[y]), x, y, seed)
        axes.fill_between(points.index, points["min"], points["max"], color=look.colour, alpha=0.18, linewidth=0)
        axes.plot(points.index, points["mean"], line, color=look.colour, label=str(arm))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _finish(axes, x_label, y_label, own)


@use_style()
def sweep(
    table: pd.DataFrame | None, *, x: str, y: str, x_label: str, y_label: str, hue: str = "arm", seed: str = "seed",
    published: pd.DataFrame | None = None, axes: Axes | None = None, known: Mapping[str, Look] | None = None,
) -> Figure:  # fmt: skip
    """``y`` against ``x`` on a log2 axis, one line per ``hue``, with bands over seeds.

    Rows whose ``x`` is missing (an arm without that setting, such as full attention in a sweep over windows) become a
    dashed horizontal line across the axes. ``published`` has the same columns, except ``seed``, and is drawn in grey;
    with ``table=None`` it is all there is to draw (the paper's own figure, beside ours).
    """
    if table is None:
        table = pd.DataFrame({x: [], y: [], hue: [], seed: []})
    if published is None or not table.empty:
        check_columns(table, {"x": x, "y": y, "hue": hue, "seed": seed}, "sweep")
    arms = list(pd.unique(table[hue]))
    rows = len(arms) + (published[hue].nunique() if published is not None else 0)
    axes, own = _axes(axes, rows)
    given, ticks = looks(map(str, arms), known), _log2_ticks(table, published, x)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / 2**0.5, ticks[-1] * 2**0.5)
    if published is not None:
        overlay_published(axes, published, x=x, y=y, hue=hue, known=known)
    flats = 0
    for arm in arms:
        look, part = given[str(arm)], table[table[hue] == arm]
        points, flat = _over_seeds(part.dropna(subset=[x]), x, y, seed), part[part[x].isna()]
        if not points.empty:
            axes.fill_between(points.index, points["min"], points["max"], color=look.colour, alpha=0.18, linewidth=0)
            if len(points) == 1:  # a band needs two points: show the spread as a bar
                axes.vlines(points.index, points["min"], points["max"], color=look.colour, alpha=0.5)
            axes.plot(points.index, points["mean"], color=look.colour, marker=look.marker, label=str(arm))
        if not flat.empty:
            by_seed = flat.groupby(seed)[y].mean()
            axes.axhspan(by_seed.min(), by_seed.max(), color=look.colour, alpha=0.12, linewidth=0)
            axes.axhline(by_seed.mean(), color=look.colour, linestyle=FLAT[flats % len(FLAT)], label=str(arm))
            flats += 1
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _finish(axes, x_label, y_label, own)


@use_style()
def overlay_published(
    axes: Axes, table: pd.DataFrame, *, x: str, y: str, hue: str, known: Mapping[str, Look] | None = None
) -> None:
    """Draw the paper's values in grey with hollow markers; rows whose ``x`` is missing become dashed lines."""
    check_columns(table, {"x": x, "y": y, "hue": hue}, "overlay_published")
    arms = list(pd.unique(table[hue]))
    given = looks(map(str, arms), known)
    for index, arm in enumerate(arms):
        part = table[table[hue] == arm].sort_values(x)
        points, flat, label = part.dropna(subset=[x]), part[part[x].isna()], f"{arm} (paper)"
        if not points.empty:
            axes.plot(
                points[x], points[y], color=GREY, marker=given[str(arm)].marker, markerfacecolor="white",
                linewidth=0.9, linestyle=LINES[index % 2], label=label, zorder=1.5,
            )  # fmt: skip
        if not flat.empty:
            axes.axhline(flat[y].mean(), color=GREY, linewidth=0.9, linestyle=FLAT[index % len(FLAT)], label=label)


@use_style()
def pareto(
    table: pd.DataFrame, *, cost: str, loss: str, x_label: str, y_label: str, label: str = "arm", seed: str = "seed",
    axes: Axes | None = None, known: Mapping[str, Look] | None = None,
) -> Figure:  # fmt: skip
    """``loss`` against ``cost``, lower is better in both: a point per ``label`` with its range over seeds.

    The stepped line is the frontier: the arms that no other arm beats in cost and in mean loss at once. The cost axis
    is logarithmic when the costs span a factor of two. Labels stand beside their points and do not cover one another.
    """
    check_columns(table, {"cost": cost, "loss": loss, "label": label, "seed": seed}, "pareto")
    axes, own = _axes(axes, 0, height=2.7)
    names = list(map(str, pd.unique(table[label])))
    given = looks(names, known)
    by_seed = table.groupby([label, seed], sort=False)[[cost, loss]].mean()
    points = by_seed.groupby(level=0, sort=False).agg({cost: "mean", loss: ["mean", "min", "max"]})
    points.columns = pd.Index(["cost", "loss", "low", "high"])

    best = points.sort_values(["cost", "loss"])
    best = best[best["loss"] < best["loss"].cummin().shift(fill_value=np.inf)]
    corners = np.column_stack([np.repeat(best["cost"], 2)[1:], np.repeat(best["loss"], 2)[:-1]])
    axes.plot(*corners.T, color=INK, linewidth=0.8, zorder=1)
    for name, at in points.iterrows():
        look = given[str(name)]
        axes.vlines(at["cost"], at["low"], at["high"], color=look.colour, linewidth=1)
        axes.plot(at["cost"], at["loss"], color=look.colour, marker=look.marker, linestyle="none", zorder=3)
    low, high = points["cost"].min(), points["cost"].max()
    if 0 < 2 * low <= high:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.14, y=0.14)
    made = _finish(axes, x_label, y_label, own, legend=False)
    place_labels(axes, [(at["cost"], at["loss"], str(name)) for name, at in points.iterrows()], corners, INK)
    return made


@use_style()
def heat_map(
    table: pd.DataFrame, *, row: str, column: str, value: str, x_label: str, y_label: str, value_label: str,
    colours: Mapping[str, str] | None = None, number: str = ".2f", axes: Axes | None = None,
) -> Figure:  # fmt: skip
    """``value`` as colour over ``row`` (downwards) and ``column``; a missing pair stays white.

    Numbers get a colour bar, and are written into the cells of a small map with the format ``number``. Values that are
    words (which branch sees a token) get one colour each, from ``colours`` or from the palette, and a legend.
    """
    check_columns(table, {"row": row, "column": column, "value": value}, "heat_map")
    rows, columns = _order(table[row]), _order(table[column])
    if table.duplicated([row, column]).any():
        first = table[table.duplicated([row, column])].iloc[0]
        raise ValueError(f"heat_map: two rows have {row}={first[row]} and {column}={first[column]}: average them first")
    grid = table.pivot(index=row, columns=column, values=value).reindex(index=rows, columns=columns)
    words = not pd.api.types.is_numeric_dtype(table[value])
    kinds = list(colours or pd.unique(table[value].dropna())) if words else []
    axes, own = _axes(axes, len(kinds), height=min(3.6, max(1.4, 0.6 + 0.3 * len(rows))))
    if words:
        tints = [(colours or {}).get(kind, PALETTE[i % len(PALETTE)]) for i, kind in enumerate(kinds)]
        codes = {kind: float(i) for i, kind in enumerate(kinds)}
        axes.imshow(
            grid.apply(lambda words: words.map(codes)).to_numpy(dtype=float),
            cmap=ListedColormap(tints),
            vmin=-0.5,
            vmax=len(kinds) - 0.5,
            aspect="auto",
        )
        handles = [Patch(facecolor=tint, label=str(kind)) for tint, kind in zip(tints, kinds, strict=True)]
    else:
        image = axes.imshow(grid.to_numpy(dtype=float), cmap="cividis", aspect="auto")
        axes.figure.colorbar(image, ax=axes, label=value_label, pad=0.02)
        handles = []
        for (i, j), cell in np.ndenumerate(grid.to_numpy(dtype=float)):
            if grid.size <= MOST_NUMBERS and np.isfinite(cell):
                dark = np.dot(image.to_rgba(cell)[:3], (0.299, 0.587, 0.114)) < 0.5
                axes.text(j, i, format(cell, number), ha="center", va="center", fontsize=6.5,
                          color="white" if dark else "black")  # fmt: skip
    axes.grid(False)
    for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
        step = max(1, -(-len(names) // 10))
        axis.set_ticks(range(0, len(names), step), [_text(name) for name in names[::step]])
    return _finish(axes, x_label, y_label, own, handles=handles, title=value_label if words else "")


@use_style()
def forest(
    table: pd.DataFrame, *, x_label: str, label: str = "label", reference: float = 0.0, axes: Axes | None = None
) -> Figure:
    """Effects with intervals, one row each: columns ``label``, ``effect``, ``low``, ``high``; a line at ``reference``.

    Optional columns: ``threshold`` (a tick on the row), ``published`` (the paper's effect, a hollow grey diamond) and
    ``verdict`` (colours the row). A missing effect leaves the row empty and keeps its label.
    """
    check_columns(table, {"label": label, "effect": "effect", "low": "low", "high": "high"}, "forest")
    extras = [name for name in ("threshold", "published", "verdict") if name in table.columns]
    axes, own = _axes(axes, len(extras) and 1, height=0.75 + 0.23 * len(table))
    axes.axvline(reference, color=INK, linewidth=0.8)
    tints = {
        "supported": PALETTE[0], "refuted": PALETTE[3], "inconclusive": PALETTE[1], "gate not met": PALETTE[4],
        "out of reach here": "#c8c8c8",
    }  # fmt: skip
    for place, (_, at) in enumerate(table.iterrows()):
        tint = tints.get(str(at.get("verdict")), PALETTE[0])
        axes.hlines(place, at["low"], at["high"], color=tint, linewidth=1.6)
        axes.plot(at["effect"], place, "o", color=tint, label="_")
        if "threshold" in extras:
            axes.plot(at["threshold"], place, "|", color=INK, markersize=9, label="threshold" if place == 0 else "_")
        if "published" in extras:
            name = "paper" if place == 0 else "_"
            axes.plot(at["published"], place, "D", color=GREY, markerfacecolor="white", linestyle="none", label=name)
    axes.set_yticks(range(len(table)), [str(name) for name in table[label]])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    present = [name for name in tints if "verdict" in extras and (table["verdict"] == name).any()]
    handles = [*axes.get_legend_handles_labels()[0], *(Patch(facecolor=tints[name], label=name) for name in present)]
    return _finish(axes, x_label, "", own, handles=handles)


def _axes(axes: Axes | None, legend_entries: int, height: float = 2.1) -> tuple[Axes, bool]:
    """The axes to draw in, and whether the figure is this chart's own (then its legend stands outside, below)."""
    if axes is not None:
        return axes, False
    return figure(COLUMN, height + LEGEND_ROW * -(-legend_entries // 3))[1][0], True


def _finish(
    axes: Axes, x_label: str, y_label: str, own: bool, *, handles: Sequence[Artist] | None = None, legend: bool = True,
    title: str = "",
) -> Figure:  # fmt: skip
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    made = axes.get_figure(root=True)
    assert made is not None
    shown = list(axes.get_legend_handles_labels()[0] if handles is None else handles)
    if legend and shown:
        if own:
            wide = len(shown) == 4 or max(len(str(item.get_label())) for item in shown) > 15
            columns = min(2 if wide else 3, len(shown))
            made.legend(handles=shown, loc="outside lower center", ncols=columns, title=title or None)
        else:
            axes.legend(handles=shown, loc="best", title=title or None)
    return made


def _over_seeds(table: pd.DataFrame, x: str, y: str, seed: str) -> pd.DataFrame:
    """Mean, smallest and largest seed at every ``x``, which becomes the index."""
    by_seed = table.groupby([x, seed])[y].mean()
    return by_seed.groupby(level=0).agg(["mean", "min", "max"])


def _log2_ticks(table: pd.DataFrame, published: pd.DataFrame | None, x: str) -> list[float]:
    parts = [table[x]] if published is None else [table[x], published[x]]
    values = sorted(pd.concat([part.dropna().astype(float) for part in parts]).unique())
    if not values or values[0] <= 0:
        raise ValueError(f"sweep: {x} needs positive values to stand on a log2 axis, not {values}. "
                         "Leave it missing for an arm that has none: it is drawn as a horizontal line")  # fmt: skip
    return values if len(values) <= 8 else values[:: -(-len(values) // 8)]


def _order(column: pd.Series) -> list[object]:
    """Numbers ascending, anything else in order of appearance."""
    names = list(pd.unique(column))
    return sorted(names) if pd.api.types.is_numeric_dtype(column) else names


def _text(name: object) -> str:
    return f"{name:g}" if isinstance(name, float) else str(name)
