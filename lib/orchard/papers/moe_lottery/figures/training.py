"""Figures of 02_train: how the model learns, who its experts are, and what leaving each one out costs (the paper's Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.moe_lottery.experiments.gates import DEAREST, ENTROPY, WORTH, worth_of_experts
from orchard.papers.moe_lottery.experiments.suite import ratio_by_chance
from orchard.plot.style import GREY, INK, PALETTE

MOST_NUMBERS = 64  # cells in which numbers are written


def of_model(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first model: maps cannot be averaged."""
    return table[table["model"] == table["model"].iloc[0]]


def headline(figure: Figure, words: str) -> Figure:
    """The figure with a line above it that says what is seen; the empty line above that is for the profile."""
    figure.suptitle("\n" + fill(words, int(19 * figure.get_figwidth())), fontsize=7, x=0.01, ha="left")
    return figure


def roomy(figure: Figure) -> Figure:
    """The figure with room for labels that come out wider than when its layout was made."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.06)
    return figure


@plot.use_style()
def learning_curve(training: pd.DataFrame) -> Figure:
    """Validation loss against optimizer steps, a line per shape, bands over seeds."""
    part = training.dropna(subset=["validation_loss"])
    label = "validation loss (nats/byte)"
    figure = plot.learning_curves(part, y="validation_loss", x_label="optimizer step", y_label=label)
    loss = part.groupby("step")["validation_loss"].mean()
    fall = loss.iloc[-2] - loss.iloc[-1] if len(loss) > 1 else 0.0
    return headline(figure, f"still falling at the end: by {fall:.3f} nats/byte since the measurement before")


@plot.use_style()
def competence(router: pd.DataFrame, costs: pd.DataFrame, scratch: pd.DataFrame) -> Figure:
    """Whether the mixture uses its experts, a dot per layer or model beside the bound of the gate: entropy of the router, what the dearest
    expert costs, and how much worse the smallest size is when it is trained from scratch."""
    test = costs.query("split == 'test' and domain == 'all'").groupby("model", sort=False)
    panels = (
        (
            "router entropy\n(1: even choice)",
            router["entropy"] / np.log(test["expert"].nunique().iloc[0]),
            ENTROPY,
            "at most",
        ),
        ("dearest expert\n(nats/byte)", test["increase"].max(), DEAREST, "at least"),
        ("small from scratch:\nworse (nats/byte)", worth_of_experts(scratch), WORTH, "at least"),
    )
    figure, axes = plot.figure(height=1.9, columns=len(panels))
    roomy(figure)
    for panel, (label, values, bound, side) in zip(axes, panels, strict=True):
        places = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
        panel.plot(places, values, "o", color=PALETTE[0], alpha=0.6)
        panel.axhline(bound, color=INK, linewidth=0.9)
        panel.annotate(side, (0.45, bound), fontsize=6, color=GREY, va="bottom", ha="right")
        panel.set(xlim=(-0.5, 0.5), xticks=[])
        panel.set_xlabel(label, fontsize=7)
        panel.margins(y=0.2)
    return headline(figure, "does the mixture use its experts? dots: layers or models, lines: what the gate asks")


def layer_map(
    axes: Axes, grid: pd.DataFrame, norm: Normalize, number: str = "", cmap: str = "cividis", y_label: str = "layer"
) -> QuadMesh:
    """A map of rows (layers) by columns (experts); numbers in the cells of a small one, white where a value is missing."""
    seaborn.heatmap(
        grid.astype(float), ax=axes, norm=norm, cmap=cmap, annot=bool(number) and grid.size <= MOST_NUMBERS, fmt=number,
        annot_kws={"fontsize": 5.5}, cbar=False,
    )  # fmt: skip
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="", ylabel=y_label)
    mesh = axes.collections[0]
    assert isinstance(mesh, QuadMesh)
    return mesh


def shared_legend(figure: Figure, panels: Sequence[Axes], ncols: int = 0, *, title: str = "") -> None:
    """One legend for what any of the panels has, below in one row; legends inside of them go."""
    found = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = ncols or max(1, len(found))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, title=title)
    for axes in panels:
        if (inside := axes.get_legend()) is not None:
            inside.remove()


def correlation_map(axes: Axes, grid: pd.DataFrame, names: Sequence[str], **bar: Any) -> None:
    """A square map from -1 over white to 1; `bar`: arguments of its colour bar."""
    seaborn.heatmap(
        grid, ax=axes, cmap="PuOr", vmin=-1, vmax=1, xticklabels=names, yticklabels=names, cbar_kws={"pad": 0.02, **bar}
    )
    axes.set(xlabel="", ylabel="")


def log_norm(values: np.ndarray) -> LogNorm:
    """A logarithmic scale over the positive values, three decades at most; what lies below has the lowest colour."""
    high = max(float(np.nanmax(values)), 1e-9)
    positive = values[np.isfinite(values) & (values > 0)]
    low = max(float(positive.min()) if positive.size else high / 10, high / 1000)
    return LogNorm(vmin=min(low, high / 1.01), vmax=high, clip=True)


@plot.use_style()
def leave_one_out(table: pd.DataFrame, split: str = "test") -> Figure:
    """Increase of the loss without each expert: layer downwards, expert to the right, on a logarithmic colour scale."""
    own = of_model(table[(table["split"] == split) & (table["domain"] == "all")])
    grid = own.pivot(index="layer", columns="expert", values="increase")
    figure, (axes,) = plot.figure(height=0.9 + 0.28 * len(grid))
    image = layer_map(axes, grid, log_norm(grid.to_numpy()), ".3f")
    axes.set_xlabel("expert that is left out")
    bar = figure.colorbar(image, ax=axes, pad=0.02, label="loss more\n(nats/byte)")
    _plain_ticks(bar.ax.yaxis, *image.get_clim())
    first = own.nlargest(1, "increase").iloc[0]
    words = f"expert {first['expert']} of layer {first['layer']} is missed most: {first['increase']:+.3f} nats/byte"
    return headline(figure, f"{words} (model of seed {first['seed']})")


def _plain_ticks(axis: Axis, low: float, high: float, mantissas: tuple[int, ...] = (1, 3)) -> None:
    steps = [m * 10.0**e for e in range(-9, 4) for m in mantissas]
    shown = [step for step in steps if low <= step <= high] or [low, high]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.2g}")


@plot.use_style()
def leave_one_out_by_domain(table: pd.DataFrame, split: str = "test") -> Figure:
    """The map of :func:`leave_one_out` for the bytes of each domain, on one colour scale."""
    own = of_model(table[(table["split"] == split) & (table["domain"] != "all")])
    names = list(pd.unique(own["domain"]))
    grids = [own[own["domain"] == name].pivot(index="layer", columns="expert", values="increase") for name in names]
    norm = log_norm(np.stack([grid.to_numpy() for grid in grids]))
    figure = _panels(names, grids, norm, "expert that is left out", "loss more\n(nats/byte)", log=True)
    known = own.dropna(subset=["increase"])  # a domain without test bytes has no costs
    dearest = known.loc[known.groupby("domain")["increase"].idxmax()].drop_duplicates(["layer", "expert"])
    return headline(
        figure, f"{len(dearest)} experts are the dearest one of {known['domain'].nunique()} domains (one model)"
    )


def _panels(
    names: Sequence[str], grids: Sequence[pd.DataFrame], norm: Normalize, x_label: str, label: str, *, log: bool = False,
    y_label: str = "layer", number: str = "",
) -> Figure:  # fmt: skip
    """Small maps, two in a row, with one colour bar; the place that is left over holds the bar."""
    rows = -(-(len(names) + 1) // 2)
    figure, axes = plot.figure(height=0.65 + rows * (0.5 + 0.17 * len(grids[0])), rows=rows, columns=2)
    for place, (name, grid) in enumerate(zip(names, grids, strict=True)):
        image = layer_map(axes[place], grid, norm, number, y_label=y_label if place % 2 == 0 else "")
        axes[place].set_title(name)
        if place >= len(names) - 2:
            axes[place].set_xlabel(x_label)
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    bar = figure.colorbar(image, ax=axes[len(names) :], orientation="horizontal", fraction=0.4, aspect=12, label=label)
    if log:
        _plain_ticks(bar.ax.xaxis, *image.get_clim(), (1,))
    return figure


@plot.use_style()
def specialisation(table: pd.DataFrame) -> Figure:
    """How much of each domain every expert gets, times the number of experts: 1 is an even share; a panel per layer."""
    own = of_model(table)
    layers = sorted(pd.unique(own["layer"]))
    own = own.assign(share=own["share"] * own["expert"].nunique())
    grids = [own[own["layer"] == layer].pivot(index="domain", columns="expert", values="share") for layer in layers]
    top = max(float(grid.to_numpy().max()) for grid in grids)
    figure = _panels(
        [f"layer {layer}" for layer in layers], grids, Normalize(0, top), "expert", "share of the domain\n(1: even)",
        y_label="", number=".1f",
    )  # fmt: skip
    return headline(figure, f"experts get up to {top:.1f} times an even share of a domain (one model)")


@plot.use_style()
def load_and_coverage(table: pd.DataFrame) -> Figure:
    """Load of every expert, times the number of experts, and the share of the vocabulary that it was ever given."""
    own = of_model(table).drop_duplicates(["layer", "expert"])
    own = own.assign(load=own["load"] * own["expert"].nunique(), coverage=100 * own["coverage"])
    figure, axes = plot.figure(height=0.9 + 0.5 * own["layer"].nunique(), rows=2)
    for panel, column, label, number in (
        (axes[0], "load", "load\n(1: even)", ".2f"), (axes[1], "coverage", "vocabulary\nseen (%)", ".0f"),
    ):  # fmt: skip
        grid = own.pivot(index="layer", columns="expert", values=column)
        image = layer_map(panel, grid, Normalize(0, float(grid.to_numpy().max())), number)
        figure.colorbar(image, ax=panel, pad=0.02, label=label)
    axes[1].set_xlabel("expert")
    spread = own["load"].std(ddof=0)
    words = f"load differs by {spread:.2f} of its mean, coverage by a factor of {own['coverage'].max() / own['coverage'].min():.1f}"
    return headline(figure, f"{words} (one model)")


@plot.use_style()
def increases(table: pd.DataFrame, split: str = "test") -> Figure:
    """All experts of every model by what leaving them out costs, with two standard errors; the median, and what the largest of as many
    costs stays below where luck alone makes them differ, in 95 of 100 cases."""
    own = table[(table["split"] == split) & (table["domain"] == "all")]
    figure, (axes,) = plot.figure(height=2.8)
    looks = plot.looks(map(str, pd.unique(own["model"])))
    for name, part in own.groupby("model", sort=False):
        ranked, look = part.sort_values("increase", ascending=False), looks[str(name)]
        share = 100 * (np.arange(len(ranked)) + 0.5) / len(ranked)
        axes.errorbar(
            share, ranked["increase"], 2 * ranked["error"], fmt=look.marker, color=look.colour, markersize=3, elinewidth=0.8,
            label=str(name),
        )  # fmt: skip
        for factor, line in ((1, "-"), (ratio_by_chance(len(ranked)), ":")):
            axes.axhline(factor * ranked["increase"].median(), color=look.colour, linewidth=0.8, linestyle=line)
    axes.set(xlabel="experts, the costliest first (%)", ylabel="loss more without it\n(nats/byte)", xlim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.legend(
        loc="outside lower center", ncols=2, title="lines: the median (solid), where luck alone ends (dotted)"
    )
    ratio = own.groupby("model")["increase"].agg(lambda costs: costs.max() / costs.median())
    return headline(figure, f"the dearest expert costs {ratio.min():.1f} to {ratio.max():.1f} times the median one")
