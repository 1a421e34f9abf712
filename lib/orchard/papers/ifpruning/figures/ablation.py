"""Figures of 03_ablate. Shares of right answers are of all questions in held-out wordings; overlaps have their chance line, k / D."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchard import evidence, plot
from orchard.papers.ifpruning.experiments.arms import words
from orchard.papers.ifpruning.figures.looks import LOOKS, WIDE, taken_legend
from orchard.papers.ifpruning.method.overlap import COLLAPSED
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns
from orchard.stats import spearman

DIVERGING = "PuOr"  # white in the middle, told apart by colour-blind readers
LINES = {  # mode, the predictor starts as a language model
    ("soft", True): (PALETTE[0], "o", "-"), ("st", True): (PALETTE[2], "D", "-"),
    ("soft", False): (PALETTE[3], "s", "--"), ("st", False): (PALETTE[1], "^", "--"),
}  # fmt: skip
GATES = {"ifp": "SoftTopK", "hard_concrete": "HardConcrete"}  # of the arms that differ in them
BANDS = {"within": (PALETTE[0], "o"), "related": (PALETTE[1], "s"), "other": (PALETTE[3], "v")}


@plot.use_style()
def phase_maps(table: pd.DataFrame) -> Figure:
    """Gain over dense_k where domains share more (rows) and fewer instructions speak (columns); and of mixture and mask (columns) where one
    example has several domains, and in every other world that has a mixture (rows).

    Under each gain stand the right answers of the arm and of dense_k in per cent, and whether the masks became one. White is no gain;
    means over seeds."""
    cell = ["diagram", "rho_all", "tagless", "mix", "arm"]
    check_columns(table, {name: name for name in (*cell, "right", "gain", "across", "seed")}, "phase_maps")
    mean = table.groupby(cell, as_index=False)[["right", "gain", "across"]].mean()
    cells = mean[mean["arm"] != "dense_k"].assign(arm=mean["arm"].map(words))
    sharing = cells[(cells["diagram"] == "sharing") & (cells["arm"] == words("ifp"))]
    worlds = cells[(cells["arm"] == words("moe")) | (cells["diagram"] == "mixing")][cell[1:4]].drop_duplicates()
    mixing = cells.merge(worlds).drop_duplicates(cell[1:]).assign(world=_world)
    rows = max(sharing["rho_all"].nunique(), mixing["world"].nunique(), 2)
    made, panels = plot.figure(WIDE, 0.9 + 0.48 * rows, columns=2)
    most = max(0.05, cells["gain"].abs().max())
    _phase_map(panels[0], sharing, "rho_all", "tagless", most)
    axis = {"xlabel": "instructions that say nothing (share)", "ylabel": "facts that all domains share"}
    up, down = (sharing["gain"] > 0.02).sum(), (sharing["gain"] < -0.02).sum()
    panels[0].set(**axis, title=f"IFP: ahead in {up} of {len(sharing)} worlds, behind in {down}")
    _phase_map(panels[1], mixing, "world", "arm", most)
    wide = mixing.pivot(index="world", columns="arm", values="gain")
    both = wide.reindex(columns=[words("ifp"), words("moe")]).dropna()
    won = (both[words("moe")] > both[words("ifp")]).sum()
    panels[1].set(xlabel="arm", ylabel="", title=f"experts per token ahead of IFP in {won} of {len(both)}")
    panels[1].set_xticks(panels[1].get_xticks(), [arm.replace(" (", "\n(") for arm in wide.columns])
    scale = ScalarMappable(Normalize(-most, most), DIVERGING)
    made.colorbar(scale, ax=panels, label="gain over small dense (share)", pad=0.02)
    return made


def _world(cells: pd.DataFrame) -> pd.Series:
    told = [f"{mix} domain{'s' * (mix > 1)}\nin an example" for mix in cells["mix"]]
    return pd.Series(told, cells.index).where(
        cells["tagless"] == 0, cells["tagless"].map("{:.0%} of instructions\nsay nothing".format)
    )


def _phase_map(axes: Axes, cells: pd.DataFrame, row: str, column: str, most: float) -> None:
    import seaborn as sns

    grid, right = (cells.pivot(index=row, columns=column, values=value) for value in ("gain", "right"))
    words = grid.map("{:+.2f}".format) + "\n" + right.map("{:.0%}".format) + " | " + (right - grid).map("{:.0%}".format)
    one = cells.pivot(index=row, columns=column, values="across") >= COLLAPSED
    words = words + one.replace({True: "\none mask for all", False: ""})
    drawn: dict[str, Any] = {"cmap": DIVERGING, "vmin": -most, "vmax": most, "cbar": False}
    sns.heatmap(grid, annot=words, fmt="", ax=axes, annot_kws={"fontsize": 6.5}, **drawn)
    for i, j in zip(*np.nonzero(grid.isna()), strict=True):
        axes.text(j + 0.5, i + 0.5, "not run", ha="center", va="center", fontsize=6, color=GREY)
    axes.tick_params(labelrotation=0)


@plot.use_style()
def spread_lines(table: pd.DataFrame) -> Figure:
    """Against the spread r that the first logits have: right answers (hollow: with the masks of another domain) and the overlap of masks
    of two domains. One line per mode and per kind of first weights; epsilon and rate are the comparison's."""
    names = ("r", "epsilon", "mode", "reads", "rate", "seed", "right", "swapped", "across", "chance")
    check_columns(table, {name: name for name in names}, "spread_lines")
    table = table[(table["epsilon"] == table["epsilon"].mode()[0]) & (table["rate"] == 1)]
    made, (scores, overlap) = plot.figure(WIDE, 2.5, columns=2)
    lost = table.assign(lost=table["across"] >= COLLAPSED).groupby("reads")["lost"].agg(["sum", "size"])
    said = [f"{row['sum']} of {row['size']} {_begin('', reads)[2:]}" for reads, row in lost.iterrows()]
    overlap.set_title(f"collapsed: {', '.join(said)}", fontsize=7)
    for (mode, reads), part in table.groupby(["mode", "reads"], sort=False):
        colour, marker, dashes = LINES[str(mode), bool(reads)]
        mean = part.groupby("r")[["right", "swapped", "across"]].mean()
        drawn: dict[str, Any] = {"color": colour, "marker": marker}
        scores.plot(mean.index, mean["right"], dashes, **drawn, label=_begin(mode, reads))
        scores.plot(mean.index, mean["swapped"], ":", **drawn, markerfacecolor="white", linewidth=0.8)
        overlap.plot(mean.index, mean["across"], dashes, **drawn)
    for height, text, colour in ((COLLAPSED, "collapsed", INK), (table["chance"].iloc[0], "chance, k/D", GREY)):
        overlap.axhline(height, color=colour, linewidth=0.8, linestyle="--")
        at: dict[str, Any] = {"transform": overlap.get_yaxis_transform(), "ha": "right"}
        overlap.text(0.98, height - 0.1, text, color=colour, fontsize=6.5, **at)
    scores.set_ylabel("right answers (share)\nhollow: mask of another domain")
    overlap.set_ylabel("overlap across domains")
    for axes in (scores, overlap):
        axes.set(xscale="log", ylim=(-0.04, 1.04), xlabel="first spread r = std(z) / ε")
        axes.set_xticks(spreads := sorted(table["r"].unique()), [f"{r:g}" for r in spreads])
        axes.minorticks_off()
    made.legend(loc="outside lower center", ncols=2)
    return made


