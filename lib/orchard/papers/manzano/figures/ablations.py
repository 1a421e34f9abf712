"""Figures of 03_ablate: tokenizers against one another, what is drawn of what can be drawn, adapters, density of text, one model for two
tasks. They draw summaries: a group's mean with its 95 % interval over seeds and items, and the mean of every seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from orchard.papers.manzano.figures.looks import LOOKS, downwards, labelled, titled, words
from orchard.plot.style import GREY, INK, PALETTE, Look

FLOORS = ("quarter", "hybrid_other", "blind", "hybrid_shuffled")  # controls: drawn hollow
ARMS = ("hybrid", "discrete", "pure_discrete", "pure_discrete_feat", "dual_encoder", "dual_semantic", *FLOORS)
DRAWING = ("hybrid", "discrete", "dual_encoder", "dual_semantic", "gen_only", "hybrid_shuffled")
WHAT = ("score", "ceiling", "share of the ceiling")
PRINTED_AS = {"hybrid": "Hybrid", "discrete": "Pure-discrete", "dual_encoder": "Dual-encoder"}  # rows of Table 1
COLUMN_OF = {"general": "General", "knowledge": "Knowledge", "text-rich": "Text-rich", DRAWN: "GenEval"}
AGAINST = {"M1a": "Pure-discrete", "M2": "Pure-discrete", "M3a": "Pure-discrete", "M1b": "Dual-encoder", "M4": "300M"}
CLAIMS = {  # what is subtracted from what; the control
    "M1a": ("hybrid − pure discrete", "one character a token"),
    "M2": ("lead over pure discrete", "shown another picture"),
    "M2c": ("lead over pure discrete", "shown another strip"),
    "M1b": ("hybrid − dual encoder", "a quarter of the steps"),
    "M3a": ("hybrid − pure discrete", "codes of another prompt"),
    "M3b": ("hybrid − codes of pixels, of the ceiling", "codes of another prompt"),
    "M11": ("hybrid − another text-aligned tokenizer, of the ceiling", "codes of another prompt"),
    "M2b": ("after the fact: floats − codes", "codes of another picture"),
    "R1": ("codes: learned together − after the fact", "codes of another picture"),
    "M4": ("unified − single task", "a quarter of the steps"),
}
UNSAID = ("bottleneck - posthoc", "hybrid - posthoc")  # parts that the words of their claim name already
ADAPTERS = {"hybrid": "codes, learned together", "posthoc": "codes, after the fact", "bottleneck": "floats, after the fact"}  # fmt: skip
CONTINUOUS = "continuous adapter"
ALONG = {"k": "characters a token", "codes": "codes in the codebook"}
COLUMNS = ["claim", "part", "kind", "seed", "value", "mean", "low", "high", "least", "most", "published"]


def summarised(table: pd.DataFrame, *by: str) -> pd.DataFrame:
    """One row per group and seed: the columns ``by``, seed, value (mean of the seed's items), and the group's mean, low and high."""
    parts = []
    for key, own in table.groupby(list(by), sort=False):
        found, seeds = interval(own), own.groupby("seed", as_index=False)["value"].mean()
        group = dict(zip(by, key, strict=True))
        parts.append(seeds.assign(**group, mean=found.estimate, low=found.low, high=found.high))
    return pd.concat(parts, ignore_index=True)[[*by, "seed", "value", "mean", "low", "high"]]


def arm_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The table of strategies by arm (with the better discrete one as an arm) and metric, summarised."""
    own = with_baseline(table)
    return summarised(own[own["arm"].isin(ARMS)], "arm", "metric")


def drawing_scores(table: pd.DataFrame) -> pd.DataFrame:
    """What is drawn by arm and what ("score", "ceiling", "share of the ceiling"), summarised."""
    own = with_baseline(table)
    own = own[(own["metric"] == DRAWN) & own["arm"].isin(DRAWING)]
    values = dict(zip(WHAT, (own["value"], own["ceiling"], own["value"] / own["ceiling"]), strict=True))
    return summarised(pd.concat([own.assign(value=of, what=what) for what, of in values.items()]), "arm", "what")


def adapter_scores(adapters: pd.DataFrame, tokenizers: pd.DataFrame) -> pd.DataFrame:
    """Characters by adapter (arm, in words) and what was shown (own, another), summarised; with the continuous one of the densest text."""
    found = [adapters.assign(arm=adapters["arm"].map(ADAPTERS))]
    densest = tokenizers[(tokenizers["rho"] == tokenizers["rho"].min()) & tokenizers["seed"].isin(adapters["seed"])]
    for shown, adapter in (("own", "continuous"), ("another", "another picture through the continuous")):
        own = densest[densest["adapter"] == adapter].rename(columns={"accuracy": "value"})
        found.append(own.assign(arm=CONTINUOUS, shown=shown))
    return summarised(pd.concat(found, ignore_index=True), "arm", "shown")


def density_scores(table: pd.DataFrame, tokenizers: pd.DataFrame) -> pd.DataFrame:
    """The sweep by k, codes and arm (hybrid, discrete, both "_other": shown another strip, gap), summarised, with rho, bound, counting and
    kept of every density."""
    own = with_baseline(table)
    own = own[own["arm"].isin(["hybrid", "discrete", "hybrid_other", "discrete_other"])]
    found = pd.concat([own, gaps(table).assign(arm="gap")], ignore_index=True)
    facts = tokenizers[["k", "codes", "rho", "bound", "counting", "kept"]].drop_duplicates()
    return summarised(found, "k", "codes", "arm").merge(facts, on=["k", "codes"])


def measured(tables: Tables, rules: Mapping[str, tuple[float, float]]) -> pd.DataFrame:
    """What decides claims: claim, part, kind (claim, control), seed, value, mean, low, high, least, most, published (the paper's
    difference, as a share). ``rules``: claim -> the least and the most that supports it."""
    rows = []
    for claim, (least, most) in rules.items():
        about: dict[str, Any] = {"claim": claim, "least": least, "most": most}
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
    """The paper's difference as a share: Table 1 (1B), Figure 5 (300M); NaN where it has none."""
    if claim not in AGAINST or not part:
        return math.nan
    apart = pd.concat([published.strategies(), published.table("Figure 5")])
    points = [float(apart.at[AGAINST[claim], COLUMN_OF[metric]]) for metric in part.split(" - ")]  # type: ignore[arg-type]  # fmt: skip
    return (points[0] - sum(points[1:])) / 100


# ---------------------------------------------------------------------- drawing

SMALL: Any = {"color": INK, "linestyle": "", "markersize": 4.5}
CEILING: Any = SMALL | {"marker": "|", "markersize": 7, "markeredgewidth": 0.8}
PRINTED: Any = SMALL | {"marker": "D", "color": GREY, "markerfacecolor": "white"}
SEED, FLOOR = (Line2D([], [], **SMALL, marker="o", markerfacecolor=face, label=said)
               for face, said in ((INK, "one seed"), ("white", "control")))  # fmt: skip
MEAN = Line2D([], [], color=INK, marker="|", markersize=6, label="mean and 95 % interval")
CONTROL = Look(INK, "o")


def _figure(width: float, height: float, rows: Sequence[str], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with named rows downwards, and room for names that come out wider than when its layout was made."""
    made, panels = plot.figure(width, height + 0.3 * len(rows), columns=columns)
    engine = made.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.08)
    for axes in panels:
        downwards(axes, rows if axes is panels[0] else [""] * len(rows), size=6.5)
    return made, panels


def _draw(axes: Axes, place: int | float, own: pd.DataFrame, look: Look, hollow: bool = False) -> None:
    """A group in a row: every seed a marker; under them the mean as a tick in its interval."""
    if len(own):
        mean, low, high = own[["mean", "low", "high"]].iloc[0]
        axes.hlines(place + 0.16, low, high, color=look.colour, linewidth=1.4)
        axes.plot(mean, place + 0.16, "|", color=look.colour, markersize=6, markeredgewidth=1.4)
        style = SMALL | {"marker": look.marker, "color": look.colour}
        style |= {"markerfacecolor": "white"} if hollow else {"alpha": 0.6}  # overlapping seeds can be told apart
        axes.plot(own["value"], [place - 0.12] * len(own), **style)


def _nothing(axes: Axes, x: float, place: int | float, said: str) -> None:
    axes.text(x, place, said, fontsize=5.5, ha="center", va="center", backgroundcolor="white", zorder=3)


@plot.use_style()
def strategies(table: pd.DataFrame, printed: pd.DataFrame) -> Figure:
    """The analogue of the paper's Table 1, a panel a metric: :func:`arm_scores`, and the table as it was printed."""
    made, panels = _figure(7.2, 0.9, [fill(words(arm), 31) for arm in ARMS], columns=len(METRICS))
    for axes, metric in zip(panels, METRICS, strict=True):
        for place, arm in enumerate(ARMS):
            own = table[(table["metric"] == metric) & (table["arm"] == arm)]
            _draw(axes, place, own, CONTROL if arm in FLOORS else LOOKS[arm], arm in FLOORS)
            if arm in PRINTED_AS:
                axes.plot(printed.loc[[PRINTED_AS[arm]], COLUMN_OF[metric]] / 100, [place], **PRINTED)
            if own.empty:
                _nothing(axes, 0.5, place, "not asked")
        unit = "prompts satisfied" if metric == DRAWN else "slots right"
        axes.set(xlim=(-0.04, 1.04), title=metric, xlabel=unit)
    handles = [SEED, FLOOR, MEAN, Line2D([], [], **PRINTED, label="paper, 1B: its own benchmarks")]
    title = "What each arm reads and draws; published numbers are of other tasks and show an order, no level"
    return titled(made, title, handles, 4)


@plot.use_style()
def effects(table: pd.DataFrame, title: str) -> Figure:
    """What decides claims (:func:`measured`), a row a part; shaded is where the whole interval must lie; hollow: the control."""
    parts = list(table[["claim", "part"]].drop_duplicates().itertuples(index=False, name=None))
    made, (axes,) = _figure(6.6, 1.0 + 0.16 * len(parts), [_said(*key) for key in parts])
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (claim, part) in enumerate(parts):
        own = table[(table["claim"] == claim) & (table["part"] == part)]
        least, most = own[["least", "most"]].iloc[0].clip(-99, 99)
        axes.fill_betweenx([place - 0.44, place + 0.44], least, most, color=PALETTE[0], alpha=0.1, linewidth=0)
        _draw(axes, place - 0.14, own[own["kind"] == "claim"], Look(PALETTE[0], "o"))
        _draw(axes, place + 0.26, own[own["kind"] == "control"], CONTROL, hollow=True)
        axes.plot(own["published"].iloc[0], place - 0.02, **PRINTED)
        if own["mean"].isna().all():
            _nothing(axes, 0.0, place, "not run at this profile")
    ends = table[["value", "low", "high", "published", "least", "most"]].to_numpy(dtype=float)
    shown = np.append(ends[np.isfinite(ends)], 0)
    room = 0.08 * float(np.ptp(shown))
    axes.set(xlim=(shown.min() - room, shown.max() + room), xlabel="difference (share)")
    handles = [SEED, FLOOR, MEAN, Patch(color=PALETTE[0], alpha=0.1, label="supports the claim")]
    paper = [Line2D([], [], **PRINTED, label="paper")] if table["published"].notna().any() else []
    return titled(made, title, [*handles, *paper], 5)


def _said(claim: str, part: str) -> str:
    first, control = CLAIMS[claim]
    named = f": {part.replace(' - ', ' − ')}" if part and part not in UNSAID else ""
    return f"{fill(f'{claim} {first}{named}', 46)}\n(control: {control})"


@plot.use_style()
def drawings(table: pd.DataFrame, conflict: pd.DataFrame) -> Figure:
    """What is drawn of what can be drawn (:func:`drawing_scores`), and what it costs to read as well (the table `conflict`)."""
    made, (left, middle, right) = _figure(7.2, 1.1, [fill(words(arm), 31) for arm in DRAWING], columns=3)
    middle.axvline(1, color=INK, linewidth=0.8, linestyle="--")
    right.axvline(0, color=INK, linewidth=0.8, zorder=0)
    for place, arm in enumerate(DRAWING):
        own, look, hollow = table[table["arm"] == arm], LOOKS.get(arm, CONTROL), arm in FLOORS
        score, ceiling, share = (own[own["what"] == what] for what in WHAT)
        _draw(left, place, score, look, hollow)
        left.plot(ceiling["value"], [place - 0.12] * len(ceiling), **CEILING)
        _draw(middle, place, share, look, hollow)
        apart = conflict[conflict["arm"] == arm]["conflict"].dropna().rename("value")
        _draw(right, place, apart.to_frame().assign(mean=apart.mean(), low=math.nan, high=math.nan), look)
        if apart.empty:
            _nothing(right, 0.0, place, "not run" if arm in set(conflict["arm"]) else "not asked")
    left.set(xlim=(-0.04, 1.04), title="GenEval-mini", xlabel="prompts satisfied")
    middle.set(title="of what its codes allow", xlabel="share of the ceiling")
    middle.set_xlim(left=-0.04)
    widest = 1.2 * conflict["conflict"].abs().max()
    right.set(title="conflict", xlabel="with reading − without", xlim=(-widest - 0.05, widest + 0.05))
    handles = [SEED, FLOOR, MEAN, Line2D([], [], **CEILING, label="ceiling: true codes, same decoder")]
    return titled(made, "What is drawn, what share that is of what the codes allow, and what reading takes of it", handles, 4)  # fmt: skip


@plot.use_style()
def adapters(table: pd.DataFrame) -> Figure:
    """Characters read through four adapters of the same vision transformers, before any unified training (:func:`adapter_scores`)."""
    arms = dict(zip((CONTINUOUS, *ADAPTERS.values()), ("hybrid", "discrete", "posthoc", "bottleneck"), strict=True))
    made, (axes,) = _figure(5.4, 1.0, list(arms))
    for place, (arm, look) in enumerate(arms.items()):
        for shown in ("another", "own"):
            own = table[(table["arm"] == arm) & (table["shown"] == shown)]
            _draw(axes, place, own, LOOKS[look], hollow=shown == "another")
    axes.set(xlim=(-0.03, 1.03), xlabel="characters right")
    title = "What is read through each adapter of the same encoder; control: another picture"
    return titled(made, title, [SEED, FLOOR, MEAN], 3)


@plot.use_style()
def density(table: pd.DataFrame, along: str = "k") -> Figure:
    """Characters right and the gap (:func:`density_scores`) along ``along``: "k", characters a token, or "codes", the codebook's size."""
    values = sorted(table[along].unique().tolist())
    made, (left, right) = plot.figure(6.6, 2.7, columns=2)
    facts, places = table.drop_duplicates(along).set_index(along).loc[values], np.arange(len(values))
    aside = {"hybrid": -0.05, "discrete": 0.05}  # so that neither arm hides the other
    left.plot(places, facts["bound"], "--", color=INK, linewidth=1, marker="_", label="the most that codes can tell")
    for arm, axes in (("hybrid", left), ("discrete", left), ("gap", right)):
        own, look = table[table["arm"] == arm], LOOKS.get(arm, Look(PALETTE[2], "o"))
        seeds = [values.index(value) + aside.get(arm, 0) for value in own[along]]
        axes.plot(seeds, own["value"], look.marker, color=look.colour, markersize=3, alpha=0.6)
        mean = own.drop_duplicates(along).set_index(along).loc[values]
        ends = [mean["mean"] - mean["low"], mean["high"] - mean["mean"]]
        axes.errorbar(places + aside.get(arm, 0), mean["mean"], ends, color=look.colour, label=words(arm))
        other = table[table["arm"] == f"{arm}_other"].groupby(along)["value"].mean().reindex(values)
        axes.plot(places, other, ":", color=look.colour, label="control: shown another strip" if arm == "hybrid" else "_")  # fmt: skip
    for axes in (left, right):
        for place, (counting, kept) in enumerate(zip(facts["counting"], facts["kept"], strict=True)):
            if said := "\n".join(["counting"] * bool(counting) + ["not competent"] * (not kept)):
                axes.axvspan(place - 0.45, place + 0.45, color="#eeeeee", zorder=0)
                axes.text(place, 1, said, fontsize=5.5, ha="center", va="top", transform=axes.get_xaxis_transform())
        axes.set_xticks(places, [f"{value:,}\nρ = {rho:.2g}" for value, rho in facts["rho"].items()])
        axes.set(xlim=(-0.5, len(values) - 0.5), xlabel=ALONG[along])
    left.set(ylim=(-0.03, 1.18), ylabel="characters right")
    right.axhline(0, color=INK, linewidth=0.8)
    right.set(ylabel="hybrid − pure discrete")
    right.margins(y=0.25)
    title = f"What is read of strips of text alone, and what codes cost, by {ALONG[along]}"
    return titled(made, title, labelled(left), 2)


@plot.use_style()
def single_task(table: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """One model for each task, one for both, and that with a quarter of the steps; a line joins the models of a seed. ``table``: seed,
    metric, arm, value; ``found``: the differences (:func:`measured`)."""
    arms = {"single": LOOKS["und_only"], "unified": LOOKS["hybrid"], "quarter": CONTROL}
    metrics = list(pd.unique(table["metric"]))
    made, panels = plot.figure(6.6, 2.6, columns=len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        own = table[table["metric"] == metric].pivot(index="seed", columns="arm", values="value").reindex(columns=list(arms))  # fmt: skip
        axes.plot(range(2), own[["single", "unified"]].T, color=LOOKS["hybrid"].colour, linewidth=0.8)
        for place, (arm, look) in enumerate(arms.items()):
            style = SMALL | {"marker": look.marker, "color": look.colour}
            axes.plot([place] * len(own), own[arm], **style, markerfacecolor="white" if look is CONTROL else look.colour)  # fmt: skip
            axes.plot([place - 0.2, place + 0.2], [own[arm].mean()] * 2, color=look.colour, linewidth=2)
        one = found[(found["part"] == metric) & (found["kind"] == "claim")].iloc[0]
        mean, low, high = (f"{100 * one[name]:+.1f}".replace("-", "−") for name in ("mean", "low", "high"))
        axes.set_title(f"{metric}: {mean} points\n[{low}, {high}]", fontsize=7)
        axes.set_xticks(range(3), ["a model\neach", "one\nfor both", "a quarter\nof the steps"], fontsize=6.5)
        axes.set(xlim=(-0.5, 2.5), ylim=(-0.04, 1.04))
    panels[0].set_ylabel("slots right, prompts satisfied")
    return titled(made, "One model for both tasks against one for each; markers are seeds, lines join the same seed")
