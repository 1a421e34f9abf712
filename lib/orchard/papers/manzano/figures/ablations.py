"""Figures of 03_ablate: tokenizers against one another, what is drawn of what can be drawn, adapters, density of text, one model for two
tasks. They draw summaries: a group's mean with its 95 % interval over seeds and items, and the mean of every seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from orchard import plot
from orchard.evidence import Tables, interval
from orchard.papers.manzano.data import published
from orchard.papers.manzano.experiments import CONTROLS, EVIDENCE
from orchard.papers.manzano.experiments.density import gaps
from orchard.papers.manzano.experiments.strategies import DRAWN, METRICS, with_baseline
from orchard.papers.manzano.figures.looks import LOOKS, titled, words
from orchard.plot.style import GREY, INK, PALETTE, Look

BELOW = "outside lower center"
PAPER = {"general": "General", "knowledge": "Knowledge", "text-rich": "Text-rich", DRAWN: "GenEval"}  # its columns
PRINTED_AS = {"hybrid": "Hybrid", "discrete": "Pure-discrete", "dual_encoder": "Dual-encoder"}  # rows of Table 1
ROWS = ("hybrid", "discrete", "pure_discrete", "pure_discrete_feat", "dual_encoder", "dual_semantic")
FLOORS = ("quarter", "hybrid_other", "blind", "hybrid_shuffled")  # controls: drawn hollow
DRAWING = ("hybrid", "discrete", "dual_encoder", "dual_semantic", "gen_only", "hybrid_shuffled")
WHAT = ("score", "ceiling", "share of the ceiling")
CLAIMS = {  # what is subtracted from what; the control
    "M1a": ("hybrid − pure discrete", "one character a token"),
    "M2": ("gap of pure discrete", "shown another picture"),
    "M2c": ("gap of pure discrete", "shown another strip"),
    "M1b": ("hybrid − dual encoder", "hybrid with a quarter of its steps"),
    "M3a": ("hybrid − pure discrete", "codes of another prompt"),
    "M3b": ("share of the ceiling, hybrid − dual encoder", "codes of another prompt"),
    "M11": ("share of the ceiling, hybrid − codes of another text-aligned tokenizer", "codes of another prompt"),
    "M2b": ("after the fact", "codes of another picture"),
    "R1": ("own adapter − after the fact", "codes of another picture"),
    "M4": ("unified − single task", "unified with a quarter of its steps"),
}
AGAINST = {
    "M1a": "Pure-discrete",
    "M2": "Pure-discrete",
    "M3a": "Pure-discrete",
    "M1b": "Dual-encoder",
    "M4": "300M",
}  # whom the paper has
NAMES = {"bottleneck - posthoc": "floats − codes", "hybrid - posthoc": ""}  # parts of evidence
OWN, POSTHOC, FLOATS = (
    "codes, learned with the tokenizer",
    "codes, fitted after the fact",
    "floats, fitted after the fact",
)
CONTINUOUS = "continuous adapter"
ADAPTERS = {"hybrid": OWN, "posthoc": POSTHOC, "bottleneck": FLOATS}
COLUMNS = ["claim", "part", "kind", "seed", "value", "mean", "low", "high", "least", "most", "published"]
ALONG = {"k": "characters a token", "codes": "codes there are"}


def summarised(table: pd.DataFrame, *by: str, value: str = "value") -> pd.DataFrame:
    """One row per group and seed: the columns ``by``, seed, value (mean of the seed's items), and the group's mean, low and high."""
    parts = []
    for key, own in table.groupby(list(by), sort=False):
        found = interval(own.assign(value=own[value]))
        seeds = own.groupby("seed", as_index=False)[value].mean().rename(columns={value: "value"})
        parts.append(
            seeds.assign(**dict(zip(by, key, strict=True)), mean=found.estimate, low=found.low, high=found.high)
        )
    return pd.concat(parts, ignore_index=True)[[*by, "seed", "value", "mean", "low", "high"]]


def arm_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The strategies' table summarised: arm (with the better discrete one as an arm), metric, seed, value, mean, low, high."""
    own = with_baseline(table)
    return summarised(own[own["arm"].isin([*ROWS, *FLOORS])], "arm", "metric")


def drawing_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Of what arms draw: arm, what ("score", "ceiling", "share of the ceiling"), seed, value, mean, low, high."""
    own = with_baseline(table).query("metric == @DRAWN")
    own = own[own["arm"].isin(DRAWING)]
    kinds = dict(zip(WHAT, (own["value"], own["ceiling"], own["value"] / own["ceiling"]), strict=True))
    return pd.concat(
        [summarised(own.assign(value=part, what=kind), "arm", "what") for kind, part in kinds.items()],
        ignore_index=True,
    )


def adapter_scores(adapters: pd.DataFrame, tokenizers: pd.DataFrame) -> pd.DataFrame:
    """Characters through adapters: arm (in words), shown (own, another), seed, value, mean, low, high; the continuous one beside them, of
    the densest text."""
    found = [summarised(adapters.assign(arm=adapters["arm"].map(ADAPTERS)), "arm", "shown")]
    densest = tokenizers[(tokenizers["rho"] == tokenizers["rho"].min()) & tokenizers["seed"].isin(adapters["seed"])]
    for shown, adapter in (("own", "continuous"), ("another", "another picture through the continuous")):
        own = densest[densest["adapter"] == adapter].assign(arm=CONTINUOUS, shown=shown)
        found.append(summarised(own, "arm", "shown", value="accuracy"))
    return pd.concat(found, ignore_index=True)


def density_scores(table: pd.DataFrame, tokenizers: pd.DataFrame) -> pd.DataFrame:
    """The sweep summarised: k, codes, arm (hybrid, discrete, gap, and the first two shown another strip), seed, value, mean, low, high,
    rho, bound, counting, kept."""
    own = with_baseline(table)
    own = own[own["arm"].isin(["hybrid", "discrete", "hybrid_other", "discrete_other"])]
    found = pd.concat([own, gaps(table).assign(arm="gap")], ignore_index=True)
    facts = tokenizers[["k", "codes", "rho", "bound", "counting", "kept"]].drop_duplicates()
    return summarised(found, "k", "codes", "arm").merge(facts, on=["k", "codes"])


def measured(tables: Tables, rules: Mapping[str, tuple[float, float]]) -> pd.DataFrame:
    """What decides claims: claim, part, kind (claim, control), seed, value, mean, low, high, least, most, published (the paper's
    difference, share). ``rules``: claim -> the least and the most that supports it."""
    rows = []
    for claim, (least, most) in rules.items():
        about = {"claim": claim, "least": least, "most": most}
        found, control = EVIDENCE[claim](tables), CONTROLS[claim](tables)
        if found.empty:
            rows.append(pd.DataFrame([about | {"part": "", "kind": "claim", "mean": math.nan}]))
        if found["part"].nunique() == control["part"].nunique() == 1:  # M1a: the control is of other pictures
            control = control.assign(part=found["part"].iloc[0])
        for kind, part in (("claim", found), ("control", control)):
            if len(part):
                rows.append(summarised(part, "part").assign(kind=kind, **about))
    table = pd.concat(rows, ignore_index=True)
    printed = [_printed(*key) for key in zip(table["claim"], table["part"], strict=True)]
    return table.assign(published=printed).reindex(columns=COLUMNS)


def _printed(claim: str, part: str) -> float:
    """The paper's difference, share: Table 1 (1B), Figure 5 (300M); NaN where it has none."""
    apart = pd.concat([published.strategies(), published.table("Figure 5").loc[["300M"]]]) / 100
    if claim not in AGAINST or not part:
        return math.nan
    columns = [apart.loc[AGAINST[claim], PAPER[one]] for one in part.split(" - ")]
    return float(columns[0] - sum(columns[1:]))


# ---------------------------------------------------------------------- drawing


def _draw(axes: Axes, place: float, own: pd.DataFrame, look: Look, hollow: bool = False) -> None:
    """A group in a row: every seed a marker; under them the mean as a tick in its interval."""
    if own.empty:
        return
    mean, low, high = own[["mean", "low", "high"]].iloc[0]
    axes.hlines(place + 0.16, low, high, color=look.colour, linewidth=1.4)
    axes.plot(mean, place + 0.16, "|", color=look.colour, markersize=6, markeredgewidth=1.4)
    face = "white" if hollow else look.colour
    axes.plot(
        own["value"], [place - 0.12] * len(own), look.marker, color=look.colour, markerfacecolor=face, markersize=4
    )


def _rows(axes: Axes, names: list[str], width: int = 30) -> None:
    told = ["\n".join(fill(line, width) for line in name.split("\n")) for name in names]
    axes.set_yticks(range(len(names)), told, fontsize=6.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")


SEED = Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="one seed")
MEAN = Line2D([], [], color=INK, marker="|", markersize=6, label="mean and 95 % interval")
FLOOR = Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="", markersize=4, label="control")
CEILING: Any = {"color": INK, "marker": "|", "markersize": 7, "markeredgewidth": 0.8, "linestyle": ""}
PRINTED: Any = {"color": GREY, "marker": "D", "markerfacecolor": "white", "markersize": 4, "linestyle": ""}