def _begin(mode: object, reads: object) -> str:
    return f"{mode}, {'language model' if reads else 'new weights'}"


@plot.use_style()
def consistency(table: pd.DataFrame) -> Figure:
    """Right answers of every run of the grid against the overlap of masks within a domain; filled where the predictor starts as a
    language model."""
    check_columns(table, {name: name for name in ("within", "across", "right", "reads", "mode")}, "consistency")
    made, (axes,) = plot.figure(height=2.5)
    for (mode, reads), part in table.groupby(["mode", "reads"], sort=False):
        colour, marker, _ = LINES[str(mode), bool(reads)]
        fill = colour if reads else "white"
        axes.plot(part["within"], part["right"], marker, color=colour, markerfacecolor=fill, label=_begin(mode, reads))
    if len(table) >= 3:
        rho = spearman(table["within"].to_numpy(float), table["right"].to_numpy(float)).rho
        axes.set_title(f"Spearman's ρ = {rho:+.2f} over {len(table)} runs")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel="overlap within a domain", ylabel="right answers (share)")
    made.legend(loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def one_change_dots(table: pd.DataFrame) -> Figure:
    """Right answers that a change of one thing brings or costs, a dot for each seed; on the right the overlap across domains, which says
    whether the run has collapsed."""
    import seaborn as sns

    check_columns(table, {name: name for name in ("ablation", "value", "own", "change", "across")}, "one_change_dots")
    base = table[table["own"]].drop_duplicates("ablation").set_index("ablation")["value"]
    rows = table[~table["own"]]
    labels = rows["ablation"] + ": " + rows["ablation"].map(base) + " → " + rows["value"]
    rows = rows.assign(label=labels, points=100 * rows["change"])
    across = rows.groupby("label", sort=False)["across"].mean()
    made, (axes,) = plot.figure(height=0.8 + 0.22 * len(across))
    axes.axvline(0, color=INK, linewidth=0.8)
    best = rows.groupby("label")["points"].mean()
    axes.set_title(f"more than a point gained: {(best > 1).sum()} of {len(best)}")
    sns.stripplot(rows, x="points", y="label", color=PALETTE[0], jitter=False, ax=axes)
    right_of = axes.get_yaxis_transform()
    for place, value in enumerate(across):
        axes.text(1.01, place, f"{value:.2f}", transform=right_of, va="center", fontsize=6.5)
    axes.text(1.01, -0.04, "overlap\nacross", transform=axes.transAxes, va="top", fontsize=6.5, color=GREY)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel="change of right answers (points)", ylabel="", ylim=(len(across) - 0.5, -0.6))
    return made


