"""Figures of training and the window sweep, the published sweep beside it, also against memory, and the caches of the arms."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from orchard import plot
from orchard.errors import BadInput
from orchard.papers.rattention.experiments.window_sweep import effect
from orchard.papers.rattention.figures.looks import LOOKS
from orchard.papers.rattention.method import costs


def learning_curves(table: pd.DataFrame, arms: list[str], loss: str = "validation") -> Figure:
    """The "validation" or "training" loss of some arms against steps, with bands over seeds."""
    column = {"validation": "validation_loss", "training": "loss"}[loss]
    part = table[table["arm"].isin(arms)].dropna(subset=[column])
    label = f"{loss} loss (nats/byte)"
    return plot.learning_curves(part, y=column, x_label="optimizer step", y_label=label, known=LOOKS)


def tuning(table: pd.DataFrame) -> Figure:
    """Validation loss against learning rate, one line per family."""
    return plot.learning_curves(
        table.assign(rate=table["learning_rate"] * 1e3), x="rate", y="validation_loss", x_label="learning rate (10⁻³)",
        y_label="validation loss (nats/byte)", known=LOOKS,
    )  # fmt: skip


def window_sweep(table: pd.DataFrame) -> Figure:
    """Bits per byte against the window; arms without one are horizontal lines."""
    shown = table[~table["family"].isin(["swa_mem", "swa_flops"])].assign(arm=table["family"])
    return plot.sweep(
        shown, x="window", y="bits_per_byte", x_label="window w + 1 (tokens)", y_label="test loss (bits/byte)", known=LOOKS
    )  # fmt: skip


def arm_effects(units: pd.DataFrame, base: str = "full_rope") -> pd.DataFrame:
    """Every other arm minus ``base`` in bits per byte, with a 95 % interval over seeds and test windows."""
    names = [name for name in pd.unique(units["arm"]) if name != base]
    return pd.DataFrame([{"label": name, **effect(units, "arm", name, base)} for name in names])


def noninferiority(table: pd.DataFrame) -> Figure:
    """Arms against full attention: the interval of an arm that matches it lies left of the margin (ticks)."""
    return plot.forest(table, x_label="test loss minus full attention's (bits/byte)")


def pareto(table: pd.DataFrame) -> Figure:
    """Bits per byte against the bytes of cache that one step of decoding reads per sequence at the training length."""
    return plot.pareto(
        table.assign(kib=table["cache_bytes"] / 1024), cost="kib", loss="bits_per_byte", x_label="cache read per decoded token (KiB, bf16)",
        y_label="test loss (bits/byte)", known=LOOKS,
    )  # fmt: skip


def strata_table(units: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Bits per byte by arm and copy-distance stratum, over all seeds and test windows, with the stratum's share of the bytes."""
    sums = units[units["arm"].isin(arms)].groupby(["stratum", "arm"], sort=False)[["nats", "bytes"]].sum().reset_index()
    sums["bits_per_byte"] = sums["nats"] / np.log(2) / sums["bytes"]
    sums["share"] = sums["bytes"] / sums.groupby("arm")["bytes"].transform("sum")
    return sums.drop(columns=["nats", "bytes"])


def strata(units: pd.DataFrame, arms: list[str]) -> Figure:
    """Bits per byte by copy-distance stratum."""
    return plot.heat_map(
        strata_table(units, arms), row="arm", column="stratum", value="bits_per_byte", x_label="copy distance (bytes)", y_label="",
        value_label="bits/byte",
    )  # fmt: skip


def claims_forest(verdicts: pd.DataFrame) -> Figure:
    """Measured effects of the claims about loss, in bits per byte, coloured by verdict; thresholds are ticks."""
    table = verdicts[verdicts["metric"].str.contains("bits/byte") & verdicts["effect"].notna()]
    shown = table.assign(label=table["id"], threshold=table["threshold"])[
        ["label", "effect", "low", "high", "threshold", "verdict"]
    ]
    return plot.forest(shown, x_label="effect (bits/byte)")


def _figure_4(published: pd.DataFrame) -> pd.DataFrame:
    """What the paper's Figure 4 shows of 3B models: arm, window (missing for full and for linear attention), value (MMLU, %)."""
    table = published[published["table"] == "Figure 4"]
    parts = table["arm"].str.extract(r"^(?P<arm>[^@]+)(?:@(?P<window>\d+))?$")
    return parts.assign(window=pd.to_numeric(parts["window"]), value=table["value"])


def published_sweep(published: pd.DataFrame) -> Figure:
    """The paper's own Pareto figure (its figure 4), redrawn from its numbers: MMLU against the window at 3B."""
    points = _figure_4(published)
    points = points[points["window"] != 0]
    return plot.sweep(
        None, published=points, x="window", y="value", x_label="window w (tokens)", y_label="MMLU, 5-shot (%)", known=LOOKS
    )  # fmt: skip


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
    return figure