def _roomy(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with room for labels of rows, which come out wider than when its layout was made."""
    made, panels = plot.figure(width, height, columns=columns)
    engine = made.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.05)
    return made, panels


@plot.use_style()
def strategies(table: pd.DataFrame, printed: pd.DataFrame) -> Figure:
    """The analogue of the paper's Table 1, a panel a metric: :func:`arm_scores`, and the table as it was printed."""
    arms = [arm for arm in (*ROWS, *FLOORS) if arm in set(table["arm"])]
    made, panels = _roomy(7.2, 0.9 + 0.3 * len(arms), columns=len(METRICS))
    for axes, metric in zip(panels, METRICS, strict=True):
        own = table[table["metric"] == metric]
        for place, arm in enumerate(arms):
            rows = own[own["arm"] == arm]
            _draw(axes, place, rows, Look(INK, "o") if arm in FLOORS else LOOKS[arm], arm in FLOORS)
            if arm in PRINTED_AS:
                at = printed.loc[PRINTED_AS[arm], PAPER[metric]] / 100
                axes.plot(at, place + 0.02, **PRINTED)
            if rows.empty:
                axes.text(0.5, place, "not asked", fontsize=5.5, ha="center", va="center", color=INK)
        _rows(axes, [words(arm) for arm in arms] if axes is panels[0] else [""] * len(arms))
        asked = "prompts satisfied" if metric == DRAWN else "slots right"
        axes.set(xlim=(-0.04, 1.04), title=metric, xlabel=asked)
    made.legend(
        handles=[SEED, FLOOR, MEAN, Line2D([], [], **PRINTED, label="paper, 1B: its own benchmarks")],
        loc=BELOW,
        ncols=4,
    )
    return titled(
        made, "What each arm reads and draws; published numbers are of other tasks and show an order, no level"
    )


@plot.use_style()
def effects(table: pd.DataFrame, title: str) -> Figure:
    """What decides claims (:func:`measured`), a row a part; shaded is where the whole interval must lie; hollow: the control."""
    keys = table[["claim", "part"]].drop_duplicates().itertuples(index=False, name=None)
    parts = list(keys)
    made, (axes,) = _roomy(6.4, 1.0 + 0.46 * len(parts))
    for place, (claim, part) in enumerate(parts):
        own = table[(table["claim"] == claim) & (table["part"] == part)]
        least, most = own[["least", "most"]].iloc[0]
        side = (max(least, -9), min(most, 9))
        axes.fill_betweenx([place - 0.44, place + 0.44], *side, color=PALETTE[0], alpha=0.1, linewidth=0)
        _draw(axes, place - 0.14, own[own["kind"] == "claim"], Look(PALETTE[0], "o"))
        _draw(axes, place + 0.26, own[own["kind"] == "control"], Look(INK, "o"), hollow=True)
        axes.plot(own["published"].iloc[0], place - 0.02, **PRINTED)
        if own["mean"].isna().all():
            axes.text(0, place, " not run at this profile", fontsize=6, va="center")
    axes.axvline(0, color=INK, linewidth=0.8)
    _rows(axes, [_said(claim, part) for claim, part in parts], 44)
    ends = table[["value", "low", "high", "published"]].to_numpy(dtype=float)
    limits = table[["least", "most"]].to_numpy(dtype=float)
    shown = np.concatenate([ends[np.isfinite(ends)], limits[np.isfinite(limits)], [0.0]])
    room = 0.08 * (shown.max() - shown.min() + 0.02)
    axes.set(xlim=(shown.min() - room, shown.max() + room), xlabel="difference (share)")
    handles = [SEED, FLOOR, MEAN, Patch(color=PALETTE[0], alpha=0.1, label="supports the claim")]
    if table["published"].notna().any():
        handles.append(Line2D([], [], **PRINTED, label="paper"))
    made.legend(handles=handles, loc=BELOW, ncols=5)
    return titled(made, title)


def _said(claim: str, part: str) -> str:
    first, control = CLAIMS[claim]
    named = NAMES.get(part, part).replace(" - ", " − ")
    return f"{claim} {first}{': ' * bool(named)}{named}\n(control: {control})"


@plot.use_style()
def drawings(table: pd.DataFrame, conflict: pd.DataFrame) -> Figure:
    """What is drawn of what can be drawn (:func:`drawing_scores`), and what it costs to read as well (the table `conflict`)."""
    made, (left, middle, right) = _roomy(7.2, 1.1 + 0.32 * len(DRAWING), columns=3)
    for place, arm in enumerate(DRAWING):
        own, look, hollow = table[table["arm"] == arm], LOOKS.get(arm, Look(INK, "o")), arm in FLOORS
        score, ceiling, share = (own[own["what"] == what] for what in WHAT)
        _draw(left, place, score, look, hollow)
        left.plot(ceiling["value"], [place - 0.12] * len(ceiling), **CEILING)
        _draw(middle, place, share, look, hollow)
        apart = conflict[conflict["arm"] == arm]["conflict"].dropna()
        right.plot(apart, [place - 0.12] * len(apart), look.marker, color=look.colour, markersize=4)
        right.plot(apart.mean(), place + 0.16, "|", color=look.colour, markersize=6, markeredgewidth=1.4)
        if apart.empty:
            said = "not run" if arm in set(conflict["arm"]) else "not asked"
            right.text(0, place, said, fontsize=5.5, ha="center", va="center", backgroundcolor="white")
    middle.axvline(1, color=INK, linewidth=0.8, linestyle="--")
    right.axvline(0, color=INK, linewidth=0.8, zorder=0)
    for axes in (left, middle, right):
        _rows(axes, [words(arm) for arm in DRAWING] if axes is left else [""] * len(DRAWING))
    left.set(xlim=(-0.04, 1.04), title="GenEval-mini", xlabel="prompts satisfied")
    middle.set(title="by what its codes allow", xlabel="share of the ceiling")
    right.set(title="conflict", xlabel="with reading − without")
    middle.set_xlim(left=-0.04)
    right.margins(x=0.4)
    ceiling = Line2D([], [], **CEILING, label="ceiling: true codes, same decoder")
    made.legend(handles=[SEED, FLOOR, MEAN, ceiling], loc=BELOW, ncols=4)
    return titled(made, "Drawing: as it is, as a share of its ceiling, and what of that share reading takes away")


@plot.use_style()
def adapters(table: pd.DataFrame) -> Figure:
    """Characters read through four adapters of the same vision transformers, before any unified training (:func:`adapter_scores`)."""
    made, (axes,) = _roomy(5.4, 2.2)
    looks = {
        CONTINUOUS: LOOKS["hybrid"],
        OWN: LOOKS["discrete"],
        POSTHOC: LOOKS["posthoc"],
        FLOATS: LOOKS["bottleneck"],
    }
    for place, (arm, look) in enumerate(looks.items()):
        for shown in ("another", "own"):
            _draw(axes, place, table[(table["arm"] == arm) & (table["shown"] == shown)], look, shown == "another")
    _rows(axes, list(looks))
    axes.set(xlim=(-0.03, 1.03), xlabel="characters right")
    other = Line2D(
        [],
        [],
        color=INK,
        marker="o",
        markerfacecolor="white",
        linestyle="",
        markersize=4,
        label="control: another picture",
    )
    made.legend(handles=[SEED, other, MEAN], loc=BELOW, ncols=3)
    return titled(made, "What is read through each adapter: what rounding costs, and what learning together brings")


@plot.use_style()
def density(table: pd.DataFrame, along: str = "k") -> Figure:
    """Characters right and the gap (:func:`density_scores`) along ``along``: "k", characters a token, or "codes", the codebook's size."""
    values = sorted(table[along].unique().tolist())
    made, (left, right) = plot.figure(6.6, 2.7, columns=2)
    facts = table.drop_duplicates(along).set_index(along).loc[values]
    for arm, axes in (("hybrid", left), ("discrete", left), ("gap", right)):
        own, look = table[table["arm"] == arm], LOOKS.get(arm, Look(PALETTE[2], "o"))
        x = np.array([values.index(value) for value in own[along]])
        axes.plot(x, own["value"], look.marker, color=look.colour, markersize=3, linestyle="", alpha=0.6)
        mean = own.drop_duplicates(along).set_index(along).loc[values]
        axes.errorbar(range(len(values)), mean["mean"], [mean["mean"] - mean["low"], mean["high"] - mean["mean"]], color=look.colour,
                      label=words(arm) if axes is left else "_")  # fmt: skip
        other = table[table["arm"] == f"{arm}_other"].groupby(along)["value"].mean()
        if len(other):
            axes.plot(
                range(len(values)),
                other.loc[values],
                ":",
                color=look.colour,
                label="control: shown another strip" if arm == "hybrid" else "_",
            )
    left.plot(
        range(len(values)),
        facts["bound"],
        "--",
        color=INK,
        linewidth=1,
        marker="_",
        label="the most that codes can tell",
    )
    for axes in (left, right):
        for place, (counting, kept) in enumerate(zip(facts["counting"], facts["kept"], strict=True)):
            said = "\n".join(["counting"] * bool(counting) + ["not competent"] * (not kept))
            if said:
                axes.axvspan(place - 0.45, place + 0.45, color="#eeeeee", zorder=0)
                axes.text(place, 1.0, said, fontsize=5.5, ha="center", va="top", transform=axes.get_xaxis_transform())
        ticks = [f"{value:,}\nρ {rho:.2g}" for value, rho in facts["rho"].items()]
        axes.set_xticks(range(len(values)), ticks)
        axes.set(xlim=(-0.5, len(values) - 0.5), xlabel=ALONG[along])
    left.set(ylim=(-0.03, 1.15), ylabel="characters right")
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(ylabel="hybrid − pure discrete")
    right.margins(y=0.2)
    made.legend(*left.get_legend_handles_labels(), loc=BELOW, ncols=3)
    return titled(made, f"Strips of text alone, by {ALONG[along]}")


@plot.use_style()
def single_task(table: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """One model for each task, one for both, and one for both with a quarter of the steps: a line joins the models of a seed. ``table``:
    seed, metric, arm summarised; ``measured``: the differences with their intervals."""
    metrics = list(pd.unique(table["metric"]))
    arms = ("single", "unified", "quarter")
    made, panels = plot.figure(6.6, 2.6, columns=len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        own = (
            table[table["metric"] == metric]
            .pivot(index="seed", columns="arm", values="value")
            .reindex(columns=list(arms))
        )
        for _, row in own.iterrows():
            axes.plot(range(2), row[["single", "unified"]], color=LOOKS["hybrid"].colour, linewidth=0.8)
        for place, (arm, look) in enumerate(zip(arms, ("und_only", "hybrid", ""), strict=True)):
            drawn = LOOKS.get(look, Look(INK, "o"))
            face = drawn.colour if look else "white"
            axes.plot([place] * len(own), own[arm], drawn.marker, color=drawn.colour, markerfacecolor=face)
            axes.plot([place - 0.2, place + 0.2], [own[arm].mean()] * 2, color=drawn.colour, linewidth=2)
        one = measured[(measured["part"] == metric) & (measured["kind"] == "claim")].iloc[0]
        axes.set_title(
            f"{metric}: {100 * one['mean']:+.1f} points\n[{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]",
            fontsize=7,
        )
        axes.set_xticks(range(3), ["a model\neach", "one\nfor both", "a quarter\nof the steps"], fontsize=6.5)
        axes.set(xlim=(-0.5, 2.5), ylim=(-0.04, 1.04))
    panels[0].set_ylabel("slots right, prompts satisfied")
    return titled(made, "One model for both tasks against one for each; dots are seeds, lines join the same seed")
