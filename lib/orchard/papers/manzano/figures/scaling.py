"""Figures of 04_plot: larger language models, larger image decoders, and the published benchmarks.

The paper's numbers are grey, or dark where they are its own model's among others; ours are coloured, in points (per cent) like the paper's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.manzano.experiments.scaling import OBJECTS, STRUCTURE, trend
from orchard.papers.manzano.experiments.strategies import DRAWN
from orchard.papers.manzano.figures.build import in_short
from orchard.papers.manzano.figures.looks import downwards, labelled, titled
from orchard.plot.style import GREY, INK, PALETTE

METRICS = {  # ours -> look, in words, the paper's nearest
    "general": (plot.Look(PALETTE[0], "o"), "general: objects of a caption", "General"),
    "text-rich": (plot.Look(PALETTE[1], "s"), "text-rich: characters", "Text-rich"),
    DRAWN: (plot.Look(PALETTE[2], "D"), "drawing: GenEval-mini", "GenEval"),
}
STRUCTURES = {  # of pictures that decoders of several sizes draw
    STRUCTURE: (plot.Look(PALETTE[0], "o"), "structure: edges shared with the true picture"),
    OBJECTS: (plot.Look(PALETTE[4], "^"), "objects right"),
    DRAWN: (plot.Look(PALETTE[2], "D"), "GenEval-mini"),
}
MODELS = {"Manzano-30B": ("o", INK), "Manzano-3B": ("o", "none")}  # a ring, larger: seen where both have the same score
PEERS = {"Bagel": "s", "X-Omni": "^", "Janus-Pro": "v"}  # of one model for both tasks, by the first part of their names
CLOSED = ("GPT-4o", "Gemini-2.5-Pro")
ALONE = "models for this task alone"


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Largest minus smallest language model: metric, seed, points."""
    found = trend(table)
    return found.assign(points=100 * found["gain"])[["metric", "seed", "points", "rho"]]


def _line(axes: Axes, own: pd.DataFrame, look: plot.Look, label: str) -> None:
    """Per cent against parameters: a dot for each seed, a line through the means."""
    seeds = own.groupby(["parameters", "seed"])["value"].mean().mul(100)
    axes.plot(seeds.index.get_level_values(0), seeds, look.marker, color=look.colour, alpha=0.4, markersize=3.5)
    means = seeds.groupby(level=0).mean()
    axes.plot(means.index, means, color=look.colour, marker=look.marker, markersize=3, label=label)


