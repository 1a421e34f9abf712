"""Figures of 03_ablate. Shares of right answers are of all questions in held-out wordings; overlaps have their chance line, k / D."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.ifpruning.method.overlap import COLLAPSED
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns
from orchard.stats import paired_bootstrap, spearman

WIDE = 2 * COLUMN
DIVERGING = "PuOr"  # white in the middle, told apart by colour-blind readers
LINES = {  # mode, the predictor starts as a language model
    ("soft", True): (PALETTE[0], "o", "-"), ("st", True): (PALETTE[2], "D", "-"),
    ("soft", False): (PALETTE[3], "s", "--"), ("st", False): (PALETTE[1], "^", "--"),
}  # fmt: skip
GATE_COLOURS = {"SoftTopK": PALETTE[0], "HardConcrete": PALETTE[3]}
BANDS = {"within": (PALETTE[0], "o"), "related": (PALETTE[1], "s"), "other": (PALETTE[3], "v")}


@plot.use_style()
def phase_maps(table: pd.DataFrame) -> Figure:
    """Gain over dense_k where domains share more (rows) and fewer instructions speak (columns); and by mix for mask and mixture.

    Under each gain stand the right answers of the arm and of dense_k in per cent. White is no gain; means over seeds."""
    names = ("diagram", "rho_all", "tagless", "mix", "arm", "right", "gain", "seed")
    check_columns(table, {name: name for name in names}, "phase_maps")
    mean = table.groupby(["diagram", "rho_all", "tagless", "mix", "arm"], as_index=False)[["right", "gain"]].mean()
    dense = mean[mean["arm"] == "dense_k"].drop(columns=["arm", "gain"]).rename(columns={"right": "dense"})
    cells = mean[mean["arm"] != "dense_k"].merge(dense, on=["diagram", "rho_all", "tagless", "mix"])
    sharing = cells[(cells["diagram"] == "sharing") & (cells["arm"] == "ifp")]
    mixing = cells[cells["diagram"] == "mixing"]
    rows = max(sharing["rho_all"].nunique(), mixing["mix"].nunique(), 2)
    made, panels = plot.figure(WIDE, 0.9 + 0.48 * rows, columns=2)
    most = max(0.05, cells["gain"].abs().max())
    scale = TwoSlopeNorm(0, -most, most)
    _phase_map(panels[0], sharing, "rho_all", "tagless", scale)
    panels[0].set_ylabel("facts that all domains share")
    panels[0].set_xlabel("instructions that say nothing (share)")
    panels[0].set_title("mask per instruction")
    _phase_map(panels[1], mixing, "mix", "arm", scale)
    panels[1].set_ylabel("domains in one example")
    panels[1].set_xlabel("method")
    panels[1].set_title("one mask, or one expert per token")
    made.colorbar(ScalarMappable(scale, DIVERGING), ax=panels, label="gain over dense_k (share)", pad=0.02)
    return made


def _phase_map(axes: Axes, cells: pd.DataFrame, row: str, column: str, scale: TwoSlopeNorm) -> None:
    rows, columns = sorted(cells[row].unique()), sorted(cells[column].unique())
    grid = np.full((len(rows), len(columns)), np.nan)
    for cell in cells.to_dict("records"):
        i, j = rows.index(cell[row]), columns.index(cell[column])
        grid[i, j] = cell["gain"]
        dark = abs(cell["gain"]) > 0.6 * scale.vmax  # type: ignore[operator]
        text = f"{cell['gain']:+.2f}\n{100 * cell['right']:.0f} | {100 * cell['dense']:.0f}"
        axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.imshow(np.ma.masked_invalid(grid), cmap=DIVERGING, norm=scale, aspect="auto")
    for i, j in zip(*np.nonzero(np.isnan(grid)), strict=True):
        axes.text(j, i, "not run", ha="center", va="center", fontsize=6, color=GREY)
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_xticks(range(len(columns)), [value if isinstance(value, str) else f"{value:g}" for value in columns])
    axes.grid(False)


@plot.use_style()
def spread_lines(table: pd.DataFrame) -> Figure:
    """Against the spread r that the first logits have: right answers (hollow: with the masks of another domain) and the overlap of masks
    of two domains. One line per mode and per kind of first weights; epsilon and rate are the comparison's."""
    names = ("r", "epsilon", "mode", "reads", "rate", "seed", "right", "swapped", "across", "chance")
    check_columns(table, {name: name for name in names}, "spread_lines")
    table = table[(table["epsilon"] == table["epsilon"].mode()[0]) & (table["rate"] == 1)]
    made, (scores, overlap) = plot.figure(WIDE, 2.5, columns=2)
    for (mode, reads), part in table.groupby(["mode", "reads"], sort=False):
        colour, marker, dashes = LINES[str(mode), bool(reads)]
        mean = part.groupby("r")[["right", "swapped", "across"]].mean()
        label = f"{mode}, {'language model' if reads else 'new weights'}"
        scores.plot(mean.index, mean["right"], dashes, color=colour, marker=marker, label=label)
        scores.plot(
            mean.index, mean["swapped"], ":", color=colour, marker=marker, markerfacecolor="white", linewidth=0.8
        )
        overlap.plot(mean.index, mean["across"], dashes, color=colour, marker=marker)
    for height, text, colour in ((COLLAPSED, "collapsed", INK), (table["chance"].iloc[0], "chance, k/D", GREY)):
        overlap.axhline(height, color=colour, linewidth=0.8, linestyle="--")
        overlap.text(0.02, height - 0.06, text, transform=overlap.get_yaxis_transform(), color=colour, fontsize=6.5)
    scores.set_ylabel("right answers (share)\nhollow: mask of another domain")
    overlap.set_ylabel("overlap across domains")
    for axes in (scores, overlap):
        axes.set_xscale("log")
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("first spread r = std(z) / ε")
        axes.xaxis.set_major_locator(FixedLocator(sorted(table["r"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    made.legend(loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def consistency(table: pd.DataFrame) -> Figure:
    """Right answers of every run of the grid against the overlap of masks within a domain; filled where the predictor starts as a
    language model."""
    check_columns(table, {name: name for name in ("within", "across", "right", "reads", "mode")}, "consistency")
    made, (axes,) = plot.figure(height=2.5)
    for (mode, reads), part in table.groupby(["mode", "reads"], sort=False):
        colour, marker, _ = LINES[str(mode), bool(reads)]
        label = f"{mode}, {'language model' if reads else 'new weights'}"
        axes.plot(
            part["within"], part["right"], marker, color=colour, markerfacecolor=colour if reads else "white", label=label
        )  # fmt: skip
    if len(table) >= 3:
        rho = spearman(table["within"].to_numpy(float), table["right"].to_numpy(float)).rho
        axes.set_title(f"Spearman's ρ = {rho:+.2f} over {len(table)} runs")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("overlap within a domain")
    axes.set_ylabel("right answers (share)")
    made.legend(loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def one_change_dots(table: pd.DataFrame) -> Figure:
    """Right answers that a change of one thing brings or costs, a dot for each seed; on the right the overlap across domains, which says
    whether the run has collapsed."""
    check_columns(table, {name: name for name in ("ablation", "value", "own", "change", "across")}, "one_change_dots")
    rows = table[~table["own"]]
    places = rows[["ablation", "value"]].drop_duplicates().reset_index(drop=True)
    base = table[table["own"]].drop_duplicates("ablation").set_index("ablation")["value"]
    made, (axes,) = plot.figure(height=0.8 + 0.22 * len(places))
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = []
    for place, (name, value) in enumerate(places.itertuples(index=False)):
        part = rows[(rows["ablation"] == name) & (rows["value"] == value)]
        axes.plot(100 * part["change"], np.full(len(part), place), "o", color=PALETTE[0])
        right_of = axes.get_yaxis_transform()
        axes.text(1.01, place, f"{part['across'].mean():.2f}", transform=right_of, va="center", fontsize=6.5)
        labels.append(f"{name}: {base[name]} → {value}")
    axes.text(1.01, -0.75, "across", transform=axes.get_yaxis_transform(), fontsize=6.5, color=GREY)
    axes.set_yticks(range(len(places)), labels)
    axes.set_ylim(len(places) - 0.5, -0.6)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("change of right answers (points)")
    return made


@plot.use_style()
def gate_losses(table: pd.DataFrame) -> Figure:
    """Loss against steps for both kinds of gates: thin in training (HardConcrete's with its penalty), marked on validation questions."""
    check_columns(
        table, {name: name for name in ("gates", "seed", "step", "stage", "loss", "validation_loss")}, "gate_losses"
    )
    made, (axes,) = plot.figure(height=2.5)
    for gates, part in table.groupby("gates", sort=False):
        colour = GATE_COLOURS[str(gates)]
        train = part.dropna(subset=["loss"]).groupby("step")["loss"].mean()
        held = part.dropna(subset=["validation_loss"]).groupby("step")["validation_loss"].mean()
        axes.plot(train.index, train, color=colour, linewidth=0.8, alpha=0.7)
        axes.plot(held.index, held, color=colour, marker="o", markersize=3, label=str(gates))
    first = table[table["stage"] != "sft"]["step"].max()
    if np.isfinite(first):
        axes.axvline(first, color=GREY, linewidth=0.8, linestyle=":")
        axes.text(first, 0.97, " fine-tuning", transform=axes.get_xaxis_transform(), va="top", fontsize=6.5, color=GREY)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    made.legend(loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def paired_effects(evidence: pd.DataFrame, *, x_label: str) -> Figure:
    """The mean difference of every part of a claim's evidence, with its 95 % interval over seeds and questions."""
    check_columns(evidence, {name: name for name in ("part", "seed", "value")}, "paired_effects")
    rows = []
    for part, values in evidence.groupby("part", sort=False):
        found = paired_bootstrap(values["value"].to_numpy(float), values["seed"].to_numpy())
        rows.append({"label": part, "effect": found.estimate, "low": found.low, "high": found.high})
    return plot.forest(pd.DataFrame(rows), x_label=x_label)


@plot.use_style()
def prefix_overlap(table: pd.DataFrame, arm: str = "ifp") -> Figure:
    """Mean overlap of masks in every layer: prompts without a prefix, with one that their domain shares, and with one of their own."""
    check_columns(table, {name: name for name in ("arm", "prefix", "layer", "chance", *BANDS)}, "prefix_overlap")
    part = table[table["arm"] == arm]
    layers, prefixes = sorted(part["layer"].unique()), list(pd.unique(part["prefix"]))
    made, panels = plot.figure(COLUMN if len(layers) < 3 else WIDE, 2.3, columns=len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        here = part[part["layer"] == layer]
        for name, (colour, marker) in BANDS.items():
            by_seed = here.groupby("prefix")[name].agg(["mean", "min", "max"]).reindex(prefixes)
            axes.vlines(range(len(prefixes)), by_seed["min"], by_seed["max"], color=colour, alpha=0.5)
            label = name if axes is panels[0] else "_"
            axes.plot(range(len(prefixes)), by_seed["mean"], color=colour, marker=marker, linewidth=0.8, label=label)
        axes.axhline(
            here["chance"].iloc[0], color=GREY, linewidth=0.8, label="chance, k/D" if axes is panels[0] else "_"
        )
        axes.set_xticks(range(len(prefixes)), prefixes)
        axes.set_xlim(-0.4, len(prefixes) - 0.6)
        axes.set_ylim(0, 1.04)
        axes.set_title(f"layer {layer}")
        axes.set_xlabel("prefix of the prompts")
    panels[0].set_ylabel("overlap |A ∩ B| / k")
    made.legend(loc="outside lower center", ncols=4)
    return made


@plot.use_style()
def channel_use(table: pd.DataFrame) -> Figure:
    """Share of the prompts that select a channel, channels in order of that share, one panel per layer: right of where a line meets zero
    are the channels that no prompt selects, left of where it leaves one those that all do."""
    check_columns(table, {name: name for name in ("arm", "layer", "rank", "use")}, "channel_use")
    layers = sorted(table["layer"].unique())
    made, panels = plot.figure(COLUMN if len(layers) < 3 else WIDE, 2.3, columns=len(layers))
    given = plot.looks(list(pd.unique(table["arm"])))
    for axes, layer in zip(panels, layers, strict=True):
        for place, (arm, part) in enumerate(table[table["layer"] == layer].groupby("arm", sort=False)):
            axes.step(
                part["rank"], part["use"], where="post", color=given[str(arm)].colour, linestyle=("-", "--", ":", "-.")[place % 4],
                label=str(arm) if axes is panels[0] else "_",
            )  # fmt: skip
        axes.set_title(f"layer {layer}")
        axes.set_xlabel("channels (share)")
        axes.set_xlim(0, 1)
    panels[0].set_ylabel("prompts that select it (share)")
    made.legend(loc="outside lower center", ncols=2)
    return made
