"""Figures of serving: the cache of sub-networks, batches of mixed requests, a mask per input beside one per task, ratios of times."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.ifpruning.figures.looks import WIDE, taken_legend
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns

MARGIN = 1.5  # points, of claim C5


@plot.use_style()
def cache_curves(table: pd.DataFrame, slots: int | None = None) -> Figure:
    """Hit rate and mean time to the first token against the sub-networks that the cache holds, per kind of mask; band over seeds.

    Columns seed, masks, slots, hit_rate, ttft (s). A vertical line marks ``slots``, and the titles say the values there."""
    check_columns(table, {name: name for name in ("seed", "masks", "slots", "hit_rate", "ttft")}, "cache_curves")
    shown = table.assign(hit_rate=100 * table["hit_rate"], ttft=1e3 * table["ttft"])
    made, axes = plot.figure(WIDE, 2.5, columns=2)
    labels = {"hit_rate": "hit rate (%)", "ttft": "mean time to first token (ms)"}
    for panel, (column, label) in zip(axes, labels.items(), strict=True):
        _bands(panel, shown, "slots", column, "masks")
        panel.set(xlabel="sub-networks that the cache holds", ylabel=label)
        if slots is not None:
            panel.axvline(slots, color=INK, linewidth=0.8, linestyle="--")
            there = shown[shown["slots"] == slots].groupby("masks", sort=False)[column].mean()
            panel.set_title(f"at {slots}: " + ", ".join(f"{value:.3g} {name}" for name, value in there.items()))
    axes[0].set_ylim(0, 102)
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def batch_width(table: pd.DataFrame) -> Figure:
    """What a batch of mixed requests computes and reads, against its size: the union of its masks over k, and weights per request.

    Columns seed, size, order, width, weights. The order ``random masks`` is what independent masks would need (dashed)."""
    check_columns(table, {name: name for name in ("seed", "size", "order", "width", "weights")}, "batch_width")
    made, axes = plot.figure(WIDE, 2.5, columns=2)
    ours, chance = table[table["order"] != "random masks"], table[table["order"] == "random masks"]
    labels = {"width": ("FLOPs per token / alone", "union of the masks over k")}
    labels["weights"] = ("weights per request / alone", "union over k and batch")
    for panel, (column, (label, title)) in zip(axes, labels.items(), strict=True):
        _bands(panel, ours, "size", column, "order")
        mean = chance.groupby("size")[column].mean()
        panel.plot(mean.index, mean, color=INK, linewidth=0.9, linestyle="--", label="random masks")
        panel.set(title=title, xlabel="requests in a batch", ylabel=label, ylim=(0, None))
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def _bands(panel: Axes, table: pd.DataFrame, x: str, y: str, hue: str) -> None:
    """Means over seeds with a band from the smallest to the largest, against doubling values of ``x``."""
    import seaborn as sns

    sns.lineplot(
        table, x=x, y=y, hue=hue, style=hue, markers=["o", "s"], dashes=False, palette=list(PALETTE[:2]), errorbar=("pi", 100),
        err_kws={"linewidth": 0}, ax=panel,
    )  # fmt: skip
    taken_legend(panel)
    values = sorted(table[x].unique())
    panel.set_xscale("log", base=2)
    panel.set_xticks(values, [str(value) for value in values])
    panel.minorticks_off()


@plot.use_style()
def task_masks(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """What a mask per input adds to one per task: a dot per dataset of the paper (grey, by size of source) or domain (by seed).

    Columns gap (points: per cent, or BLEU in the paper's translations); the paper's also size, ours seed. The tick is the mean, shaded
    is the margin within which claim C5 calls them equal."""
    check_columns(ours, {"gap": "gap", "seed": "seed"}, "task_masks")
    check_columns(published, {"gap": "gap", "size": "size"}, "task_masks")
    groups = [(f"paper, {name}→3B", GREY, part["gap"]) for name, part in published.groupby("size", sort=False)]
    groups += [(f"ours, seed {name}", PALETTE[0], part["gap"]) for name, part in ours.groupby("seed")]
    made, (axes,) = plot.figure(COLUMN, 0.6 + 0.34 * len(groups))
    axes.axvspan(-MARGIN, MARGIN, color=PALETTE[0], alpha=0.12, linewidth=0)
    for place, (_, colour, gaps) in enumerate(groups):
        _dots(axes, place, gaps.to_numpy(), gaps.mean(), colour)
    _rows(axes, [name for name, *_ in groups], at=0.0)
    axes.set(xlabel="mask per input minus mask per task (points)", title=f"shaded: equal within {MARGIN} points (C5)")
    return made


@plot.use_style()
def latency_ratios(repetitions: pd.DataFrame) -> Figure:
    """Ratios of times, every round a dot, the median a bar: columns overhead, decode, moe, prefill, masked of `speed.repetitions`.

    Shaded is what the series asks for: overhead at most 0.5, decode within 10 % of a dense model of the same width."""
    rows = {
        "overhead": "(select + load) / prefill", "decode": "decode, IFP / small dense", "prefill": "prefill, IFP / small dense",
        "masked": "prefill, masked / large dense", "moe": "decode, experts / IFP",
    }  # fmt: skip
    check_columns(repetitions, {name: name for name in rows}, "latency_ratios")
    made, (axes,) = plot.figure(COLUMN, 0.6 + 0.32 * len(rows))
    asked = {"overhead": (0.0, 0.5), "decode": (0.9, 1.1)}
    for place, name in enumerate(rows):
        values = repetitions[name].to_numpy()
        if name in asked:
            low, high = asked[name]
            axes.barh(place, high - low, left=low, color=PALETTE[0], alpha=0.18, height=0.8)
        _dots(axes, place, values, float(np.median(values)), PALETTE[0])
    _rows(axes, list(rows.values()), at=1.0)
    axes.set(xlim=(0, None), xlabel="ratio (shaded: C7, C7b)")
    axes.set_title(f"decoding: {repetitions['decode'].median():.2f} × small dense")
    return made


def _dots(axes: Axes, place: int, values: np.ndarray, middle: float, colour: str) -> None:
    """Every value as a dot in its row, spread a little downwards, and a bar for what stands for all of them."""
    axes.plot(values, place + np.linspace(-0.2, 0.2, len(values)), ".", color=colour, markersize=3.5)
    axes.plot([middle, middle], [place - 0.35, place + 0.35], color=INK, linewidth=1.6)


def _rows(axes: Axes, names: list[str], at: float) -> None:
    axes.axvline(at, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