def _sizes(axes: Axes, parameters: pd.Series) -> None:
    """A logarithmic axis with the sizes that there are."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(pd.unique(parameters))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_short(float(value))))


@plot.use_style()
def language_models(table: pd.DataFrame, floor: float, published: pd.Series, least: float) -> Figure:
    """Three metrics against the size of the language model, and what the largest has more than the smallest beside the paper's.

    ``floor``: share of GenEval-mini of codes that were written for another prompt; ``published``: the paper's increments, points;
    ``least``: the least increment that counts (share).
    """
    made, (left, right) = plot.figure(7.0, 3.2, columns=2)
    first, last = table["parameters"].min(), table["parameters"].max()
    for metric, (look, said, _) in METRICS.items():
        own = table[table["metric"] == metric]
        _line(left, own[own["arm"] == "hybrid"], look, said)
        blind = own[own["arm"] == "blind"].groupby("parameters")["value"].mean().mul(100)
        low = pd.Series(100 * floor, index=[first, last]) if metric == DRAWN else blind
        left.plot(low.index, low, "--", color=look.colour, linewidth=0.9)
    _sizes(left, table["parameters"])
    left.set(xlabel="parameters of the language model", ylabel="right (%)", ylim=(-3, 103))
    found, nearest = gains(table), {theirs: metric for metric, (_, _, theirs) in METRICS.items()}
    for place, (name, points) in enumerate(published.items()):
        right.plot(points, place, "D", color=GREY, markerfacecolor="white", markersize=6)
        said, colour = "not asked here", GREY
        if name in nearest:
            ours, look = found.loc[found["metric"] == nearest[str(name)], "points"], METRICS[nearest[str(name)]][0]
            right.plot(ours, [place + 0.25] * len(ours), look.marker, color=look.colour, alpha=0.5)
            right.plot(ours.mean(), place + 0.25, "|", color=look.colour, markersize=13, markeredgewidth=2)
            said, colour = f"ours {ours.mean():+.1f}", look.colour
        right.text(1.02, place, said, fontsize=6, color=colour, va="center", transform=right.get_yaxis_transform())
    right.axvline(0, color=INK, linewidth=0.7)
    right.axvline(100 * least, color=INK, linewidth=0.9, linestyle=":")
    downwards(right, list(published.index))
    right.set(ylim=(len(published) - 0.2, -0.6), xlabel="largest minus smallest (points)")
    extra = [
        Line2D(
            [], [], color=INK, linestyle="--", label="floor: no picture (reading), codes of another prompt (drawing)"
        ),
        Line2D([], [], color=GREY, marker="D", markerfacecolor="white", linestyle="", label="paper, 300M to 3B"),
        Line2D([], [], color=INK, linestyle=":", label="least increment that counts (M5)"),
    ]
    title = "What a larger language model gains with the same decoder, here and in the paper; a dot per seed"
    return titled(made, title, [*labelled(left), *extra], 2)


@plot.use_style()
def decoders(table: pd.DataFrame, published: pd.Series) -> Figure:
    """The same true codes drawn by decoders of several sizes, and the paper's changes; an empty ``table`` says that it was not run."""
    made, (left, right) = plot.figure(7.0, 2.6, columns=2)
    for metric, (look, said) in STRUCTURES.items():
        own = table[table["metric"] == metric]
        if len(own):
            _line(left, own[own["arm"] == "hybrid"], look, said)
            low = own[own["arm"] == "shuffled"].groupby("parameters")["value"].mean().mul(100)
            left.plot(low.index, low, "--", color=look.colour, linewidth=0.9)
    if len(table):
        _sizes(left, table["parameters"])
        left.plot([], [], "--", color=INK, label="codes of another picture")
    else:
        left.text(0.5, 0.5, "not run:\none decoder is trained\nat this profile", ha="center", va="center", fontsize=7,
                  transform=left.transAxes)  # fmt: skip
        left.set(xticks=[], yticks=[])
    left.set(xlabel="parameters of the image decoder", ylabel="right, or shared (%)", ylim=(-3, 103))
    right.barh(range(len(published)), published, height=0.5, color=GREY)
    for place, points in enumerate(published):
        right.text(points, place, f" {points:+.1f}", va="center", fontsize=6)
    downwards(right, list(published.index))
    right.set(xlim=(0, 1.25 * published.max()), xlabel="paper: 0.9B to 3.52B (points)")
    ours = "ours on the left" if len(table) else "not run here"
    title = f"What a larger image decoder changes, given the same codes: {ours}, the paper's on the right"
    return titled(made, title, labelled(left), 2)


def marker(model: str) -> tuple[str, str, str]:
    """Marker, its face and the legend's words of a published model."""
    if model in MODELS:
        return *MODELS[model], model
    peer = next((name for name in PEERS if model.startswith(name)), None)
    if peer:
        return PEERS[peer], GREY, f"{model}, reads and draws"
    return ("x", GREY, "closed models") if model in CLOSED else ("|", GREY, ALONE)


@plot.use_style()
def published_scores(table: pd.DataFrame, unit: str, title: str) -> Figure:
    """Published scores, a row for each benchmark and a mark for each model: ``table`` [models, benchmarks] with NaN where none is given."""
    made, (axes,) = plot.figure(6.0, 1.5 + 0.24 * len(table.columns))
    handles: dict[str, Line2D] = {}
    for model in sorted(table.index, key=lambda name: name in MODELS):  # the paper's own on top
        shape, face, said = marker(str(model))
        edge = INK if model in MODELS else GREY
        size = 7.5 if face == "none" else 5.0
        mark = axes.plot(
            table.loc[model],
            np.arange(len(table.columns)),
            shape,
            color=edge,
            markerfacecolor=face,
            markersize=size,
            label=said,
        )
        handles[said] = mark[0]
    downwards(axes, list(table.columns))
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    return titled(made, title, list(handles.values())[::-1])
