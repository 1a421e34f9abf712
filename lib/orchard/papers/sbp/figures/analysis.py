"""Figures of the analysis of synthesizers and their documents (notebook 03). Rates and intervals pool the seeds of `dep`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from orchard import plot
from orchard.papers.sbp.figures.looks import LOOKS, titled, words
from orchard.papers.sbp.figures.parts import rows
from orchard.plot.style import GREY, INK, PALETTE
from orchard.stats import wilson_interval

METRICS = (
    "repetition",
    "duplicate",
    "pair-copying",
    "non-factual",
    "pair-irrelevance",
    "impossible",
)  # of those the paper has, and ours
PAPER = "paper (another scale)"
REAL = PALETTE[2]  # documents of the world
COLOURS = {arm: look.colour for arm, look in LOOKS.items()} | {
    "exact": INK,
    "real": REAL,
    "real, random pairs": REAL,
    "copies of the seed": PALETTE[8],
}


def pooled(table: pd.DataFrame, variant: str = "dep") -> pd.DataFrame:
    """The quality table over the seeds of a variant: counts added up, rates and Wilson intervals anew, as percentages."""
    own = table[(table["variant"] == variant) & (table["total"] > 0)]
    sums = own.groupby(["source", "state", "metric"], sort=False)[["count", "total"]].sum().reset_index()
    found = [wilson_interval(int(count), int(total)) for count, total in sums[["count", "total"]].to_numpy()]
    ends = [(100 * one.estimate, 100 * one.low, 100 * one.high) for one in found]
    return sums.assign(**dict(zip(("rate", "low", "high"), zip(*ends, strict=True), strict=True)))


@plot.use_style()
def quality_rates(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """One panel per metric: the share of documents that fail it, by source, raw (filled) and kept (hollow). Grey: the paper's scales."""
    rates = pooled(table)
    sources = [*dict.fromkeys(rates["source"]), PAPER]
    made, panels = plot.figure(6.8, 0.5 + 2 * (0.42 + 0.14 * len(sources)), rows=2, columns=3)
    for number, (panel, metric) in enumerate(zip(panels, METRICS, strict=True)):
        for row in rates[rates["metric"] == metric].to_dict("records"):
            colour, shift = COLOURS[row["source"]], 0.17 if row["state"] == "kept" else -0.17
            place = sources.index(row["source"]) + shift
            panel.hlines(place, row["low"], row["high"], color=colour, linewidth=1)
            face = colour if row["state"] == "raw" else "white"
            panel.plot(row["rate"], place, "o", color=colour, markerfacecolor=face, markersize=3.5)
        named = published["metric"].str.partition("@")[0].str.removesuffix(" (%)") == metric
        for row in published[(published["table"] == "quality") & named].to_dict("records"):
            marker, size = ("|", 7) if row["arm"] == "real" else ("D", 4)
            panel.plot(row["value"], len(sources) - 1, marker, color=GREY, markerfacecolor="white", markersize=size)
        panel.set_title(metric)
        rows(panel, sources, number % 3 == 0)
        panel.set_xlim(left=min(0, panel.get_xlim()[0]))
        if number >= 3:
            panel.set_xlabel("documents (%)")
    shapes = [("o", INK, INK, "raw samples"), ("o", INK, "white", "kept by the rules"), ("D", GREY, "white", "paper, three scales"),
              ("|", GREY, GREY, "paper, real")]  # fmt: skip
    shown = [Line2D([], [], color=c, marker=m, markerfacecolor=f, linestyle="", label=name) for m, c, f, name in shapes]
    made.legend(handles=shown, loc="outside lower center", ncols=4)
    return titled(made, "Which documents fail each metric; 95 % intervals, all worlds and seeds together")


@plot.use_style()
def novelty_of_sources(table: pd.DataFrame) -> Figure:
    """Novel n-grams against n, and nearest training document, longest memorised run and length by source (raw; median, 5 to 95 %)."""
    own = table[(table["variant"] == "dep") & (table["state"] == "raw")]
    own = own[own["seed"] == own["seed"].iloc[0]]
    made, panels = plot.figure(6.8, 3.9, rows=2, columns=2)
    sources = list(dict.fromkeys(own["source"]))
    for number, source in enumerate(sources):
        part = own[(own["source"] == source) & own["measure"].str.startswith("novel")]
        panels[0].plot(
            part["measure"].str.removeprefix("novel_").astype(int), 100 * part["mean"], ("-", "--", ":")[number % 3],
            color=COLOURS[source], marker="o", markersize=3, label=source,
        )  # fmt: skip
    panels[0].set_xticks([2, 3, 4, 5])
    panels[0].set(xlabel="n", ylabel="n-grams not in D (%)")
    labels = {
        "distance": "distance to the nearest document of D\n(1 − Jaccard of bigrams)", "span": "longest run found in D (tokens)",
        "length": "length (tokens)",
    }  # fmt: skip
    for panel, (measure, label) in zip(panels[1:], labels.items(), strict=True):
        part = own[own["measure"] == measure]
        _spans(panel, part["source"].tolist(), part[["p5", "median", "p95"]].to_numpy())
        panel.set_xlabel(label)
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return titled(made, "How new samples are: median, and 5 to 95 % of documents")


