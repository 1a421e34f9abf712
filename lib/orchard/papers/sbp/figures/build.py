"""Figures of 01_build: the world, what pairs and documents can tell, what similarity finds, near duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchard import plot
from orchard.papers.sbp.data.laws import EVERY, World
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.figures.looks import WORLDS, titled
from orchard.papers.sbp.figures.parts import BELOW, panels, rows
from orchard.papers.sbp.method.documents import labels_of
from orchard.papers.sbp.runs.bounds import true_pairs
from orchard.plot.style import GREY, INK, PALETTE

PAIRS = {"random": PALETTE[7], "nearest": PALETTE[0], "true": PALETTE[1]}  # colours of kinds of pairs
EXPLORED = 400  # pairs behind a point of the explorer
NAMES = {"labels": "concepts known", "em": "EM, best of 4"}


def _world(concepts: int, kappa: float, content: int) -> World:
    return ConceptWorld.Config(concepts=concepts, kappa=kappa, content=content).build().world


def world_tables(concepts: int = 32, kappa: float = 2.0, content: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the explorer draws: the posterior over concepts of one document (concept, share, true), and I(d1; d2) by words in a
    document (words, told, entropy)."""
    one = _world(concepts, kappa, content)
    document, _ = true_pairs(one, 1, np.random.default_rng(5))
    posterior = one.posterior(document)[0]
    told = []
    for words in sorted({EVERY, *np.linspace(EVERY, content, 6).astype(int) // EVERY * EVERY}):
        world = _world(concepts, kappa, int(words))
        first, second = true_pairs(world, EXPLORED, np.random.default_rng(6))
        value = float((world.log_conditional(second, first) - world.log_marginal(second)).mean())
        told.append({"words": int(words), "told": value, "entropy": world.entropy()})
    bars = pd.DataFrame({"concept": np.arange(concepts), "share": posterior})
    return bars.assign(true=bars["concept"] == labels_of(document, "the true one is marked")[0]), pd.DataFrame(told)


@plot.use_style()
def concept_world(concepts: int = 32, kappa: float = 2.0, content: int = 12) -> Figure:
    """The explorer: P(c | d) of one document, and what one document tells of another against its length."""
    bars, told = world_tables(concepts, kappa, content)
    made, (left, right) = plot.figure(width=6.8, height=2.2, columns=2)
    left.bar(bars["concept"], bars["share"], color=np.where(bars["true"], PALETTE[1], PALETTE[0]), width=0.9)
    left.set(ylim=(0, 1.02), xlabel="concept (orange: the true one)", ylabel="P(c | d)")
    right.plot(told["words"], told["told"], marker="o", color=PALETTE[0])
    right.set_xticks(told["words"])
    right.axhline(told["entropy"].iloc[0], color=INK, linewidth=0.9, linestyle="--")
    right.annotate("H(c)", (0.5, told["entropy"].iloc[0]), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    right.set(ylim=(0, 1.15 * told["entropy"].iloc[0]), xlabel="words in a document", ylabel="I(d1; d2) (nats)")
    return titled(made, f"κ = {kappa:g}, {concepts} concepts: what one document tells")


@plot.use_style()
def similarity(table: pd.DataFrame) -> Figure:
    """Density of cosines of random, nearest and true pairs, a panel per variant."""
    made, (first, *_), parts = panels(table, 2.3, each=2.3, margin=0.4)
    low = table.loc[table["density"] > 0, "low"].min()
    for axes, own in parts:
        for pairs, colour in PAIRS.items():
            part = own[own["pairs"] == pairs]
            edges = np.append(part["low"], part["high"].iloc[-1])
            axes.stairs(part["density"], edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(part["density"], edges, color=colour)
        axes.set_xlim(low, 1.0)
        axes.set_xticks([tick for tick in (-1.0, -0.5, 0.0, 0.5, 1.0) if tick >= low])
        axes.set_xlabel("cosine of two documents")
    first.set_ylabel("density")
    handles = [Line2D([], [], color=colour, label=f"{pairs} pairs") for pairs, colour in PAIRS.items()]
    made.legend(handles=handles, loc=BELOW, ncols=3)
    return titled(made, "How similar documents are, by what they have in common")


@plot.use_style()
def precision_recall(table: pd.DataFrame, exceedance: float) -> Figure:
    """Precision and recall of the nearest against the share of random pairs above the threshold; a panel per variant and relation.
    ``exceedance``: the one that the comparison takes."""
    shown = list(table.groupby(["variant", "relation"], sort=False))
    made, all_axes = plot.figure(width=2.3 * len(shown) + 0.4, height=2.3, columns=len(shown))
    for ((variant, relation), part), axes in zip(shown, all_axes, strict=True):
        world = WORLDS[str(variant)]
        for what, colour, line in (("precision", PALETTE[0], "-"), ("recall", PALETTE[3], "--")):
            axes.plot(part["exceedance"], part[what], color=colour, linestyle=line, label=what)
        axes.axhline(part["chance"].iloc[0], color=INK, linewidth=0.9, linestyle=":", label="random pairs")
        axes.axvline(exceedance, color=PALETTE[1], linewidth=0.9, label="threshold taken")
        axes.set(xscale="log", ylim=(-0.02, 1.02))
        axes.set_title(world if relation == "concept" else f"{world}: {relation}")
        axes.set_xlabel("random pairs above alpha")
    all_axes[0].set_ylabel("share")
    made.legend(*all_axes[0].get_legend_handles_labels(), loc=BELOW, ncols=4)
    return titled(made, "Which neighbours are true, by the threshold")


@plot.use_style()
def near_duplicates(table: pd.DataFrame, threshold: float = 0.6) -> Figure:
    """Jaccard of copies with 0, 1 and 2 edits and of neighbours that are no copies, with the rule's threshold."""
    kinds = sorted(pd.unique(table["kind"]))
    made, (axes,) = plot.figure(height=0.5 + 0.42 * len(kinds))
    sns.stripplot(
        table, x="jaccard", y="kind", hue="kind", order=kinds, hue_order=kinds, palette=PALETTE[: len(kinds)], jitter=0.28, size=2,
        alpha=0.6, legend=False, ax=axes,
    )  # fmt: skip
    axes.axvline(threshold, color=INK, linewidth=0.9, linestyle="--")
    rows(axes, kinds)
    axes.set(ylabel="", xlim=(-0.03, 1.03), xlabel="Jaccard of 5-grams (dashed: the rule)")
    return titled(made, "Copies with edits, and the rule that drops them")


@plot.use_style()
def pair_gain(table: pd.DataFrame) -> Figure:
    """What the best synthesizer gains on true pairs, against the share of its pairs that are true; a line per variant."""
    made, (axes,) = plot.figure(height=2.5)
    sizes = (9, 4, 7, 5, 3)  # lines may lie on one another: small markers on large ones
    looks = zip(table.groupby("variant", sort=False), PALETTE, "osD^v", sizes, strict=False)
    for (variant, part), colour, marker, size in looks:
        mean = part.groupby("precision")["gain"].mean()
        style: dict[str, Any] = {"marker": marker, "markersize": size, "markerfacecolor": "white", "color": colour}
        axes.plot(mean.index, mean, label=WORLDS[str(variant)], **style)
    axes.axhline(np.log(table["concepts"].iloc[0]), color=INK, linewidth=0.9, linestyle="--", label="ln C")
    axes.set(xlabel="share of pairs that share their concept (ρ)", ylabel="gain (nats/document)")
    made.legend(loc="outside lower center", ncols=2)
    return titled(made, "What true pairs tell, by the precision of all pairs")


@plot.use_style()
def document_bounds(table: pd.DataFrame) -> Figure:
    """Excess over Bayes of the two bounds against documents of D per concept; a panel per variant."""
    made, (first, *_), parts = panels(table, 2.2, each=1.7, margin=0.6)
    for axes, own in parts:
        for bound, colour, marker, line in (("em", PALETTE[1], "s", "--"), ("labels", PALETTE[0], "o", "-")):
            mean = own[own["bound"] == bound].groupby("per_concept")["excess"].mean()
            axes.plot(mean.index, mean, marker=marker, color=colour, linestyle=line, label=NAMES[bound])
        ticks = sorted(pd.unique(own["per_concept"]))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(ylim=(table["excess"].min() / 1.4, table["excess"].max() * 1.4), xlabel="documents per concept")
    first.set_ylabel("above Bayes (nats/document)")
    made.legend(*first.get_legend_handles_labels(), loc=BELOW, ncols=2)
    return titled(made, "What N documents can tell, at most")


@plot.use_style()
def cloze_accuracy(table: pd.DataFrame) -> Figure:
    """Accuracy of each arm in the four-way cloze, a panel per variant, with chance and the ceiling; a point per seed."""
    arms = sorted((arm for arm in pd.unique(table["arm"]) if arm != "Bayes"), key=lambda arm: arm != "exact law")
    colours = [GREY if arm == "exact law" else PALETTE[0] for arm in arms]
    made, (first, *_), parts = panels(table, 0.9 + 0.25 * len(arms), each=2.2, margin=1.0)
    for axes, own in parts:
        sns.stripplot(
            own, x="accuracy", y="arm", hue="arm", order=arms, hue_order=arms, palette=colours, size=4, legend=False, ax=axes
        )  # fmt: skip
        ceiling = own.loc[own["arm"] == "Bayes", "accuracy"].mean()
        axes.axvline(0.25, color=INK, linewidth=0.9, linestyle=":", label="chance")
        axes.axvline(ceiling, color=INK, linewidth=0.9, linestyle="--", label="best possible choice")
        rows(axes, arms, axes is first)
        axes.set(ylabel="", xlim=(0, 1.02), xlabel="share of right answers")
    made.legend(*first.get_legend_handles_labels(), loc=BELOW, ncols=2)
    return titled(made, "Which of four words comes next? A dot per world and seed")
