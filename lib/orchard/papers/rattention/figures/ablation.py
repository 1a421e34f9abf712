"""Figures of 03_ablate: effects of all variants, loss against cache over the local:global ratio, drift of a bf16 state."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orchard import plot
from orchard.papers.rattention.experiments import MAPS, PARTS
from orchard.papers.rattention.experiments.ablations import VARIANTS
from orchard.papers.rattention.experiments.window_sweep import effect
from orchard.papers.rattention.figures.looks import LOOKS, dots, intervals, legend_below, titled
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns, looks, use_style

ROW = 0.145  # inches
ALL = "all text"
LAG = ("base", "gain 0.1", "−norm", "−RLA")  # the norm of the branch, and no branch
PLACEBO, CONTROL = "placebo", "control of C12 and C13"
SAID = {
    "base": "base (RAttention)", "relu": "ReLU map", "identity": "identity map", "gain 0.1": "gain 0.1 (branch starts small)",
    "−norm": "−norm (branches just added)", "−SWA": "−SWA (linear attention alone)", "−RLA": "−RLA (window alone)",
    "head split": "head split (window or branch)", PLACEBO: "placebo (base, other seeds)",
}  # fmt: skip
DECIDES = {**dict.fromkeys(MAPS, "C12"), **dict.fromkeys(PARTS, "C13")}
# Rows of the paper's Table 4 and our variants. What its Mamba2 and Hymba rows are made of it does not say.
TABLE_4 = {
    "ReLU": "relu", "Identity": "identity", "Mamba2": "scalar decay", "Hymba": "head split", "-SWA": "−SWA", "-GroupNorm": "−norm",
}  # fmt: skip


def effects(units: pd.DataFrame) -> pd.DataFrame:
    """Every variant minus the one it is compared with, in bits per byte, with a 95 % interval over seeds and windows; last the placebo,
    where it was trained."""
    trained = set(units["variant"])
    compared = {name: (change.group, change.against) for name, change in VARIANTS.items() if name != "base"}
    compared[PLACEBO] = CONTROL, "base"
    return pd.DataFrame([
        {"label": name, "group": group, "against": against, **effect(units, "variant", name, against)}
        for name, (group, against) in compared.items() if {name, against} <= trained and name != against
    ])  # fmt: skip


def said(name: str) -> str:
    """A variant in words, with the claim that it decides."""
    return SAID.get(name, name) + (f", {DECIDES[name]}" if name in DECIDES else "")


@use_style()
def ablation(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Effects with intervals, grouped by what is changed; right of zero is worse than the base, every seed is a tick. ``published``: on
    the right in grey the paper's Table 4 as differences from its own base, right of zero worse too."""
    check_columns(table, {c: c for c in ("label", "group", "against", "effect", "low", "high")}, "ablation")
    groups = list(pd.unique(table["group"]))
    columns = 1 if published is None else 2
    made, (axes, *others) = plot.figure(
        4.2 if published is None else 7.0, 0.7 + ROW * (len(table) + len(groups)), columns=columns
    )
    axes.axvline(0, color=INK, linewidth=0.8)
    places, place = dict[str, int](), 0
    for index, group in enumerate(groups):
        heading = axes.text(
            0.012, place, group, transform=axes.get_yaxis_transform(), va="center", fontsize=7, weight="bold"
        )
        heading.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
        colour = INK if group == CONTROL else PALETTE[index % len(PALETTE)]
        rows = table[table["group"] == group]
        places |= {str(label): place + count for count, label in enumerate(rows["label"], start=1)}
        intervals(axes, [places[str(label)] for label in rows["label"]], rows, colour)
        place += len(rows) + 1
    starred = set(table.loc[table["against"] != "base", "label"])
    axes.set_yticks(list(places.values()), [f"{said(name)}*" if name in starred else said(name) for name in places])
    for panel in (axes, *others):
        panel.set_ylim(place - 0.3, -0.7)
        panel.tick_params(axis="y", length=0)
        panel.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    against = ", ".join(name for name in pd.unique(table["against"]) if name != "base")
    axes.set_xlabel(
        "← better   change in test loss (bits/byte)" + (f"\n* against {against}, not the base" if against else "")
    )
    if published is not None:
        _paper(others[0], published, places)
    changes = table[table["group"] != CONTROL]
    worse, better = (changes["low"] > 0).sum(), (changes["high"] < 0).sum()
    return titled(made, f"{worse} of {len(changes)} changes make it worse, {better} better; ticks are seeds")


def _paper(axes: Axes, published: pd.DataFrame, places: dict[str, int]) -> None:
    """The paper's differences, turned so that right is worse, at the rows of our variants."""
    table = _table_4(published)
    for metric, marker, shift in (("MMLU", "D", -0.15), ("Avg", "o", 0.15)):
        rows = [
            (-float(table[metric][paper]), places[ours] + shift) for paper, ours in TABLE_4.items() if ours in places
        ]
        axes.plot(*zip(*rows, strict=True), marker, color=GREY, markerfacecolor="white", label=f"{metric} (paper, 3B)")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(list(places.values()), [""] * len(places))
    axes.set_xlabel("← better   points lost against the paper's base")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2)