def _spans(axes: Axes, names: Sequence[str], values: np.ndarray) -> None:
    """A row for each name: a line from the first to the last value, a point at the middle one."""
    for place, (name, row) in enumerate(zip(names, values, strict=True)):
        colour = COLOURS[name]
        axes.hlines(place, row[0], row[2], color=colour, linewidth=1.2)
        axes.plot(row[1], place, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
    rows(axes, names)


@plot.use_style()
def partner_scatter(table: pd.DataFrame, arms: Sequence[str] = ("sbp-nn-lm", "sbp-true", "sbp-random")) -> Figure:
    """Nats of d2 given d1, model against exact law, true and random partners. The diagonal is Bayes: points lie above it on average."""
    own = table[(table["variant"] == "dep") & (table["seed"] == table["seed"].iloc[0])]
    arms = [arm for arm in arms if (own["arm"] == arm).any()]
    made, panels = plot.figure(6.8, 2.75, columns=len(arms))
    low = own[["exact_true", "true"]].min().min() - 3
    high = own[["exact_random", "random", "true"]].quantile(0.995).max() + 3
    for panel, arm in zip(panels, arms, strict=True):
        part = own[own["arm"] == arm]
        for kind, colour, marker in (("random", PALETTE[1], "s"), ("true", PALETTE[0], "o")):
            panel.plot(
                part[f"exact_{kind}"], part[kind], marker, color=colour, markersize=2.4, alpha=0.55, markeredgewidth=0,
                label=f"{kind} partner",
            )  # fmt: skip
        panel.plot([low, high], [low, high], color=INK, linewidth=0.8, label="model = exact law")
        panel.set(xlim=(low, high), ylim=(low, high))
        panel.set_aspect("equal")
        panel.set(title=words(arm), xlabel="exact −log P(d₂ | d₁) (nats)")
    panels[0].set_ylabel("model −log p(d₂ | d₁) (nats)")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return titled(made, "Model against exact law: a dot per held-out document and kind of partner")


@plot.use_style()
def consequences(table: pd.DataFrame) -> Figure:
    """What the right partner gives each synthesizer, beside the mixture limit at its pairs' precision; I(d1; d2) and H(c) as lines."""
    own = table[table["variant"] == "dep"]
    arms = [arm for arm in dict.fromkeys(own["arm"]) if arm != "exact"]
    made, (left, right) = plot.figure(6.8, 0.95 + 0.2 * (len(arms) + 2), columns=2)
    for place, arm in enumerate(arms):
        part, colour = own[own["arm"] == arm], COLOURS[arm]
        left.plot(part["limit_gain"], [place] * len(part), "D", color=INK, markerfacecolor="white", markersize=4.5)
        left.plot(part["gain"], [place] * len(part), "o", color=colour)
        for column, marker, face in (("true", "o", colour), ("random", "s", "white")):
            right.plot(part[column], [place] * len(part), marker, color=colour, markerfacecolor=face)
    left.axvline(0, color=INK, linewidth=0.8)
    left.axvline(own["information"].mean(), color=INK, linewidth=0.8, linestyle="--")
    left.axvline(own["entropy"].mean(), color="#cccccc", linewidth=3, zorder=0)
    left.set_xlabel("gain over reading no partner (nats per document)")
    right.axvline(own["exact_true"].mean(), color=INK, linewidth=0.8, linestyle="-")
    right.axvline(own["exact_alone"].mean(), color=INK, linewidth=0.8, linestyle="-.")
    right.set_xlabel("−log p(d₂ | d₁) (nats per document)")
    rows(left, arms)
    rows(right, arms, named=False)
    shown = [
        Line2D([], [], color=INK, marker="D", markerfacecolor="white", linestyle="none", label="limit at this precision"),
        Line2D([], [], color=INK, linestyle="--", label="I(d₁; d₂)"), Line2D([], [], color="#cccccc", linewidth=3, label="H(c)"),
        Line2D([], [], color=INK, marker="o", linestyle="none", label="true partner (left: gain)"),
        Line2D([], [], color=INK, marker="s", markerfacecolor="white", linestyle="none", label="random partner"),
        Line2D([], [], color=INK, label="exact, true partner"), Line2D([], [], color=INK, linestyle="-.", label="exact, alone"),
    ]  # fmt: skip
    made.legend(handles=shown, loc="outside lower center", ncols=4)
    return titled(made, "What a partner is worth: left of 0 it is worth less than none, a dot per world and seed")


@plot.use_style()
def concept_divergence(table: pd.DataFrame) -> Figure:
    """KL of the concepts of samples from the posterior of their seed: a point per seed document, the mean as a line."""
    own = table[table["variant"] == "dep"]
    arms = sorted(dict.fromkeys(own["arm"]), key=lambda arm: float(own.loc[own["arm"] == arm, "kl"].mean()))
    made, (axes,) = plot.figure(4.4, 0.7 + 0.25 * len(arms))
    shown = {"x": "kl", "y": "arm", "hue": "arm", "order": arms, "palette": COLOURS, "legend": False, "ax": axes}
    sns.stripplot(own, jitter=0.22, size=3, alpha=0.5, **shown)
    sns.pointplot(own, errorbar=None, linestyle="none", marker="|", markersize=14, markeredgewidth=2, **shown)
    rows(axes, arms)
    axes.set(xlim=(0, None), ylabel="", xlabel="KL(P(c | d₁) ‖ concepts of samples) (nats)")
    return titled(made, "How far samples are from their seed's posterior")


@plot.use_style()
def quality_against_size(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Non-factual and irrelevant raw samples against the FLOPs of the synthesizer; right, in grey, the paper's three scales."""
    made, (left, right) = plot.figure(6.8, 2.5, columns=2)
    theirs = published.query("table == 'quality' and arm != 'real'")
    looks = {"non-factual": (PALETTE[0], "o", "-"), "pair-irrelevance": (PALETTE[1], "s", "--")}
    for metric, (colour, marker, line) in looks.items():
        cells = table[table["metric"] == metric].sort_values("flops").groupby(["world", "seed"])
        for number, (_, part) in enumerate(cells):
            error = 100 * np.abs(part[["low", "high"]].to_numpy().T - part["rate"].to_numpy())
            left.errorbar(
                part["flops"], 100 * part["rate"], error, color=colour, marker=marker, linestyle=line, linewidth=1, elinewidth=0.8,
                label=metric if number == 0 else None,
            )  # fmt: skip
        paper = theirs[theirs["metric"].str.startswith(metric)]
        x, y = paper["scale"], paper["value"]
        right.plot(x, y, line, color=GREY, marker=marker, markerfacecolor="white", label=metric)
    if table["flops"].max() > 4 * table["flops"].min():
        left.set_xscale("log")
    else:
        left.xaxis.set_major_locator(MaxNLocator(4))
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set(xlabel="FLOPs of the synthesizer, all training", ylabel="raw samples (%)", ylim=(0, None))
    right.set(xlabel="budget and model", ylabel="documents (%)", ylim=(0, 30))
    right.set_title("paper, other scales and an LLM as judge")
    left.legend(loc="best")
    right.legend(loc="best")
    return titled(made, "Quality against the FLOPs of the synthesizer, a line per world and seed")


@plot.use_style()
def concept_drift(
    table: pd.DataFrame, arms: Sequence[str] = ("sbp-nn-lm", "sbp-true", "sbp-random", "uncond")
) -> Figure:
    """Left: shares of concepts in D, in the second documents of pairs and in samples. Right: what samples add against what pairs add."""
    cell = table.iloc[0]
    own = table[(table["variant"] == "dep") & (table["world"] == cell["world"]) & (table["seed"] == cell["seed"])]
    first = own[own["arm"] == arms[0]].sort_values("real", ascending=False)
    made, (left, right) = plot.figure(6.8, 2.7, columns=2)
    place = np.arange(len(first))
    left.fill_between(place, 100 * first["real"], step="mid", color="#d9d9d9", linewidth=0, label="D")
    pairs, samples = "second documents of pairs", f"samples of {arms[0]}"
    left.step(place, 100 * first["pairs"], where="mid", color=PALETTE[1], linewidth=1, label=pairs)
    left.step(place, 100 * first["raw"], where="mid", color=PALETTE[0], linewidth=1.3, label=samples)
    left.set(xlabel="concept, by its share of D", ylabel="share (%)", ylim=(0, None))
    left.legend(loc="best")
    for arm in arms:
        part = own[own["arm"] == arm]
        x, y = (100 * (part[what] - part["real"]) for what in ("pairs", "raw"))
        if not x.isna().all():
            right.plot(x, y, "o", color=COLOURS[arm], markersize=3, alpha=0.7, markeredgewidth=0, label=arm)
    right.axline((0, 0), slope=1, color=INK, linewidth=0.8)
    right.set(xlabel="pairs − D (points)", ylabel="samples − D (points)")
    right.legend(loc="best")
    return titled(made, "Which concepts grow: in pairs, and in samples")
