"""Figures of training and the window sweep, the published sweep beside it, also against memory, and the caches of the arms."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from orchard import plot
from orchard.errors import BadInput
from orchard.evidence import interval
from orchard.papers.rattention.experiments.window_sweep import effect, far, near, on_edge, sweep_clue
from orchard.papers.rattention.figures.looks import (
    LOOKS,
    against_cost,
    dots,
    intervals,
    legend_below,
    letters_legend,
    lines,
    named,
    rule,
    shared,
    short,
    titled,
    words,
)
from orchard.papers.rattention.method import costs
from orchard.plot.style import INK, PALETTE

MARGIN = 0.01  # bits per byte: the threshold of claim C8


@plot.use_style()
def learning_curves(table: pd.DataFrame, arms: list[str], loss: str = "validation") -> Figure:
    """The "validation" or "training" loss of some arms against steps, with bands over seeds and each seed's last value as a dot; on the
    right the second half of the steps, where the arms are close."""
    column = {"validation": "validation_loss", "training": "loss"}[loss]
    part = table[table["arm"].isin(arms)].dropna(subset=[column])
    end = part["step"].max()
    made, panels = plot.figure(7.0, 2.6, columns=2)
    halves = ((part, "all steps"), (part[part["step"] >= end / 2], "the second half"))
    for axes, (shown, title) in zip(panels, halves, strict=True):
        lines(axes, shown, "step", column, "optimizer step", f"{loss} loss (nats/byte)", ends=True)
        axes.set_title(title)
    legend_below(made, panels[0])
    best = part[part["step"] == end].groupby("arm")[column].mean().idxmin()
    return titled(made, f"after {end:g} steps {words(str(best))} is lowest")


@plot.use_style()
def tuning(table: pd.DataFrame) -> Figure:
    """Validation loss of every arm (rows) at every learning rate that was tried; the chosen one is framed."""
    shown = named(table.assign(rate=table["learning_rate"] * 1e3))[0]
    arms, rates = list(pd.unique(shown["arm"])), sorted(pd.unique(shown["rate"]))
    made, (axes,) = plot.figure(5.0, 0.7 + 0.2 * len(arms))
    plot.heat_map(
        shown, row="arm", column="rate", value="validation_loss", number=".3f", x_label="learning rate (10⁻³)", y_label="",
        value_label="validation loss (nats/byte)", axes=axes,
    )  # fmt: skip
    axes.set_yticks(range(len(arms)), arms)
    best = shown[shown["chosen"] & shown["validation_loss"].notna()]
    for arm, rate in zip(best["arm"], best["rate"], strict=True):
        corner = (rates.index(rate) - 0.46, arms.index(arm) - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=PALETTE[3], linewidth=1.6))
    untuned = on_edge(table.dropna(subset=["validation_loss"]))
    return titled(made, f"{len(best) - len(untuned)} of {len(best)} arms: best rate inside the grid (framed)")


@plot.use_style()
def window_sweep(table: pd.DataFrame) -> Figure:
    """Bits per byte against the window; arms without one are horizontal lines. Lines are means over the seeds that every arm has; every
    seed is a dot. Dotted: what matches full attention by the margin of C8."""
    shown = table[~table["family"].isin(["swa_mem", "swa_flops"])]
    means = shared(shown)
    lines, known = named(means.assign(arm=means["family"]))
    made = plot.sweep(
        lines, x="window", y="bits_per_byte", x_label="window W = w + 1 (tokens)", y_label="test loss (bits/byte)", known=known
    )  # fmt: skip
    axes = made.axes[0]
    dots(axes, named(shown.assign(arm=shown["family"]))[0], "window", "bits_per_byte", known)
    full = means.loc[means["arm"] == "full_rope", "bits_per_byte"].mean()
    rule(axes, full + MARGIN, "full attention + 0.01 (C8)")
    legend_below(made, axes, columns=2)
    below = ahead(table)
    return titled(made, f"RAttention is below the sliding window at {sum(below)} of {len(below)} windows")


def ahead(table: pd.DataFrame) -> list[bool]:
    """Whether the mean loss of RAttention lies below that of the sliding window, for every window that both have."""
    means = shared(table).groupby(["window", "family"])["bits_per_byte"].mean().unstack("family")
    return [bool(gap < 0) for gap in (means["rattn"] - means["swa"]).dropna()]


def arm_effects(units: pd.DataFrame, base: str = "full_rope") -> pd.DataFrame:
    """Every other arm minus ``base`` in bits per byte, with a 95 % interval over seeds and test windows; and each seed alone."""
    names = [name for name in pd.unique(units["arm"]) if name != base]
    return pd.DataFrame([{"label": name, **effect(units, "arm", name, base)} for name in names])


@plot.use_style()
def noninferiority(table: pd.DataFrame) -> Figure:
    """Arms against full attention, by family: the interval of an arm that matches it lies left of the dotted line. Every seed is a tick.
    One model under two names is one row."""
    kind, window = table["label"].str.partition("@")[0], pd.to_numeric(table["label"].str.partition("@")[2])
    table = table.assign(kind=kind, place=kind.map(list(LOOKS).index), window=window).sort_values(["place", "window"])
    names = table.groupby(["effect", "low", "high"], sort=False)["label"].agg(list)
    rows = table[~table.duplicated(["effect", "low", "high"])].reset_index(drop=True)
    made, (axes,) = plot.figure(5.0, 0.75 + 0.24 * len(rows))
    for family, part in rows.groupby("kind"):
        intervals(axes, list(part.index), part, LOOKS[str(family)].colour)
    axes.axvline(0, color=INK, linewidth=0.8)
    rule(axes, MARGIN, "margin of C8", vertical=True)
    axes.set_yticks(range(len(rows)), ["\n= ".join(map(words, same)) for same in names])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel("bits/byte above full attention; ticks are seeds")
    return titled(made, f"{(rows['high'] <= MARGIN).sum()} of {len(rows)} arms match full attention (dotted: 0.01)")


@plot.use_style()
def pareto(table: pd.DataFrame, effects: pd.DataFrame) -> Figure:
    """Bits per byte against the bytes of cache that one step of decoding reads per sequence at the training length.

    Points and thin bars are means and ranges over the seeds that every arm has; every seed is a dot. Wide pale bars are the 95 %
    intervals of ``effects``, the differences to full attention of :func:`arm_effects`, around the point of the arm.
    """
    kib = table.assign(kib=table["cache_bytes"] / 1024)
    made, (axes,) = plot.figure(5.0, 3.4)
    against_cost(axes, kib, "kib", "cache read per decoded token (KiB, bf16; state fp32)")
    points = shared(kib).groupby("arm", sort=False)[["kib", "bits_per_byte"]].mean()
    apart = effects[~effects.duplicated(["effect", "low", "high"])]  # one model under two names has one bar
    for label, effect_, low, high in apart[["label", "effect", "low", "high"]].itertuples(index=False):
        at, bits = points.loc[label].to_numpy(dtype=float)
        colour = LOOKS[label.partition("@")[0]].colour
        axes.vlines(at, bits + low - effect_, bits + high - effect_, color=colour, linewidth=5, alpha=0.25)
    pale = Patch(color=INK, alpha=0.25, linewidth=0, label="95 % interval of the difference to full")
    letters_legend(made, pd.unique(table["arm"]), also=[pale])
    return titled(made, f"not beaten in cache and loss at once: {', '.join(map(short, frontier(table)))}")


def frontier(table: pd.DataFrame) -> list[str]:
    """The arms that no other beats in bytes of cache and in mean loss at once, over the seeds that all have; cheapest first."""
    means = shared(table).groupby("arm", sort=False)[["cache_bytes", "bits_per_byte"]].mean()
    means = means.sort_values(["cache_bytes", "bits_per_byte"])
    return list(means.index[means["bits_per_byte"] < means["bits_per_byte"].cummin().shift(fill_value=np.inf)])


def clue_table(units: pd.DataFrame, window: int) -> pd.DataFrame:
    """What RAttention gains on the sliding window of the same size, and on that of the same memory, by where the clue lies: label
    (the stratum), against, effect with interval, in bits per byte; positive where RAttention is ahead."""
    parts = {str(name): rows for name, rows in units.groupby("stratum", sort=False) if rows["bytes"].sum()}
    return pd.DataFrame([
        {"label": name, "against": other, **effect(rows, "arm", f"{other}@{window}", f"rattn@{window}")}
        for other in ("swa", "swa_mem") if f"{other}@{window}" in set(units["arm"]) for name, rows in parts.items()
    ])  # fmt: skip


BEYOND, INSIDE = "beyond the window (claim)", "inside the window (control)"


def clue_parts(units: pd.DataFrame) -> pd.DataFrame:
    """The parts of C7 and C7b and of their control: against, where, window (w = W), effect, low, high, seeds. The gain of RAttention on
    bytes whose clue lies beyond (or inside) the window, minus its gain where nothing can be copied; bits per byte."""
    rows = []
    places: tuple[tuple[str, Callable[[pd.DataFrame, int], pd.DataFrame]], ...] = ((BEYOND, far), (INSIDE, near))
    for against in ("swa", "swa_mem"):
        for where, stratum in places:
            gains = sweep_clue(against, stratum, {"window_sweep_units": units}.__getitem__)
            for part, gain in gains.groupby("part", sort=False):
                found, seeds = interval(gain), gain.groupby("seed")["value"].mean().tolist()
                about = {"against": against, "where": where, "window": int(str(part).removeprefix("w = "))}
                rows.append({**about, "effect": found.estimate, "low": found.low, "high": found.high, "seeds": seeds})
    return pd.DataFrame(rows)


@plot.use_style()
def clue(table: pd.DataFrame, parts: pd.DataFrame, window: int) -> Figure:
    """Left, the gains of :func:`clue_table` at one window: a colour per baseline, a dot per seed; the stratum ``none`` is the control.
    Right, what decides C7 and C7b at every window, :func:`clue_parts`: filled the claim, hollow its control, zero the threshold."""
    made, (left, right) = plot.figure(7.0, 2.8, columns=2)
    labels = list(pd.unique(table["label"]))
    for shift, (other, rows) in zip((-0.12, 0.12), table.groupby("against", sort=False), strict=False):
        places = [labels.index(label) + shift for label in rows["label"]]
        _marks(left, places, rows, LOOKS[str(other)].colour)
    left.set_xticks(range(len(labels)), labels)
    left.set_xlabel("copy distance (bytes)\nnone: nothing to copy; mismatch: copying misleads")
    left.set_ylabel("RAttention ahead by (bits/byte)")
    left.set_title(f"W = {window}, by copy distance")
    windows = sorted(pd.unique(parts["window"]))
    groups = parts.groupby(["against", "where"], sort=False)
    for shift, ((rival, where), rows) in zip((-0.27, -0.09, 0.09, 0.27), groups, strict=False):
        places = [windows.index(at) + shift for at in rows["window"]]
        said = f"against {words(str(rival))} {'RAttention W' if rival == 'swa_mem' else 'W'}, {where}"
        _marks(right, places, rows, LOOKS[str(rival)].colour, hollow=where == INSIDE, label=said)
    right.set_xticks(range(len(windows)), [f"W = {at}" for at in windows])
    right.set_ylabel("the same minus none (bits/byte)")
    right.set_title("C7 and C7b: above zero is asked at all three")
    for axes in (left, right):
        axes.axhline(0, color=INK, linewidth=0.8)
    legend_below(made, right, columns=2)
    gains = table[table["against"] == table["against"].iloc[0]].set_index("label")["effect"]
    beyond, anyway = (
        f"{'ahead' if gain > 0 else 'behind'} by {abs(gain):.3f}" for gain in (gains.iloc[-1], gains["none"])
    )
    return titled(
        made,
        f"RAttention {window}: {beyond} where a copy is {gains.index[-1]} bytes back, {anyway} with nothing to copy",
    )


def _marks(
    axes: Axes, places: list[float], rows: pd.DataFrame, colour: str, hollow: bool = False, label: str = "_"
) -> None:
    """An interval, its middle and every seed, for each row."""
    axes.vlines(places, rows["low"], rows["high"], color=colour, linewidth=1.5)
    face = "white" if hollow else colour
    axes.plot(places, rows["effect"], "o", color=colour, markerfacecolor=face, label=label, zorder=3)
    for place, values in zip(places, rows["seeds"], strict=True):
        axes.plot([place] * len(values), values, ".", color=colour, markersize=3, alpha=0.6)


def strata_table(units: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Bits per byte by arm and copy-distance stratum, over all seeds and test windows, with the stratum's share of the bytes."""
    sums = units[units["arm"].isin(arms)].groupby(["stratum", "arm"], sort=False)[["nats", "bytes"]].sum().reset_index()
    sums["bits_per_byte"] = sums["nats"] / np.log(2) / sums["bytes"]
    sums["share"] = sums["bytes"] / sums.groupby("arm")["bytes"].transform("sum")
    return sums.drop(columns=["nats", "bytes"])


