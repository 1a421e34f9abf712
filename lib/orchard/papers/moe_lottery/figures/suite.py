"""Figures of 03_mc_suite: which criterion to trust, what dropping by it costs, and the maps of all of them (Figures 4, 8 to 15)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from orchard import plot
from orchard.papers.moe_lottery.figures.training import layer_map, of_model
from orchard.papers.moe_lottery.method.criteria import CRITERIA
from orchard.plot.style import GREY, INK, PALETTE

GROUPS = {
    "weight": PALETTE[0], "inference": PALETTE[2], "activation": PALETTE[1], "gradient": PALETTE[4], "oracle": INK,
    "random": "#bdbdbd", "naee": PALETTE[5],
}  # fmt: skip
BAND = "#e2e2e2"
LINES = {"min": "-", "max": "--"}
ORACLE = "leave_one_out"


def title(criterion: str) -> str:
    """A criterion as figures call it."""
    if criterion == "naee":
        return "NAEE"
    if criterion not in CRITERIA:
        return criterion.replace("_", " ")
    first, _, rest = criterion.partition("_")
    return " ".join(filter(None, (first if first == "soft" else first.upper(), rest)))


@plot.use_style()
def trust(table: pd.DataFrame) -> Figure:
    """Rank correlation of every criterion with leaving one out, with intervals, best first; the band is chance."""
    shown = table[table["criterion"] != "random"].sort_values("rho", ascending=False, na_position="last")
    figure, (axes,) = plot.figure(height=0.85 + 0.145 * len(shown))
    chance = table[table["criterion"] == "random"].iloc[0]
    axes.axvspan(chance["low"], chance["high"], color=BAND, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.7)
    for place, (_, row) in enumerate(shown.iterrows()):
        colour = GROUPS[row["group"]]
        axes.hlines(place, row["low"], row["high"], color=colour, linewidth=1.5)
        axes.plot(row["rho"], place, "o", color=colour, markersize=3.8)
    axes.set_yticks(range(len(shown)), [title(name) for name in shown["criterion"]], fontsize=6.5)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(-1.02, 1.02)
    axes.grid(False, axis="y")
    axes.set_xlabel("Spearman's ρ with leave-one-out (95 % interval)")
    handles = [Patch(color=colour, label=name) for name, colour in GROUPS.items() if name not in ("random", "naee")]
    handles.append(Patch(color=BAND, label="random order"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1)
    return figure


@plot.use_style()
def agreement(table: pd.DataFrame) -> Figure:
    """Rank correlation between criteria, in the order of their groups."""
    order = [*(name for name in CRITERIA if name in set(table["first"])), ORACLE]
    order.sort(key=lambda name: list(GROUPS).index(CRITERIA[name].group if name in CRITERIA else "oracle"))
    grid = table.pivot(index="first", columns="second", values="rho").loc[order, order]
    figure, (axes,) = plot.figure(height=3.9)
    image = axes.imshow(grid.to_numpy(), cmap="PuOr", vmin=-1, vmax=1)
    names = [title(name) for name in order]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=5.5)
    axes.set_yticks(range(len(names)), names, fontsize=5.5)
    axes.grid(False)
    groups = [CRITERIA[name].group if name in CRITERIA else "oracle" for name in order]
    for place in (i for i in range(1, len(groups)) if groups[i] != groups[i - 1]):
        axes.axhline(place - 0.5, color=INK, linewidth=0.6)
        axes.axvline(place - 0.5, color=INK, linewidth=0.6)
    figure.colorbar(
        image, ax=axes, orientation="horizontal", aspect=30, pad=0.02, label="Spearman's ρ, mean over layers"
    )
    return figure


@plot.use_style()
def scatter(importance: pd.DataFrame, names: Sequence[str], model: str | None = None) -> Figure:
    """What leaving an expert out costs against its rank by a criterion within its layer (1: lowest score); colours are layers."""
    own = of_model(importance, model)
    rows = -(-len(names) // 3)
    figure, axes = plot.figure(height=0.4 + 1.25 * rows, rows=rows, columns=3)
    layers = own["layer"].nunique()
    for place, name in enumerate(names):
        part = own[own["criterion"] == name]
        rank = part.groupby("layer")["score"].rank()
        axes[place].scatter(rank, part["increase"], c=part["layer"], cmap="viridis", vmax=max(1, layers - 0.5), s=9)
        axes[place].set_title(title(name))
        axes[place].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[place].yaxis.set_major_locator(MaxNLocator(3))
        if place % 3:
            axes[place].tick_params(axis="y", labelleft=False)
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    figure.supxlabel("rank of the score in its layer", fontsize=8)
    figure.supylabel("loss more without it (nats/byte)", fontsize=8)
    return figure


def _mean(curves: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Loss by curve and s, mean over models, of one split."""
    keys = ["criterion", "group", "direction", "budget", "draw", "s"]
    return curves[curves["split"] == split].groupby(keys, sort=False)["loss"].mean().reset_index()


