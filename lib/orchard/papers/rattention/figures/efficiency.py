"""Figures of 05_efficiency: time, memory and what they buy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from orchard import plot
from orchard.papers.rattention.experiments import speed
from orchard.papers.rattention.figures.looks import (
    LOOKS,
    against_cost,
    legend_below,
    letters_legend,
    named,
    octaves,
    rule,
    shared,
    titled,
    words,
)
from orchard.papers.rattention.method import costs
from orchard.plot.style import GREY, INK, PALETTE, Look

WIDE = 7.0  # inches: both columns of a paper
FULL, WINDOW, LINEAR, FLA, OURS = (
    "full attention", "sliding window", "residual linear attention", "linear attention of fla", "RAttention",
)  # fmt: skip
OPERATIONS = {"full": FULL, "window": WINDOW, "residual": LINEAR, "fla": FLA}
LAYERS = {"full layer": FULL, "window layer": WINDOW, "rattn layer": OURS}
TIMED = {
    FULL: LOOKS["full"], WINDOW: LOOKS["swa"], LINEAR: LOOKS["la"], FLA: Look(PALETTE[5], "P"), OURS.lower(): LOOKS["rattn"],
}  # fmt: skip


@plot.use_style()
def throughput(table: pd.DataFrame) -> Figure:
    """Time of forward and backward per token against length: operations on the left, whole layers on the right."""
    times = table[table["measurement"] == "operation"].dropna(subset=["ms"])
    times = times.assign(us=1e3 * times["ms"] / (times["batch"] * times["length"]))
    made, panels = plot.figure(WIDE, 2.7, columns=2)
    kinds = ((OPERATIONS, "operations"), (LAYERS, "layers, projections included"))
    for axes, (names, title) in zip(panels, kinds, strict=True):
        shown = times[times["name"].isin(names)].assign(arm=times["name"].map(names))
        plot.sweep(
            shown, x="length", y="us", seed="round", x_label="sequence length (tokens)",
            y_label="forward + backward (µs per token)", axes=axes, known=TIMED,
        )  # fmt: skip
        _log(axes)
        axes.set_title(title)
    last = times[times["length"] == times["length"].max()].groupby("name")["us"].mean()
    said = f"at {times['length'].max()} tokens a RAttention layer takes {{}} of the time of full attention, {{}} of the window's"
    return titled(
        made,
        said.format(*(f"{last.get('rattn layer') / last.get(name):.1f}" for name in ("full layer", "window layer"))),
    )


def _log(axes: Axes) -> None:
    """A logarithmic y axis with numbers that are read at a glance."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


@plot.use_style()
def tiles(table: pd.DataFrame) -> Figure:
    """Time of the kernels for every tile of C tokens and m tiles per saved state."""
    return plot.heat_map(
        speed.tiles(table), row="C", column="m", value="ms", x_label="tiles per saved state, m", y_label="tokens per tile, C",
        value_label="forward + backward (ms)",
    )  # fmt: skip


@plot.use_style()
def step_bars(relative: pd.DataFrame) -> Figure:
    """Training step time relative to sliding-window attention: the paper's Table 3 in grey, ours in colour."""
    settings = relative[["source", "setting"]].drop_duplicates().reset_index(drop=True)
    made, (axes,) = plot.figure(WIDE, 2.2)
    for place, (source, setting) in enumerate(settings.itertuples(index=False)):
        part = relative[(relative["source"] == source) & (relative["setting"] == setting)].set_index("arm")
        for shift, arm in ((-0.2, "full"), (0.2, "rattn")):
            change = 100 * (float(part.loc[arm, "ratio"]) - 1)
            colour = GREY if source == "paper" else LOOKS[arm].colour
            look: dict[str, Any] = {"hatch": "///" if arm == "full" else None, "edgecolor": "white", "linewidth": 0}
            bars = axes.bar(place + shift, change, width=0.36, color=colour, **look)
            for number in axes.bar_label(bars, [f"{change:+.0f}".replace("-", "−")], padding=1, fontsize=6.5):
                number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    axes.axhline(0, color=INK, linewidth=0.8)
    rule(axes, 10, "rule of C14")
    axes.set_xticks(range(len(settings)), [f"{s['setting']}\n{s['source']}" for _, s in settings.iterrows()])
    axes.margins(y=0.12)
    axes.set_ylabel("step time against window T/2 (%)")
    axes.set_xlabel(
        "hatched: full attention; plain: RAttention with a window of T/8; dotted: the rule of C14 (on a GPU)"
    )
    axes.grid(False, axis="x")
    ours = relative[(relative["source"] == "here") & (relative["arm"] == "rattn")]["ratio"]
    said = " and ".join(f"{ratio:.2f}" for ratio in ours)
    return titled(made, f"here a step of RAttention takes {said} times as long as one of the window T/2")


