"""Figures of training and the window sweep, the published sweep beside it, also against memory, and the caches of the arms."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from orchard import plot
from orchard.errors import BadInput
from orchard.papers.rattention.experiments.window_sweep import effect, on_edge
from orchard.papers.rattention.figures.looks import LOOKS, dots, named, rule, titled, words
from orchard.papers.rattention.method import costs
from orchard.plot.style import COLUMN, INK

MARGIN = 0.01  # bits per byte: the threshold of claim C8


def learning_curves(table: pd.DataFrame, arms: list[str], loss: str = "validation") -> Figure:
    """The "validation" or "training" loss of some arms against steps, with bands over seeds and each seed's last value as a dot."""
    column = {"validation": "validation_loss", "training": "loss"}[loss]
    part, known = named(table[table["arm"].isin(arms)].dropna(subset=[column]))
    made = plot.learning_curves(
        part, y=column, x_label="optimizer step", y_label=f"{loss} loss (nats/byte)", known=known
    )
    last = part[part["step"] == part["step"].max()]
    dots(made.axes[0], last, "step", column, known)
    best = last.groupby("arm")[column].mean().idxmin()
    return titled(made, f"after {last['step'].max():g} steps {best} is lowest")


def tuning(table: pd.DataFrame) -> Figure:
    """Validation loss against learning rate, one line per arm that has a grid; the chosen rate is the large marker."""
    shown, known = named(table.assign(rate=table["learning_rate"] * 1e3))
    made = plot.sweep(
        shown.dropna(subset=["validation_loss"]), x="rate", y="validation_loss", x_label="learning rate (10⁻³)",
        y_label="validation loss (nats/byte)", known=known,
    )  # fmt: skip
    best = shown[shown["chosen"] & shown["validation_loss"].notna()]
    for arm, rate, loss in zip(best["arm"], best["rate"], best["validation_loss"], strict=True):
        look = known[arm.lower()]
        made.axes[0].plot(rate, loss, look.marker, color=look.colour, markersize=8)
    untuned = on_edge(table.dropna(subset=["validation_loss"]))
    return titled(made, f"{len(best) - len(untuned)} of {len(best)} arms have their best rate inside the grid")


def window_sweep(table: pd.DataFrame) -> Figure:
    """Bits per byte against the window; arms without one are horizontal lines. Every seed is a dot."""
    shown = table[~table["family"].isin(["swa_mem", "swa_flops"])].assign(arm=table["family"])
    shown, known = named(shown)
    made = plot.sweep(
        shown, x="window", y="bits_per_byte", x_label="window W = w + 1 (tokens)", y_label="test loss (bits/byte)", known=known
    )  # fmt: skip
    dots(made.axes[0], shown, "window", "bits_per_byte", known)
    below = ahead(table)
    return titled(made, f"RAttention is below the sliding window at {sum(below)} of {len(below)} windows")


def ahead(table: pd.DataFrame) -> list[bool]:
    """Whether the mean loss of RAttention lies below that of the sliding window, for every window that both have."""
    means = table.groupby(["window", "family"])["bits_per_byte"].mean().unstack("family")
    return [bool(gap < 0) for gap in (means["rattn"] - means["swa"]).dropna()]


def arm_effects(units: pd.DataFrame, base: str = "full_rope") -> pd.DataFrame:
    """Every other arm minus ``base`` in bits per byte, with a 95 % interval over seeds and test windows; and each seed alone."""
    names = [name for name in pd.unique(units["arm"]) if name != base]
    return pd.DataFrame([{"label": name, **effect(units, "arm", name, base)} for name in names])


def noninferiority(table: pd.DataFrame) -> Figure:
    """Arms against full attention: the interval of an arm that matches it lies left of the dotted line. Every seed is a dot."""
    made = plot.forest(table.assign(label=table["label"].map(words)), x_label="bits/byte above full attention")
    axes = made.axes[0]
    for place, values in enumerate(table["seeds"]):
        axes.plot(values, [place] * len(values), "|", color=INK, markersize=5, alpha=0.6)
    rule(axes, MARGIN, "margin of C8", vertical=True)
    return titled(made, f"{(table['high'] <= MARGIN).sum()} of {len(table)} arms match full attention (dotted: 0.01)")


def pareto(table: pd.DataFrame, effects: pd.DataFrame) -> Figure:
    """Bits per byte against the bytes of cache that one step of decoding reads per sequence at the training length.

    Thin bars span the seeds, each of which is a dot; wide pale ones are the 95 % intervals of ``effects``, the differences to full
    attention of :func:`arm_effects`, around the mean of the arm.
    """
    shown, known = named(table.assign(kib=table["cache_bytes"] / 1024))
    made = plot.pareto(
        shown, cost="kib", loss="bits_per_byte", x_label="cache read per decoded token (KiB, bf16)",
        y_label="test loss (bits/byte)", known=known,
    )  # fmt: skip
    axes = made.axes[0]
    dots(axes, shown, "kib", "bits_per_byte", known)
    means = shown.groupby("arm", sort=False)[["kib", "bits_per_byte"]].mean()
    for label, effect_, low, high in effects[["label", "effect", "low", "high"]].itertuples(index=False):
        kib, bits = means.loc[words(label)].to_numpy(dtype=float)
        colour = known[words(label).lower()].colour
        axes.vlines(kib, bits + low - effect_, bits + high - effect_, color=colour, linewidth=5, alpha=0.25)
    best = frontier(table)
    ours = sum(name.startswith("rattn") for name in best)
    return titled(made, f"{ours} of the {len(best)} arms that no other beats are RAttention's")


def frontier(table: pd.DataFrame) -> list[str]:
    """The arms that no other beats in bytes of cache and in mean loss at once, cheapest first."""
    means = table.groupby("arm", sort=False)[["cache_bytes", "bits_per_byte"]].mean()
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


@plot.use_style()
def clue(table: pd.DataFrame, window: int) -> Figure:
    """The gains of :func:`clue_table`: one colour per baseline, a dot per seed; the stratum ``none`` is the control."""
    made, (axes,) = plot.figure(COLUMN, 2.6)
    labels = list(pd.unique(table["label"]))
    for shift, (other, rows) in zip((-0.12, 0.12), table.groupby("against", sort=False), strict=False):
        colour = LOOKS[str(other)].colour
        places = [labels.index(label) + shift for label in rows["label"]]
        axes.vlines(places, rows["low"], rows["high"], color=colour, linewidth=1.5)
        axes.plot(places, rows["effect"], "o", color=colour, label=f"against {words(f'{other}@{window}')}")
        for place, values in zip(places, rows["seeds"], strict=True):
            axes.plot([place] * len(values), values, ".", color=colour, markersize=3, alpha=0.6)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("copy distance (bytes); none: nothing to copy")
    axes.set_ylabel("RAttention ahead by (bits/byte)")
    made.legend(loc="outside lower center", ncols=1)
    first = table[table["against"] == table["against"].iloc[0]].set_index("label")["effect"]
    return titled(made, f"gain {first.iloc[-1]:+.3f} beyond the window, {first['none']:+.3f} with no clue")


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
    figure = plot.sweep(
        table.assign(kib=table["bytes"] / 1024), x="tokens", y="kib", x_label="tokens so far",
        y_label="cache (KiB, fp32)", known=LOOKS,
    )  # fmt: skip
    figure.axes[0].set_yscale("log", base=2)
    last = table[table["tokens"] == table["tokens"].max()].set_index("arm")["bytes"]
    return titled(figure, f"after {table['tokens'].max()} tokens {last.max() / last.min():.0f} times between the arms")
