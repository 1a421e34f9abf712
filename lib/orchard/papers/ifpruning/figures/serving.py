"""Figures of serving: the cache of sub-networks, batches of mixed requests, a mask per input beside one per task, ratios of times."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns

WIDE = 2 * COLUMN
MARGIN = 1.5  # points, of claim C5
LOOKS = (("o", PALETTE[0]), ("s", PALETTE[1]), ("^", PALETTE[2]))


@plot.use_style()
def cache_curves(table: pd.DataFrame, slots: int | None = None) -> Figure:
    """Hit rate and mean time to the first token against the sub-networks that the cache holds, per kind of mask; band over seeds.

    Columns seed, masks, slots, hit_rate, ttft (s). A vertical line marks ``slots``, and the titles say the values there."""
    check_columns(table, {name: name for name in ("seed", "masks", "slots", "hit_rate", "ttft")}, "cache_curves")
    shown = table.assign(hit_rate=100 * table["hit_rate"], ttft=1e3 * table["ttft"])
    made, axes = plot.figure(WIDE, 2.5, columns=2)
    for panel, column, label in (
        (axes[0], "hit_rate", "hit rate (%)"),
        (axes[1], "ttft", "mean time to first token (ms)"),
    ):
        _bands(panel, shown, "slots", column, "masks")
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(shown["slots"].unique()), [str(n) for n in sorted(shown["slots"].unique())])
        panel.minorticks_off()
        panel.set_xlabel("sub-networks that the cache holds")
        panel.set_ylabel(label)
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
    labels = ("FLOPs per token / alone", "weights per request / alone")
    titles = ("union of the masks over k", "union over k and batch")
    for panel, column, label, title in zip(axes, ("width", "weights"), labels, titles, strict=True):
        panel.set_title(title)
        _bands(panel, ours, "size", column, "order")
        mean = chance.groupby("size")[column].mean()
        panel.plot(mean.index, mean, color=INK, linewidth=0.9, linestyle="--", label="random masks")
        panel.set_xscale("log", base=2)
        sizes = sorted(table["size"].unique())
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.minorticks_off()
        panel.set_xlabel("requests in a batch")
        panel.set_ylabel(label)
        panel.set_ylim(0, None)
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


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
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (_, colour, gaps) in enumerate(groups):
        axes.plot(gaps, place + np.linspace(-0.22, 0.22, len(gaps)), ".", color=colour, markersize=4)
        axes.plot([gaps.mean()] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.6)
    axes.set_yticks(range(len(groups)), [name for name, *_ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("mask per input minus mask per task (points)")
    return made


@plot.use_style()
def latency_ratios(repetitions: pd.DataFrame) -> Figure:
    """Ratios of times, every repetition a dot, the median a bar: columns overhead, decode, moe, prefill, masked of `latency.repetitions`.

    Shaded is what the series asks for: overhead at most 0.5, decode within 10 % of a dense model of the same width."""
    rows = {
        "overhead": "(select + load) / prefill", "decode": "decode, ifp / dense_k", "prefill": "prefill, ifp / dense_k",
        "masked": "prefill, ifp_masked / dense_D", "moe": "decode, moe / ifp",
    }  # fmt: skip
    check_columns(repetitions, {name: name for name in rows}, "latency_ratios")
    made, (axes,) = plot.figure(COLUMN, 0.6 + 0.32 * len(rows))
    asked = {"overhead": (0.0, 0.5), "decode": (0.9, 1.1)}
    for place, name in enumerate(rows):
        values = repetitions[name].to_numpy()
        if name in asked:
            low, high = asked[name]
            axes.barh(place, high - low, left=low, color=PALETTE[0], alpha=0.18, height=0.8)
        axes.plot(
            values,
            np.full(len(values), place) + np.linspace(-0.2, 0.2, len(values)),
            ".",
            color=PALETTE[0],
            markersize=3,
        )
        axes.plot([np.median(values)] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=1.6)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows.values()))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, None)
    axes.grid(False, axis="y")
    axes.set_xlabel("ratio within a repetition")
    return made


def _bands(panel: Axes, table: pd.DataFrame, x: str, y: str, hue: str) -> None:
    for (name, part), (marker, colour) in zip(table.groupby(hue, sort=False), LOOKS, strict=False):
        over = part.groupby(x)[y].agg(["mean", "min", "max"])
        panel.plot(over.index, over["mean"], marker=marker, color=colour, label=str(name))
        panel.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.2, linewidth=0)
