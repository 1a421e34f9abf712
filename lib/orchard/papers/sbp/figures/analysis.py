"""Figures of the analysis of synthesizers and their documents (notebook 03). Rates and intervals pool the seeds of `dep`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.sbp.figures.looks import LOOKS, titled, words
from orchard.papers.sbp.figures.parts import BELOW, WIDE, line, rows
from orchard.plot.style import GREY, INK, PALETTE, Look
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


NOVELTY = {
    "novel_2": "new bigrams (%)", "novel_3": "new trigrams (%)", "distance": "1 − Jaccard,\nnearest in D",
    "span": "longest run\nfound in D", "length": "length (tokens)",
}  # fmt: skip


@plot.use_style()
def novelty_of_sources(table: pd.DataFrame) -> Figure:
    """How new raw samples are, a row per source: bigrams and trigrams that D lacks, and of the other measures the median and 5 to 95 % of
    the documents, means over worlds and seeds. Dots: every world and seed."""
    own = table[(table["variant"] == "dep") & (table["state"] == "raw")]
    sources = list(dict.fromkeys(own["source"]))
    made, panels = plot.figure(WIDE, 0.9 + 0.2 * len(sources), columns=len(NOVELTY))
    for panel, (measure, label) in zip(panels, NOVELTY.items(), strict=True):
        shares = measure.startswith("novel")
        for place, source in enumerate(sources):
            part, colour = own[(own["source"] == source) & (own["measure"] == measure)], COLOURS[source]
            at = 100 * part["mean"] if shares else part["median"]
            if not shares:
                panel.hlines(place, part["p5"].mean(), part["p95"].mean(), color=colour, linewidth=1.2)
            panel.plot(at, [place + 0.25] * len(at), ".", color=colour, markersize=2.5)
            panel.plot(at.mean(), place, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
        rows(panel, sources, panel is panels[0])
        panel.xaxis.set_major_locator(MaxNLocator(3, integer=not shares and measure != "distance"))
        panel.set_xlabel(label)
        panel.margins(x=0.1)
    return titled(
        made, "How new samples are, compared with all of D; lines hold 90 % of the documents, dots are worlds and seeds"
    )


@plot.use_style()
def partner_scatter(table: pd.DataFrame, arms: Sequence[str] = ("sbp-nn-lm", "sbp-true", "sbp-random")) -> Figure:
    """Nats of d2 given d1, model against exact law, true and random partners. The diagonal is Bayes: points lie above it on average."""
    own = table[(table["variant"] == "dep") & (table["seed"] == table["seed"].iloc[0])]
    arms = [arm for arm in arms if (own["arm"] == arm).any()]
    made, panels = plot.figure(WIDE, 2.95, columns=len(arms))
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
        panel.set(
            title=f"tuned on {'neighbours' if arm == 'sbp-nn-lm' else words(arm)}",
            xlabel="exact −log P(d₂ | d₁) (nats)",
        )
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
    return titled(made, "How far samples are from their seed's posterior; a dot per seed document")


@plot.use_style()
def quality_against_size(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Non-factual and irrelevant raw samples against the FLOPs of the synthesizer: a line per size, along the steps of its tuning, a dot
    per world and seed. Right, in grey, the paper's three scales."""
    metrics, sizes = ("non-factual", "pair-irrelevance"), sorted(pd.unique(table["parameters"]))
    made, panels = plot.figure(WIDE, 2.5, columns=3)
    theirs = published.query("table == 'quality' and arm != 'real'")
    for panel, metric, marker in zip(panels, metrics, "os", strict=False):
        for colour, shape, parameters in zip(PALETTE, "osD^", sizes, strict=False):
            own = table[(table["metric"] == metric) & (table["parameters"] == parameters)]
            shown = own.assign(rate=100 * own["rate"])
            line(
                panel,
                shown,
                "flops",
                "rate",
                Look(colour, shape),
                f"{EngFormatter(places=0, sep='')(parameters)} parameters",
            )
        paper = theirs[theirs["metric"].str.startswith(metric)]
        panels[2].plot(paper["scale"], paper["value"], color=GREY, marker=marker, markerfacecolor="white", label=metric)
        panel.set(title=metric, xlabel="FLOPs of the synthesizer, all training", xscale="log", ylim=(0, 100))
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("raw samples (%)")
    panels[2].set(
        title="paper: another scale and judge", xlabel="budget and model", ylabel="documents (%)", ylim=(0, 30)
    )
    panels[2].legend(loc="upper right")
    made.legend(*panels[0].get_legend_handles_labels(), loc=BELOW, ncols=len(sizes))
    return titled(
        made,
        "Quality by the synthesizer's size and, along each line, the length of its tuning; dots are worlds and seeds",
    )


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
    pairs, samples = "second documents of pairs", f"samples of {words(arms[0])}"
    left.step(place, 100 * first["pairs"], where="mid", color=PALETTE[1], linewidth=1, label=pairs)
    left.step(place, 100 * first["raw"], where="mid", color=PALETTE[0], linewidth=1.3, label=samples)
    left.set(xlabel="concept, by its share of D", ylabel="share (%)", ylim=(0, None))
    for arm in arms:
        part = own[own["arm"] == arm]
        x, y = (100 * (part[what] - part["real"]) for what in ("pairs", "raw"))
        if not x.isna().all():
            right.plot(x, y, "o", color=COLOURS[arm], markersize=3, alpha=0.7, markeredgewidth=0, label=arm)
    right.axline((0, 0), slope=1, color=INK, linewidth=0.8)
    right.set(xlabel="pairs − D (points)", ylabel="samples − D (points)")
    handles, names = (
        part + more for part, more in zip(*(panel.get_legend_handles_labels() for panel in (left, right)), strict=True)
    )
    made.legend(handles, names, loc=BELOW, ncols=3)
    return titled(
        made, "Which concepts grow, in pairs (left, right: across) and in samples (right: up); one world, one seed"
    )