def _figure_4(published: pd.DataFrame) -> pd.DataFrame:
    """What the paper's Figure 4 shows of 3B models: arm, window (missing for full and for linear attention), value (MMLU, %)."""
    table = published[published["table"] == "Figure 4"]
    parts = table["arm"].str.extract(r"^(?P<arm>[^@]+)(?:@(?P<window>\d+))?$")
    return parts.assign(window=pd.to_numeric(parts["window"]), value=table["value"])


def published_sweep(published: pd.DataFrame) -> Figure:
    """The paper's own Pareto figure (its figure 4), redrawn from its numbers: MMLU against the window at 3B."""
    points = _figure_4(published)
    points = points[points["window"] != 0]
    made = plot.sweep(
        None, published=points, x="window", y="value", x_label="window w (tokens)", y_label="MMLU, 5-shot (%)", known=LOOKS
    )  # fmt: skip
    full = points.loc[points["arm"] == "Full", "value"].mean()
    reached = points[(points["arm"] == "RAtt") & (points["value"] >= full)]["window"]
    return titled(made, f"published: RAtt reaches full attention at w = {', '.join(f'{w:g}' for w in sorted(reached))}")


STATES = ("bf16 per kv head", "fp32 per kv head", "bf16 per query head")


def published_pareto_table(
    published: pd.DataFrame, context: int = 4096, batch: int = 1, state: str = "bf16 per kv head"
) -> pd.DataFrame:
    """The paper's Figure 4 with what decoding holds: arm, window (missing for Full), value (MMLU, %), bytes.

    Quality is what the paper printed for 3B at a context of 4096; bytes are `costs.kv_budget` of `batch` sequences at
    `context`. RAtt@0 is linear attention alone. Raises BadInput for a `state` that is not in `STATES`.
    """
    if state not in STATES:
        raise BadInput(f"published_pareto: state {state!r} is not known: use one of {', '.join(STATES)}")
    kept, _, holder = state.partition(" per ")
    points = _figure_4(published)
    points = points[points["arm"] != "Linear"]  # the value of RAtt@0
    held = [
        costs.kv_budget(
            context, None if np.isnan(window) else int(window) - 1, state=kept if arm == "RAtt" else None,
            per_query_head=holder == "query head",
        ).total for arm, window in zip(points["arm"], points["window"], strict=True)
    ]  # fmt: skip
    return points.assign(bytes=batch * np.array(held))