def _line(table: pd.DataFrame, criterion: str, direction: str, budget: str = "per layer") -> pd.DataFrame:
    """One curve with the full model at s = 0."""
    own = table[(table["criterion"] == criterion) & (table["direction"] == direction) & (table["budget"] == budget)]
    return pd.concat([table[table["criterion"] == "full"], own]).sort_values("s")


def _background(axes: Axes, table: pd.DataFrame) -> None:
    """The range of the random draws, their mean, and leaving out by the leave-one-out map."""
    random = table[table["criterion"] == "random"].groupby("s")["loss"].agg(["min", "max", "mean"])
    full = float(table.loc[table["criterion"] == "full", "loss"].iloc[0])
    s = [0.0, *random.index]
    axes.fill_between(
        s, [full, *random["min"]], [full, *random["max"]], color=BAND, linewidth=0, label="10 random draws"
    )
    axes.plot(s, [full, *random["mean"]], color="#bdbdbd", linewidth=1)
    oracle = _line(table, ORACLE, "min")
    axes.plot(oracle["s"], oracle["loss"], color=INK, linewidth=1.4, label="leave-one-out")


def _shares(axes: Axes) -> None:
    axes.set_xlim(0, 76)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75]))


@plot.use_style()
def curves(table: pd.DataFrame, model: str | None = None) -> Figure:
    """Figure 4: test loss against the share s of dropped experts, a panel per group, a line per criterion of the paper and direction."""
    mean = _mean(of_model(table, model))
    figure, axes = plot.figure(width=5.2, height=5.2, rows=2, columns=2)
    for panel, group in zip(axes, ("weight", "inference", "activation", "gradient"), strict=True):
        _background(panel, mean)
        names = [name for name, criterion in CRITERIA.items() if criterion.group == group and criterion.in_paper]
        shown = [title(name) for name in names]
        for colour, name in zip(PALETTE, names, strict=False):
            for direction, line in LINES.items():
                own = _line(mean, name, direction)
                label = title(name) if direction == "min" else "_"
                panel.plot(own["s"], own["loss"], line, color=colour, linewidth=1, label=label)
        panel.set_title(group)
        _shares(panel)
        own_handles = [handle for handle in panel.get_legend_handles_labels()[0] if handle.get_label() in shown]
        panel.legend(handles=own_handles, loc="upper left", fontsize=6)
    low, high = min(panel.get_ylim()[0] for panel in axes), max(panel.get_ylim()[1] for panel in axes)
    for place, panel in enumerate(axes):
        panel.set_ylim(low, high)
        panel.set_ylabel("test loss (nats/byte)" if place % 2 == 0 else "")
        panel.set_xlabel("dropped experts s (%)" if place > 1 else "")
    handles = [
        Line2D([], [], color=INK, linestyle="-", linewidth=0.8, label="smallest first"),
        Line2D([], [], color=INK, linestyle="--", linewidth=0.8, label="largest first"),
        Line2D([], [], color=INK, linewidth=1.8, label="by leave-one-out"),
        Patch(color=BAND, label="range of 10 random draws"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@plot.use_style()
def later_criteria(table: pd.DataFrame, names: Sequence[tuple[str, str]], model: str | None = None) -> Figure:
    """Test loss against s for some criteria with their direction."""
    mean = _mean(of_model(table, model))
    figure, (axes,) = plot.figure(height=3.0)
    _background(axes, mean)
    for place, (name, direction) in enumerate(names):
        own = _line(mean, name, direction)
        look = list("os^vDPX*")[place % 8]
        axes.plot(own["s"], own["loss"], LINES[direction], marker=look, markersize=3, color=PALETTE[place % 10], linewidth=1,
                  label="NAEE" if name == "naee" else f"{direction.capitalize()}-{title(name)}")  # fmt: skip
    return _against_shares(figure, axes)


def _against_shares(figure: Figure, axes: Axes) -> Figure:
    """The axes and the legend of loss against s."""
    _shares(axes)
    axes.set_xlabel("dropped experts s (%)")
    axes.set_ylabel("test loss (nats/byte)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@plot.use_style()
def budgets(table: pd.DataFrame, model: str | None = None) -> Figure:
    """The same criterion with as many experts dropped from every layer, and with one ranking for all layers."""
    mean = _mean(of_model(table, model))
    figure, (axes,) = plot.figure(height=2.6)
    _background(axes, mean)
    names = pd.unique(mean.loc[mean["budget"] == "all layers", "criterion"])
    for colour, name in zip(PALETTE, names, strict=False):
        for budget, line in (("per layer", "-"), ("all layers", ":")):
            own = _line(mean, name, "min", budget)
            axes.plot(own["s"], own["loss"], line, color=colour, label=f"{title(name)}, {budget}")
    return _against_shares(figure, axes)


@plot.use_style()
def pareto(table: pd.DataFrame, model: str | None = None) -> Figure:
    """Test loss against the parameters that are left: every criterion and direction a dot, and the choices one could make."""
    own = of_model(table, model)
    test = own[(own["split"] == "test") & (own["budget"] == "per layer")]
    figure, (axes,) = plot.figure(height=2.8)
    millions = test["parameters"] / 1e6
    dots = test["criterion"].isin(CRITERIA)
    for group in ("weight", "inference", "activation", "gradient"):
        part = dots & (test["group"] == group)
        axes.plot(
            millions[part], test.loc[part, "loss"], "o", color=GROUPS[group], markersize=2, alpha=0.6, label=group
        )
    chosen = on_validation(own)
    for label, line, colour, marker in (
        ("random, mean of 10", test[test["criterion"] == "random"], "#8c8c8c", "s"),
        ("best on validation text", chosen, PALETTE[3], "D"),
        ("leave-one-out", test[test["criterion"] == ORACLE], INK, "^"),
    ):
        mean = line.assign(m=line["parameters"] / 1e6).groupby("m")["loss"].mean()
        axes.plot(mean.index, mean, color=colour, marker=marker, markersize=3.5, label=label)
    full = test[test["criterion"] == "full"].iloc[0]
    axes.plot(full["parameters"] / 1e6, full["loss"], "*", color=INK, markersize=8, label="full model")
    axes.set_xlabel("parameters that are kept (millions)")
    axes.set_ylabel("test loss (nats/byte)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def on_validation(curves: pd.DataFrame) -> pd.DataFrame:
    """Test rows of the criterion and direction with the lowest validation loss at each s, model by model; random, the oracle and
    one ranking for all layers are no candidates."""
    own = curves[curves["criterion"].isin(CRITERIA) & (curves["budget"] == "per layer")]
    keys = ["model", "s"]
    validation = own[own["split"] == "validation"]
    best = validation.loc[validation.groupby(keys, sort=False)["loss"].idxmin(), [*keys, "criterion", "direction"]]
    return best.merge(own[own["split"] == "test"], on=[*keys, "criterion", "direction"])


@plot.use_style()
def maps(importance: pd.DataFrame, model: str | None = None) -> Figure:
    """Figures 8 to 15: the scores of every criterion by layer and expert, each on its own scale from lowest to highest."""
    own = of_model(importance, model)
    names = list(pd.unique(own["criterion"]))
    rows = -(-len(names) // 4)
    figure, axes = plot.figure(width=5.2, height=0.5 + 0.82 * rows, rows=rows, columns=4)
    for place, name in enumerate(names):
        grid = own[own["criterion"] == name].pivot(index="layer", columns="expert", values="score")
        finite = grid.to_numpy()[np.isfinite(grid.to_numpy())]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        layer_map(axes[place], grid.clip(lower=low), Normalize(low, high if high > low else low + 1), y_label="")
        axes[place].set_title(title(name), color=GROUPS[own.loc[own["criterion"] == name, "group"].iloc[0]], fontsize=7)
        if place < len(names) - 4:
            axes[place].tick_params(axis="x", labelbottom=False)
        if place % 4:
            axes[place].tick_params(axis="y", labelleft=False)
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    figure.supxlabel("expert", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    return figure


@plot.use_style()
def regret(table: pd.DataFrame) -> Figure:
    """Where the set that a criterion leaves out of one layer lies between the best of all sets (0) and their mean (1)."""
    mean = table.groupby(["criterion", "group", "direction"])["regret"].mean().reset_index()
    order = mean.groupby("criterion")["regret"].min().sort_values().index
    figure, (axes,) = plot.figure(height=0.8 + 0.145 * len(order))
    for place, name in enumerate(order):
        for row in mean[mean["criterion"] == name].itertuples():
            first = row.direction == "min"
            axes.plot(row.regret, place, "o" if first else "s", color=GROUPS[str(row.group)], markersize=4,
                      markerfacecolor=None if first else "white")  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvline(1, color="#8c8c8c", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(order)), [title(name) for name in order], fontsize=6.5)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("regret (0: the best set, 1: random dropping)")
    handles: list[Patch | Line2D] = [
        Patch(color=GROUPS[name], label=name) for name in ("weight", "inference", "activation", "gradient")
    ]
    handles += [
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="smallest first"),
        Line2D(
            [], [], color=INK, marker="s", linestyle="", markersize=4, markerfacecolor="white", label="largest first"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1)
    return figure


@plot.use_style()
def stability(table: pd.DataFrame) -> Figure:
    """Rank correlation of a criterion with itself on other calibration text, against the size of the sample."""
    mean = table.groupby(["criterion", "group", "windows"])["rho"].mean().reset_index()
    names = [name for name in CRITERIA if name in set(mean["criterion"])]
    groups = ("inference", "activation", "gradient")
    figure, axes = plot.figure(height=4.2, rows=3)
    for panel, group in zip(axes, groups, strict=True):
        own = [name for name in names if CRITERIA[name].group == group]
        for place, name in enumerate(own):
            part = mean[mean["criterion"] == name].sort_values("windows")
            panel.plot(part["windows"], part["rho"], marker="osD^vPX*"[place % 8], markersize=3, color=PALETTE[place],
                       linewidth=1, label=title(name))  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(FixedLocator(sorted(pd.unique(mean["windows"]))))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_locator(FixedLocator([]))
        panel.set_ylim(min(0.0, float(mean["rho"].min()) - 0.05), 1.03)
        panel.set_title(group)
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6)
    axes[1].set_ylabel("Spearman's ρ between two disjoint samples")
    axes[2].set_xlabel("windows in a sample")
    return figure


@plot.use_style()
def beside_paper(table: pd.DataFrame, published: pd.DataFrame, model: str | None = None) -> Figure:
    """One-shot dropping here and in the paper (Mixtral-8x7B Base, its Table 2): increase of the loss over the full model."""
    mean = _mean(of_model(table, model))
    full = float(mean.loc[mean["criterion"] == "full", "loss"].iloc[0])
    rows = published[(published["table"] == "Table 2") & published["arm"].str.endswith("one-shot")]
    whole = published[(published["table"] == "text") & (published["model"] == "Base")]["value"].iloc[0]
    figure, (here, there) = plot.figure(height=2.3, columns=2)
    arms = (
        ("random", "", "random one-shot", "s"),
        ("ean", "min", "ean min one-shot", "o"),
        ("ege", "min", "ege min one-shot", "D"),
    )
    for colour, (name, direction, arm, marker) in zip(("#8c8c8c", PALETTE[1], PALETTE[4]), arms, strict=True):
        own = mean[(mean["criterion"] == name) & (mean["direction"] == direction) & (mean["budget"] == "per layer")]
        line = own.groupby("s")["loss"].mean() - full
        here.plot(line.index, line, marker=marker, markersize=3, color=colour, label=title(name))
        paper = rows[rows["arm"] == arm]
        there.plot(
            paper["s"], np.log(paper["value"] / whole), marker=marker, markersize=3, color=GREY, markerfacecolor="white"
        )
    for panel, name in ((here, "here (nats/byte)"), (there, "paper (nats/token)")):
        _shares(panel)
        panel.set_title(name)
        panel.set_xlabel("dropped experts s (%)")
    here.set_ylabel("loss more than the full model")
    figure.legend(*here.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@plot.use_style()
def curve_and_mask(
    table: pd.DataFrame, dropped: pd.DataFrame, criterion: str, direction: str, s: float, model: str | None = None
) -> Figure:
    """One criterion: its curve with the point at s, and which experts are gone there."""
    mean, own = _mean(of_model(table, model)), of_model(dropped, model)
    order = own[(own["criterion"] == criterion) & (own["direction"] == direction)]
    rounds = order.pivot(index="layer", columns="expert", values="round")
    level = round(s / 12.5)
    figure, (above, below) = plot.figure(height=2.6 + 0.1 * len(rounds), rows=2)
    _background(above, mean)
    line = _line(mean, criterion, direction)
    above.plot(
        line["s"],
        line["loss"],
        LINES[direction],
        color=PALETTE[0],
        label=f"{direction.capitalize()}-{title(criterion)}",
    )
    at = line[line["s"] == s]
    above.plot(at["s"], at["loss"], "o", color=PALETTE[0], markersize=6)
    _shares(above)
    above.set_xlabel("dropped experts s (%)")
    above.set_ylabel("test loss (nats/byte)")
    above.set_title(
        f"{direction.capitalize()}-{title(criterion)}, s = {s:g} %: {float(at['loss'].iloc[0]):.3f} nats/byte"
    )
    gone = (rounds > 0) & (rounds <= level)
    below.imshow(gone.to_numpy(dtype=float), cmap="Blues_r", vmin=-0.6, vmax=1.15, aspect="auto")
    for (row, column), number in np.ndenumerate(rounds.to_numpy()):
        if rounds.size <= 64 and 0 < number <= level:
            below.text(column, row, str(number), ha="center", va="center", fontsize=6)
    below.grid(False)
    below.set_yticks(range(len(rounds)))
    below.set_xlabel("expert (pale: dropped, in the round that is written)")
    below.set_ylabel("layer")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