@plot.use_style()
def gate_losses(curves: pd.DataFrame) -> Figure:
    """Loss against steps of the masked stages for both kinds of gates, first seed: thin in training (HardConcrete's with its penalty),
    marked on validation questions."""
    names = ("arm", "seed", "step", "stage", "loss", "validation_loss")
    check_columns(curves, {name: name for name in names}, "gate_losses")
    made, (axes,) = plot.figure(height=2.8)
    table = curves[
        curves["arm"].isin(GATES) & (curves["stage"] != "pretrain") & (curves["seed"] == curves["seed"].min())
    ]
    given, ends = plot.looks(GATES, LOOKS), []
    for arm, part in table.groupby("arm", sort=False):
        look = given[str(arm)]
        train, held = part.dropna(subset=["loss"]), part.dropna(subset=["validation_loss"])
        axes.plot(train["step"], train["loss"], color=look.colour, linewidth=0.8, alpha=0.7)
        drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 3}
        axes.plot(held["step"], held["validation_loss"], **drawn, label=GATES[str(arm)])
        ends.append(f"{GATES[str(arm)]} {held['validation_loss'].iloc[-1]:.2f}")
    first = table[table["stage"] != "sft"]["step"].max()
    axes.axvline(first, color=GREY, linewidth=0.8, linestyle=":", label="fine-tuning begins")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=f"at the end: {', '.join(ends)}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    made.legend(loc="outside lower center", ncols=3)
    return made


@plot.use_style()
def paired_effects(table: pd.DataFrame, *, x_label: str, margin: float = 0.0) -> Figure:
    """The mean difference of every part of a claim's evidence, with its 95 % interval over seeds and questions, and a dot per seed;
    shaded is the margin within which the claim calls arms equal."""
    check_columns(table, {name: name for name in ("part", "seed", "value")}, "paired_effects")
    found = {part: evidence.interval(own) for part, own in table.groupby("part", sort=False)}
    rows = [{"label": part, "effect": one.estimate, "low": one.low, "high": one.high} for part, one in found.items()]
    made, (axes,) = plot.figure(height=0.95 + 0.3 * len(rows))
    axes.axvspan(-margin, margin, color=PALETTE[0], alpha=0.12, linewidth=0)
    plot.forest(pd.DataFrame(rows), x_label=x_label, axes=axes)
    for place, (_, own) in enumerate(table.groupby("part", sort=False)):
        dots = own.groupby("seed")["value"].mean()
        axes.plot(dots, [place + 0.25] * len(dots), ".", color=GREY, markersize=4)
    axes.set_title(", ".join(f"{100 * one.estimate:+.1f} points" for one in found.values()))
    return made


@plot.use_style()
def prefix_overlap(table: pd.DataFrame, arm: str = "ifp") -> Figure:
    """Mean overlap of masks in every layer: prompts without a prefix, with one that their domain shares, and with one of their own."""
    import seaborn as sns

    check_columns(table, {name: name for name in ("arm", "prefix", "layer", "chance", *BANDS)}, "prefix_overlap")
    part = table[table["arm"] == arm]
    long = part.melt(["prefix", "layer", "chance"], list(BANDS), "prompts", "overlap")
    layers = sorted(part["layer"].unique())
    made, panels = plot.figure(COLUMN if len(layers) < 3 else WIDE, 2.3, columns=len(layers))
    colours, markers = zip(*BANDS.values(), strict=True)
    for axes, layer in zip(panels, layers, strict=True):
        sns.pointplot(
            long[long["layer"] == layer], x="prefix", y="overlap", hue="prompts", palette=list(colours), markers=list(markers),
            errorbar=("pi", 100), linewidth=0.8, markersize=4, legend=axes is panels[0], ax=axes,
        )  # fmt: skip
        label = "chance, k/D" if axes is panels[0] else "_"
        axes.axhline(part["chance"].iloc[0], color=GREY, linewidth=0.8, label=label)
        axes.set(ylim=(0, 1.04), title=f"layer {layer}", xlabel="prefix of the prompts", ylabel="")
    panels[0].set_ylabel("overlap |A ∩ B| / k")
    made.legend(*taken_legend(panels[0]), loc="outside lower center", ncols=4)
    return made