@plot.use_style()
def published_pareto(
    published: pd.DataFrame, window: int = 512, context: int = 4096, batch: int = 1, state: str = "bf16 per kv head"
) -> Figure:
    """Published quality against derived memory; the arms with this window stand out, where the paper has a value."""
    table = published_pareto_table(published, context, batch, state)
    table["gib"] = table["bytes"] / 2**30
    figure, (axes,) = plot.figure(height=2.8)
    plot.overlay_published(axes, table, x="gib", y="value", hue="arm", known=LOOKS)
    said = []
    for arm in ("RAtt", "SWA"):
        look, now = LOOKS[arm.lower()], table[(table["arm"] == arm) & (table["window"] == window)]
        axes.plot(now["gib"], now["value"], linestyle="none", marker=look.marker, markersize=8, color=look.colour)
        found = [f"{value:.1f} % at {gib:.3g} GiB" for value, gib in zip(now["value"], now["gib"], strict=True)]
        said.append(f"{arm}@{window}: {(found or ['no value'])[0]}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value < 100 else f"{value:.0f}"))
    axes.margins(x=0.12, y=0.12)
    axes.set_title("\n".join(said))
    axes.set_xlabel(f"cache of 3B, {batch} × {context} tokens (GiB)\nstate: {state}")
    axes.set_ylabel("MMLU, 5-shot, published (%)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def memory(table: pd.DataFrame) -> Figure:
    """What the caches of one sequence hold against its length, both on logarithmic axes."""
    said = {arm: arm.replace("rattn", "RAttention") if ", " in arm else words(arm) for arm in pd.unique(table["arm"])}
    drawn = {arm: replace(LOOKS[re.split("[@ ]", arm)[0]], **({"marker": "v"} if ", " in arm else {})) for arm in said}
    figure = plot.sweep(
        table.assign(arm=table["arm"].map(said), kib=table["bytes"] / 1024), x="tokens", y="kib", x_label="tokens so far",
        y_label="cache (fp32)", known={said[arm].lower(): look for arm, look in drawn.items()},
    )  # fmt: skip
    axes = figure.axes[0]
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=4))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda kib, _: f"{kib:g} KiB" if kib < 1024 else f"{kib / 1024:g} MiB")
    )
    last = table[table["tokens"] == table["tokens"].max()].set_index("arm")["bytes"]
    ours = next(arm for arm in last.index if arm.startswith("rattn@"))
    times = last["full_rope"] / last[ours]
    return titled(figure, f"after {table['tokens'].max()} tokens RAttention holds {times:.1f} times less in all")
