"""Figures of 03_mc_suite: which criterion to trust, what dropping by it costs, and the maps of all of them (Figures 4, 8 to 15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.moe_lottery.experiments.ranks import LEAVE_ONE_OUT as ORACLE
from orchard.papers.moe_lottery.experiments.ranks import by_layer
from orchard.papers.moe_lottery.figures.training import (
    correlation_map,
    headline,
    layer_map,
    of_model,
    roomy,
    shared_legend,
)
from orchard.papers.moe_lottery.method.criteria import CRITERIA
from orchard.papers.moe_lottery.method.criteria import GROUPS as CRITERIA_GROUPS
from orchard.plot.style import INK, PALETTE

GROUPS = {
    "weight": PALETTE[0], "inference": PALETTE[2], "activation": PALETTE[1], "gradient": PALETTE[4], "oracle": INK,
    "random": "#bdbdbd", "naee": PALETTE[5],
}  # fmt: skip
BAND, DRAWS = "#e2e2e2", "#bdbdbd"
LINES = {"min": "-", "max": "--"}


def title(criterion: str) -> str:
    """A criterion as figures call it."""
    if criterion == "naee":
        return "NAEE"
    if criterion == ORACLE:
        return "true cost"
    if criterion not in CRITERIA:
        return criterion.replace("_", " ")
    first, _, rest = criterion.partition("_")
    return " ".join(filter(None, (first if first == "soft" else first.upper(), rest)))


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with a row for every criterion, from the top."""
    figure, (axes,) = plot.figure(height=0.85 + 0.145 * len(names))
    roomy(figure)
    axes.set_yticks(range(len(names)), [title(name) for name in names], fontsize=6.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    return figure, axes


@plot.use_style()
def trust(table: pd.DataFrame, by_layer: pd.DataFrame) -> Figure:
    """Rank correlation of every criterion with leaving one out, with intervals, best first; the band is chance. A small dot is a model,
    the mean over its layers of `by_layer`."""
    shown = table[table["criterion"] != "random"].sort_values("rho", ascending=False, na_position="last")
    figure, axes = _rows(list(shown["criterion"]))
    chance = table[table["criterion"] == "random"].iloc[0]
    axes.axvspan(chance["low"], chance["high"], color=BAND, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.7)
    colours = shown["group"].map(GROUPS)
    axes.hlines(range(len(shown)), shown["low"], shown["high"], color=colours, linewidth=1.5)
    axes.scatter(shown["rho"], range(len(shown)), color=colours, s=14, zorder=3)
    each = by_layer.groupby(["criterion", "model"])["rho"].mean().reset_index()
    axes.scatter(each["rho"], each["criterion"].map(list(shown["criterion"]).index), color=INK, s=3, zorder=4)
    axes.set(xlim=(-1.02, 1.02), xlabel="Spearman's ρ with the true cost")
    handles: list[Patch | Line2D] = [Patch(color=GROUPS[name], label=name) for name in (*CRITERIA_GROUPS, "oracle")]
    handles += [
        Patch(color=BAND, label="random order"),
        Line2D([], [], color=INK, marker="o", markersize=2, linestyle="none", label="one model"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1)
    scored = shown[shown["group"] != "oracle"]
    return headline(
        figure, f"{(scored['low'] > chance['high']).sum()} of {len(scored)} criteria lie wholly above random orders"
    )


@plot.use_style()
def agreement(table: pd.DataFrame) -> Figure:
    """Rank correlation between criteria, in the order of their groups."""
    present = [name for name in CRITERIA if name in set(table["first"])]
    groups = sorted((CRITERIA[name].group for name in present), key=CRITERIA_GROUPS.index)
    order = [*sorted(present, key=lambda name: CRITERIA_GROUPS.index(CRITERIA[name].group)), ORACLE]
    grid = table.pivot(index="first", columns="second", values="rho").loc[order, order]
    figure, (axes,) = plot.figure(height=3.9)
    roomy(figure)
    label = "Spearman's ρ, mean over layers"
    correlation_map(axes, grid, [title(name) for name in order], orientation="horizontal", aspect=30, label=label)
    axes.tick_params(labelsize=5.5)
    for group in CRITERIA_GROUPS:
        last = len(groups) - groups[::-1].index(group)
        axes.axhline(last, color=INK, linewidth=0.6)
        axes.axvline(last, color=INK, linewidth=0.6)
    pairs = grid.to_numpy()[np.triu_indices(len(grid), 1)]
    return headline(figure, f"{(pairs > 0.8).sum()} of {len(pairs)} pairs go together (ρ > 0.8)")


@plot.use_style()
def scatter(importance: pd.DataFrame, names: Sequence[str]) -> Figure:
    """What leaving an expert out costs against its rank by a criterion within its layer (1: lowest score); colours are layers."""
    own = of_model(importance)
    rows = -(-len(names) // 3)
    figure, axes = plot.figure(height=0.6 + 1.25 * rows, rows=rows, columns=3)
    for place, (name, panel) in enumerate(zip(names, axes, strict=False)):
        part = own[own["criterion"] == name]
        rank = part.groupby("layer")["score"].rank()
        seaborn.scatterplot(
            x=rank, y=part["increase"], hue=part["layer"], palette="viridis", s=9, linewidth=0, ax=panel,
            legend="full" if place == 0 else False,
        )  # fmt: skip
        rho = by_layer(part)["rho"].mean()
        panel.set(title=f"{title(name)}, ρ = {rho:+.2f}", xlabel="", ylabel="")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(3))
        panel.tick_params(axis="y", labelleft=place % 3 == 0)
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    shared_legend(figure, axes[:1], 8, title="layer")
    axes[3 * rows - 2].set_xlabel("rank of the score in its layer")
    figure.supylabel("loss more without it (nats/byte)", fontsize=8)
    return headline(figure, f"the model of seed {own['seed'].iloc[0]}; ρ is the mean over its layers")


def _mean(curves: pd.DataFrame) -> pd.DataFrame:
    """Test loss by curve and s, mean over models."""
    keys = ["criterion", "group", "direction", "budget", "draw", "s"]
    return curves[curves["split"] == "test"].groupby(keys, sort=False)["loss"].mean().reset_index()


def _line(table: pd.DataFrame, criterion: str, direction: str, budget: str = "per layer") -> pd.DataFrame:
    """One curve with the full model at s = 0."""
    own = table[(table["criterion"] == criterion) & (table["direction"] == direction) & (table["budget"] == budget)]
    return pd.concat([table[table["criterion"] == "full"], own]).sort_values("s")


def _background(axes: Axes, table: pd.DataFrame) -> None:
    """The range of the random draws, their mean, and leaving out by the leave-one-out map; the axis of s."""
    random = table[table["criterion"] == "random"].groupby("s")["loss"].agg(["min", "max", "mean"])
    random.loc[0.0] = float(table.loc[table["criterion"] == "full", "loss"].iloc[0])
    random = random.sort_index()
    axes.fill_between(
        random.index, random["min"], random["max"], color=BAND, linewidth=0, label="range of random draws"
    )
    axes.plot(random.index, random["mean"], color=DRAWS, linewidth=1, label="mean of random draws")
    oracle = _line(table, ORACLE, "min")
    axes.plot(oracle["s"], oracle["loss"], color=INK, linewidth=1.4, label="by true cost")
    axes.set(xlabel="dropped experts s (%)", ylabel="test loss (nats/byte)", xlim=(0, 76))
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75]))


