"""Figures of real text: where the arms end, what neighbours are, how new samples are, and when synthesis pays."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.sbp.data.docstrings import RELATIONS
from orchard.papers.sbp.experiments.real_text import by_arm
from orchard.papers.sbp.figures.looks import LOOKS, looks, titled
from orchard.papers.sbp.figures.parts import ends, rows
from orchard.papers.sbp.method.costs import break_even, pays_from
from orchard.plot.style import INK, PALETTE

TEXTS = {"held-out documents": plot.Look(INK, "D")}


@plot.use_style()
def text_ends(table: pd.DataFrame) -> Figure:
    """Bits per byte of every arm at its best checkpoint (filled) and its last (hollow); a row per arm, a mark per seed."""
    scores = by_arm(table)
    arms = list(pd.unique(scores["arm"]))
    figure, (axes,) = plot.figure(height=0.9 + 0.27 * len(arms))
    ends(axes, scores, arms)
    rows(axes, arms)
    axes.set_xlabel("test loss (bits per byte)\nfilled: best checkpoint, hollow: last")
    return titled(figure, "Real text: where the arms end, every seed")


@plot.use_style()
def text_learning(table: pd.DataFrame) -> Figure:
    """Bits per byte of held-out documents along the training."""
    figure = plot.learning_curves(
        table.assign(tokens=table["tokens"] / 1e3), x="tokens", y="bits_per_byte", x_label="tokens (thousands)",
        y_label="test loss (bits per byte)", known=LOOKS,
    )  # fmt: skip
    return titled(figure, "Real text: how the arms learn; bands span seeds")


@plot.use_style()
def text_relations(table: pd.DataFrame) -> Figure:
    """How many times as often as among all pairs a relation in the code is found among the pairs; a bar per way of pairing."""
    ways = list(pd.unique(table["pairing"]))
    mean = table.groupby(["relation", "pairing"])["lift"].mean().unstack()
    shown = [name for name in RELATIONS if name in mean.index and mean.loc[name].notna().any()]
    figure, (axes,) = plot.figure(height=0.9 + 0.32 * len(shown))
    height = 0.8 / len(ways)
    for number, (way, look) in enumerate(looks(ways).items()):
        at = np.arange(len(shown)) + (number - (len(ways) - 1) / 2) * height
        axes.barh(at, mean.loc[shown, way], height, color=look.colour, label=way)
        own = table[(table["pairing"] == way) & table["relation"].isin(shown)]
        axes.plot(own["lift"], at[own["relation"].map(shown.index)], ".", color=INK, markersize=3)
    axes.axvline(1, color=INK, linewidth=0.8)
    rows(axes, ["no relation" if name == "none" else name for name in shown])
    axes.set_xlabel("times as frequent as among all pairs of D")
    axes.legend()
    return titled(figure, "Real text: what neighbours have in common; dots are seeds")


@plot.use_style()
def text_novelty(table: pd.DataFrame) -> Figure:
    """The share of n-grams that D does not have, against n."""
    figure, (axes,) = plot.figure()
    texts = list(pd.unique(table["text"]))
    for name, look in plot.looks(texts, LOOKS | TEXTS).items():
        points = table[table["text"] == name].groupby("n")["novel"].mean()
        axes.plot(points.index, points, color=look.colour, marker=look.marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(pd.unique(table["n"])), [f"{n}" for n in sorted(pd.unique(table["n"]))], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="n (tokens)", ylabel="share of n-grams that D lacks")
    axes.legend()
    return titled(figure, "Real text: how new samples are")


@plot.use_style()
def text_partners(table: pd.DataFrame) -> Figure:
    """What a neighbour saves on a held-out document against a random partner, pair by pair, for every synthesizer."""
    figure, (axes,) = plot.figure(height=2.2)
    gap = table.assign(gap=table["random"] - table["neighbour"])
    low, high = np.quantile(gap["gap"], [0.005, 0.995])
    bins = np.linspace(low, high, 40).tolist()
    for number, (name, part) in enumerate(gap.groupby("synthesizer", sort=False)):
        colour = LOOKS[str(name)].colour
        axes.hist(part["gap"], bins, density=True, histtype="step", color=colour, label=str(name))
        axes.axvline(part["gap"].mean(), color=colour, linestyle=("-", "--")[number % 2], linewidth=0.9)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set(xlabel="−log p(d₂ | random) + log p(d₂ | neighbour) (nats)", ylabel="density (1/nat)")
    axes.legend()
    return titled(figure, "Real text: what a neighbour saves; lines are means")


@plot.use_style()
def paying(
    share: float = 0.375, worth: float = 0.3, kept: float = 0.6, tuning: float = 2.0, charged: bool = False
) -> Figure:
    """What a budget is worth by repetition, by repetition with the FLOPs of synthesis on top, and by synthesis, against repeats."""
    table = break_even(share, worth, kept, tuning, charged)
    figure, (axes,) = plot.figure(height=2.9)
    lines = {"repetition": (PALETTE[1], "--"), "repetition_flops": (PALETTE[1], "-"), "synthesis": (PALETTE[0], "-")}
    names = {"repetition_flops": "repetition, as many FLOPs", "synthesis": f"{share:.0%} synthetic, worth {worth:g}"}
    for column, (colour, line) in lines.items():
        axes.plot(table["repeats"], table[column], line, color=colour, label=names.get(column, column))
    pays = pays_from(table)
    if np.isfinite(pays):
        axes.axvline(pays, color=INK, linewidth=0.8)
        axes.text(pays + 1, axes.get_ylim()[0] + 0.6, f"pays from {pays:.0f} repeats", va="bottom", fontsize=7)
    axes.set(xlabel="repeats of D in the budget", ylabel="worth (fresh tokens per unique token)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return titled(figure, "When synthesis pays")