@plot.use_style()
def decode(decoded: pd.DataFrame, memory: pd.DataFrame) -> Figure:
    """Latency of one token and bytes of the caches against context; peak memory of a forward pass against length."""
    made, (left, middle, right) = plot.figure(WIDE, 2.9, columns=3)
    table, known = named(decoded.assign(seed=0, kib=decoded["cache_bytes"] / 1024))
    for axes, y, label in ((left, "ms", "one decoded token (ms)"), (middle, "kib", "caches per sequence (KiB)")):
        plot.sweep(table, x="context", y=y, x_label="context (tokens)", y_label=label, axes=axes, known=known)
    left.set_ylim(bottom=0)
    _log(middle)
    peaks, known = named(memory.assign(mib=memory["bytes"] / 2**20))
    for (arm, mode), rows in peaks.groupby(["arm", "mode"], sort=False):
        line = "-" if mode == "inference" else "--"
        colour = known[str(arm).lower()].colour
        right.plot(rows["length"], rows["mib"], line, marker=".", color=colour, label=f"{arm}, {mode}")
    right.set(xlabel="length (tokens)", ylabel="peak of one layer's forward (MiB)")
    octaves(right, memory["length"].unique(), "{:g}".format)
    _log(right)
    legend_below(made, left, right)
    end = decoded["context"].max()
    last = decoded[decoded["context"] == end]["cache_bytes"]
    return titled(made, f"at {end} tokens full attention holds {last.max() / last.min():.1f} times the smallest cache")


@plot.use_style()
def timing(table: pd.DataFrame) -> Figure:
    """Loss against bytes of cache, against decode time and against training time; the steps are the frontiers."""
    made, panels = plot.figure(WIDE, 3.4, columns=3)
    table = table.assign(kib=table["kv_bytes"] / 1024)
    costs_of = {
        "kib": "caches (KiB per sequence)",
        "decode_ms": "one decoded token (ms)\nheights as on the left",
        "train_s": "training (s)",
    }
    for axes, (cost, label) in zip(panels, costs_of.items(), strict=True):
        against_cost(axes, table, cost, label)
    crowded = panels[
        1
    ]  # of labels and their pointers: points that are too close for them, at the heights of those on the left
    for drawn in (*crowded.texts, *(line for line in crowded.lines if line.get_linewidth() < 0.5)):
        drawn.remove()
    letters_legend(made, pd.unique(table["arm"]), columns=4)
    best = shared(table).groupby("arm")["bits_per_byte"].mean().idxmin()
    return titled(made, f"the lowest loss is that of {words(str(best))}; dots are seeds")


BATCHES = (1, 8, 32, 128, 512)


@plot.use_style()
def calculator(
    model: str = "3B", layers: int | str = "published", ratio: int = 3, window: int = 512, context: int = 4096, batch: int = 128,
    state: str = "per kv head", dtype: str = "bf16", hardware: str = "H100",
) -> Figure:  # fmt: skip
    """Bytes of cache at a context, and the cut in step time against a 4k window by the paper's formula (its Figure 7)."""
    shape = costs.SHAPES[model] if layers == "published" else replace(costs.SHAPES[model], num_layers=int(layers))
    per_query = state == "per query head"
    made, (left, right) = plot.figure(WIDE, 2.6, columns=2)
    arms = {
        "full": costs.kv_budget(context, None, ratio, dtype, shape),
        "window 4k": costs.kv_budget(context, 4095, ratio, dtype, shape, state=None),
        f"RATTENTION {window}": costs.kv_budget(context, window - 1, ratio, dtype, shape, dtype, per_query),
    }
    bottom = np.zeros(len(arms))
    for part, colour in (("global_bytes", PALETTE[2]), ("window_bytes", PALETTE[1]), ("state_bytes", PALETTE[0])):
        sizes = np.array([getattr(budget, part) for budget in arms.values()]) / 2**20
        left.bar(list(arms), sizes, bottom=bottom, color=colour, width=0.6, label=part.removesuffix("_bytes"))
        bottom += sizes
    left.set_ylabel("cache of one sequence (MiB)")
    left.set_xlabel(f"context {context}, {shape.num_layers} layers, {dtype}")
    left.legend(title="layers and parts", loc="upper right")
    left.grid(False, axis="x")

    contexts = np.unique(np.geomspace(1024, 65536, 25).round().astype(int))
    held = costs.state_tokens(shape, per_query_head=per_query)
    for size in sorted({*BATCHES, batch}):
        cuts = [
            100 * costs.step_time_cut(
                shape, int(c), size, window - 1, held, hardware=costs.HARDWARE[hardware], bytes_per_element=costs.DTYPES[dtype],
                period=ratio + 1,
            ) for c in contexts
        ]  # fmt: skip
        colour, width = (PALETTE[0], 1.8) if size == batch else (GREY, 0.9)
        right.plot(contexts, cuts, color=colour, linewidth=width, zorder=1 + width)
        peak = contexts[int(np.argmax(cuts))], max(cuts)
        right.annotate(f"B = {size}", peak, xytext=(4, 1), textcoords="offset points", fontsize=6.5)
    right.axvline(context, color=INK, linewidth=0.6, linestyle=":")
    octaves(right, (1024, 4096, 16384, 65536), lambda tokens: f"{tokens / 1024:g}k")
    right.set_xlabel("context (tokens)")
    right.set_ylabel(f"cut in step time on {hardware} (%)")
    return made