@plot.use_style()
def curves(table: pd.DataFrame) -> Figure:
    """Figure 4: test loss against the share s of dropped experts, a panel per group, a line per criterion of the paper and direction."""
    mean = _mean(table)
    figure, axes = plot.figure(width=5.2, height=5.2, rows=2, columns=2)
    for place, (panel, group) in enumerate(zip(axes, CRITERIA_GROUPS, strict=True)):
        _background(panel, mean)
        names = [name for name, criterion in CRITERIA.items() if criterion.group == group and criterion.in_paper]
        shown = []
        for colour, name in zip(PALETTE, names, strict=False):
            for direction, style in LINES.items():
                own = _line(mean, name, direction)
                (line,) = panel.plot(own["s"], own["loss"], style, color=colour, linewidth=1, label=title(name))
                shown += [line] if direction == "min" else []
        panel.set_title(group)
        panel.legend(handles=shown, loc="upper left", fontsize=6)
        if place:
            panel.sharey(axes[0])
        panel.set(ylabel=panel.get_ylabel() * (place % 2 == 0), xlabel=panel.get_xlabel() * (place > 1))
    handles = [
        Line2D([], [], color=INK, linewidth=0.8, label="smallest first"),
        Line2D([], [], color=INK, linestyle="--", linewidth=0.8, label="largest first"),
        Line2D([], [], color=INK, linewidth=1.8, label="by true cost"),
        Patch(color=BAND, label="range of random draws"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    area = mean[mean["criterion"].isin([*CRITERIA, "random"]) & (mean["budget"] == "per layer")]
    loss = area.groupby(["criterion", "direction"])["loss"].mean()
    ways = loss.drop("random", level="criterion")
    better = (
        f"{(ways < loss['random'].iloc[0]).sum()} of {len(ways)} criteria and directions keep more than random dropping"
    )
    return headline(figure, f"{better} (means over s and {table['model'].nunique()} models)")


@plot.use_style()
def later_criteria(table: pd.DataFrame, names: Sequence[tuple[str, str]]) -> Figure:
    """Test loss against s for some criteria with their direction."""
    mean = _mean(table)
    figure, (axes,) = plot.figure(height=3.2)
    _background(axes, mean)
    for place, (name, direction) in enumerate(names):
        own = _line(mean, name, direction)
        axes.plot(own["s"], own["loss"], LINES[direction], marker="os^vDPX*"[place % 8], markersize=3, color=PALETTE[place % 10],
                  linewidth=1, label="NAEE" if name == "naee" else f"{direction.capitalize()}-{title(name)}")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2)
    loss = {way: _line(mean, *way)["loss"].mean() for way in names if (mean["criterion"] == way[0]).any()}
    best = min(loss, key=lambda way: loss[way])
    return headline(figure, f"{title(best[0])} keeps most (mean over s and {table['model'].nunique()} models)")


@plot.use_style()
def budgets(table: pd.DataFrame) -> Figure:
    """The same criterion with as many experts dropped from every layer, and with one ranking for all layers."""
    mean = _mean(table)
    figure, (axes,) = plot.figure(height=2.8)
    _background(axes, mean)
    names = pd.unique(mean.loc[mean["budget"] == "all layers", "criterion"])
    for colour, name in zip(PALETTE, names, strict=False):
        for budget, line in (("per layer", "-"), ("all layers", ":")):
            own = _line(mean, name, "min", budget)
            axes.plot(own["s"], own["loss"], line, color=colour, label=f"{title(name)}, {budget}")
    figure.legend(loc="outside lower center", ncols=2)
    loss = (
        mean[mean["criterion"].isin(names) & (mean["direction"] == "min")]
        .groupby(["criterion", "budget"])["loss"]
        .mean()
        .unstack()
    )
    better = (loss["per layer"] < loss["all layers"]).sum()
    return headline(figure, f"equal numbers per layer keep more for {better} of {len(loss)} criteria")


def on_validation(curves: pd.DataFrame) -> pd.DataFrame:
    """Test rows of the criterion and direction with the lowest validation loss at each s, model by model; random, the oracle and
    one ranking for all layers are no candidates."""
    own = curves[curves["criterion"].isin(CRITERIA) & (curves["budget"] == "per layer")]
    keys = ["model", "s"]
    validation = own[own["split"] == "validation"]
    best = validation.loc[validation.groupby(keys, sort=False)["loss"].idxmin(), [*keys, "criterion", "direction"]]
    return best.merge(own[own["split"] == "test"], on=[*keys, "criterion", "direction"])


@plot.use_style()
def pareto(table: pd.DataFrame) -> Figure:
    """Test loss against the experts that are kept: a dot for every criterion and direction, and the choices that one could make."""
    mean = _mean(table[table["budget"] == "per layer"])
    figure, (axes,) = plot.figure(height=3.0)
    for group in CRITERIA_GROUPS:
        part = mean[(mean["group"] == group) & mean["criterion"].isin(CRITERIA)]
        axes.plot(100 - part["s"], part["loss"], "o", color=GROUPS[group], markersize=2, alpha=0.6, label=group)
    chosen = (
        ("random, mean of the draws", mean[mean["criterion"] == "random"], "#8c8c8c", "s"),
        ("best on validation text", on_validation(table), PALETTE[3], "D"),
        ("true cost", mean[mean["criterion"] == ORACLE], INK, "^"),
        ("full model", _mean(table[table["criterion"] == "full"]), INK, "*"),
    )
    for label, rows, colour, marker in chosen:
        line = rows.groupby("s")["loss"].mean()
        size = 3.5 if len(line) > 1 else 8
        axes.plot(100 - line.index, line, color=colour, marker=marker, markersize=size, label=label)
    axes.set(xlabel="experts that are kept (%)", ylabel="test loss (nats/byte)")
    axes.xaxis.set_major_locator(FixedLocator([25, 50, 75, 100]))
    figure.legend(loc="outside lower center", ncols=2)
    random = mean.loc[mean["criterion"] == "random", "loss"].mean()
    gain = random - on_validation(table)["loss"].mean()
    return headline(
        figure, f"the best criterion on validation text is {gain:.2f} nats/byte better than random (mean over s)"
    )


@plot.use_style()
def maps(importance: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Figures 8 to 15: scores by layer and expert, each on its own scale from lowest (dark) to highest; first the truth, what leaving the
    expert out costs."""
    own = of_model(importance)
    shown = [ORACLE, *names]
    rows = -(-len(shown) // 3)
    figure, axes = plot.figure(width=5.2, height=0.5 + 0.9 * rows, rows=rows, columns=3)
    for place, (name, panel) in enumerate(zip(shown, axes, strict=False)):
        grid = own[own["criterion"] == name].pivot(index="layer", columns="expert", values="score")
        finite = grid.to_numpy()[np.isfinite(grid.to_numpy())]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        layer_map(panel, grid.clip(lower=low), Normalize(low, high if high > low else low + 1), y_label="")
        panel.set_title(title(name), color=GROUPS[own.loc[own["criterion"] == name, "group"].iloc[0]], fontsize=7)
        panel.tick_params(labelbottom=place >= len(shown) - 3, labelleft=place % 3 == 0)
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    figure.supxlabel("expert", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    return headline(figure, f"dark: low, bright: high, each map on its own scale (model of seed {own['seed'].iloc[0]})")


@plot.use_style()
def regret(table: pd.DataFrame) -> Figure:
    """Where the set that a criterion leaves out of one layer lies between the best of all sets (0) and their mean (1)."""
    mean = table.groupby(["criterion", "group", "direction"])["regret"].mean().reset_index()
    order = list(mean.groupby("criterion")["regret"].min().sort_values().index)
    figure, axes = _rows(order)
    handles: list[Patch | Line2D] = [Patch(color=GROUPS[name], label=name) for name in CRITERIA_GROUPS]
    look: dict[str, Any] = {"color": INK, "linestyle": "", "markersize": 4}
    for direction, marker, face, label in (("min", "o", INK, "smallest first"), ("max", "s", "white", "largest first")):
        own = mean[mean["direction"] == direction]
        colours = own["group"].map(GROUPS).tolist()
        faces = colours if direction == "min" else "white"
        places = own["criterion"].map(order.index)
        axes.scatter(own["regret"], places, marker=marker, s=16, edgecolors=colours, facecolors=faces, zorder=3)
        handles.append(Line2D([], [], marker=marker, markerfacecolor=face, label=label, **look))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvline(1, color="#8c8c8c", linewidth=0.8, linestyle="--")
    axes.set_xlabel("regret (0: best, 1: random)")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1)
    return headline(
        figure, f"one layer: {(mean['regret'] < 1).sum()} of {len(mean)} choices beat a random set (mean over models)"
    )


@plot.use_style()
def stability(table: pd.DataFrame) -> Figure:
    """Rank correlation of a criterion with itself on other calibration text, against the size of the sample."""
    mean = table.groupby(["criterion", "group", "windows"])["rho"].mean().reset_index()
    figure, axes = plot.figure(height=4.2, rows=3)
    for panel, group in zip(axes, CRITERIA_GROUPS[1:], strict=True):
        own = mean[mean["group"] == group]
        seaborn.lineplot(
            own.assign(criterion=own["criterion"].map(title)), x="windows", y="rho", hue="criterion", style="criterion",
            markers=True, dashes=False, markersize=4, linewidth=1, palette=PALETTE[: own["criterion"].nunique()], ax=panel,
        )  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(FixedLocator(sorted(pd.unique(mean["windows"]))))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set(ylim=(min(0.0, float(mean["rho"].min()) - 0.05), 1.03), title=group, xlabel="", ylabel="")
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6)
    axes[1].set_ylabel("Spearman's ρ between two disjoint samples")
    axes[2].set_xlabel("windows in a sample")
    last = mean[mean["windows"] == mean["windows"].max()]["rho"]
    return headline(figure, f"{(last > 0.8).sum()} of {len(last)} criteria repeat with ρ > 0.8 at the largest sample")


@plot.use_style()
def curve_and_mask(table: pd.DataFrame, dropped: pd.DataFrame, criterion: str, direction: str, s: float) -> Figure:
    """One criterion: its curve with the point at s, and which experts are gone there, with the round in which they went."""
    mean, own = _mean(of_model(table)), of_model(dropped)  # experts of one model
    order = own[(own["criterion"] == criterion) & (own["direction"] == direction)]
    rounds = order.pivot(index="layer", columns="expert", values="round")
    figure, (above, below) = plot.figure(height=2.6 + 0.1 * len(rounds), rows=2)
    _background(above, mean)
    line, name = _line(mean, criterion, direction), f"{direction.capitalize()}-{title(criterion)}"
    above.plot(line["s"], line["loss"], LINES[direction], color=PALETTE[0], label=name)
    at = line[line["s"] == s]
    above.plot(at["s"], at["loss"], "o", color=PALETTE[0], markersize=6)
    above.set_title(f"{name}, s = {s:g} %: {float(at['loss'].iloc[0]):.3f} nats/byte")
    gone = rounds.where((rounds > 0) & (rounds <= round(s / 12.5)))
    layer_map(below, gone, Normalize(0, 12), ".0f", cmap="Blues")
    below.set_xlabel("expert (blue: dropped, in the round that is written)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