def _table_4(published: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 4 as differences from its base, in points."""
    table = published[published["table"] == "Table 4"].pivot(index="arm", columns="metric", values="value")
    return (table - table.loc["RAtt@512"]).loc[list(TABLE_4)]


def beside_paper(published: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 4 as differences from its base (points), beside our effects (bits/byte; less is better)."""
    paper = _table_4(published).rename(columns=lambda name: f"{name}, paper (points)")
    ours = found.set_index("label").reindex(list(TABLE_4.values()))[["effect", "low", "high"]]
    return paper.assign(variant=list(TABLE_4.values())).set_index("variant").join(ours.add_suffix(" (bits/byte)"))


@use_style()
def lag(curves: pd.DataFrame, units: pd.DataFrame) -> Figure:
    """Why RAttention is behind where nothing has to be recalled: the loss of the base, of a norm that starts small, of no norm and of the
    window alone against steps; and in the same colours what each needs more than the window alone, on all text (filled) and where nothing
    can be copied (hollow)."""
    names = [name for name in LAG if name in set(curves["arm"])]
    made, (left, right) = plot.figure(7.0, 2.8, columns=2)
    part = curves[curves["arm"].isin(names)].dropna(subset=["validation_loss"])
    part = part.assign(arm=part["arm"].map(SAID))
    own = looks(names, {"base": LOOKS["rattn"], "−rla": LOOKS["swa"]})
    known = {SAID[name].lower(): look for name, look in own.items()}
    label = "validation loss (nats/byte)"
    plot.learning_curves(part, y="validation_loss", x_label="optimizer step", y_label=label, axes=left, known=known)
    dots(left, part, "step", "validation_loss", known)
    table = lag_table(units)
    for (name, where), row in table.groupby(["label", "where"], sort=False):
        shift = -0.12 if where == ALL else 0.12
        intervals(right, [names.index(str(name)) + shift], row, own[str(name)].colour, hollow=where != ALL)
    for where, face in ((ALL, INK), ("nothing to copy", "white")):
        right.add_line(Line2D([], [], color=INK, marker="o", markerfacecolor=face, linestyle="none", label=where))
    right.axvline(0, color=INK, linewidth=0.8)
    compared = names[: names.index("−RLA")] if "−RLA" in names else names
    right.set_yticks(range(len(compared)), [SAID[name].replace(" (", "\n(") for name in compared])
    right.set_ylim(len(compared) - 0.5, -0.5)
    right.set_xlabel("← better   against the window alone (bits/byte)")
    legend_below(made, left, right)
    gap = float(table[(table["label"] == "base") & (table["where"] != ALL)]["effect"].sum())
    said = f"{abs(gap):.3f} bits/byte {'more' if gap > 0 else 'less'}"
    return titled(made, f"where nothing can be copied the base needs {said} than the window alone")


def lag_table(units: pd.DataFrame) -> pd.DataFrame:
    """Variants of :data:`LAG` minus the window alone: label, where (all text, nothing to copy), effect, low, high, seeds."""
    trained = set(units["variant"])
    parts = {ALL: units, "nothing to copy": units[units["stratum"] == "none"]}
    return pd.DataFrame([
        {"label": name, "where": where, **effect(part, "variant", name, "−RLA")}
        for where, part in parts.items() for name in LAG if {name, "−RLA"} <= trained and name != "−RLA"
    ])  # fmt: skip


def by_stratum(units: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """`first` minus `second` on all text and in each copy-distance stratum that has text: label, effect, low, high."""
    parts = {ALL: units} | {
        str(name): part for name, part in units.groupby("stratum", sort=False) if part["bytes"].sum()
    }
    return pd.DataFrame([{"label": name, **effect(part, "variant", first, second)} for name, part in parts.items()])


def compare(units: pd.DataFrame) -> Callable[..., Figure]:
    """A picture of two variants to choose: where in the text the first is worse (right of zero) than the second."""

    def draw(first: str = "−SWA", second: str = "base") -> Figure:
        table = by_stratum(units, first, second)
        return plot.forest(table, x_label=f"{first} minus {second} (bits/byte), by copy distance")

    return draw


def global_ratio(table: pd.DataFrame) -> Figure:
    """Bits per byte against the cache that a decoded token reads, for the ratios of global to local layers."""
    shown = table[table["variant"].str.startswith("global ")]
    made = plot.pareto(
        shown.assign(kib=shown["cache_bytes"] / 1024), cost="kib", loss="bits_per_byte", label="variant",
        x_label="cache read per decoded token (KiB, bf16)", y_label="test loss (bits/byte)",
    )  # fmt: skip
    means = shown.groupby("variant")["bits_per_byte"].mean()
    return titled(made, f"{means.idxmin()} has the lowest loss, {means.idxmax()} the highest")


@use_style()
def state_drift(table: pd.DataFrame) -> Figure:
    """Relative error of the read-out against the tokens folded in: bf16 solid, fp32 dashed, colour by values."""
    made, (axes,) = plot.figure(COLUMN, 2.9)
    kinds = {"hue": "values", "palette": PALETTE[: table["values"].nunique()], "style": "dtype"}
    sns.lineplot(table, x="tokens", y="error", markers=True, ax=axes, legend="brief", **kinds)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="tokens in the state", ylabel="relative error of the read-out")
    sns.move_legend(axes, "upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    worst = table.groupby("dtype")["error"].max()
    return titled(made, "largest error: " + ", ".join(f"{error:.0e} in {kind}" for kind, error in worst.items()))
