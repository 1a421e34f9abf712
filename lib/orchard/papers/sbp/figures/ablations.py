"""Figures of 04_ablate. Losses are nats per held-out document above Bayes; ``checkpoint`` says whether at the best or the last one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter

from orchard import plot
from orchard.papers.sbp.experiments.costs import STAGES, SYNTHESIS
from orchard.papers.sbp.figures.looks import LOOKS, titled
from orchard.papers.sbp.figures.parts import BELOW, EXCESS, WIDE, cells_of, line, rows, y_of
from orchard.plot.style import GREY, PALETTE, Look, check_columns

SIZE_LOOKS = {"smaller": Look(PALETTE[0], "o"), "larger": Look(PALETTE[3], "s")}
STAGE_COLOURS = dict(zip(STAGES, (PALETTE[7], PALETTE[2], PALETTE[0], PALETTE[9], "#dddddd"), strict=True))


@plot.use_style()
def dose_response(table: pd.DataFrame, checkpoint: str = "best") -> Figure:
    """Loss against the measured precision of the pairs: drawn pairs as a line, neighbours as a star; the dashed line is repetition."""
    check_columns(table, {"x": "precision", "y": checkpoint, "pairs": "pairs"}, "dose_response")
    made, (axes,) = plot.figure(height=2.3)
    drawn, near = (table[table["pairs"] == kind] for kind in ("drawn", "neighbours"))
    x = drawn.groupby("truth")["precision"].transform("mean")
    line(axes, drawn.assign(x=x), "x", checkpoint, Look(PALETTE[4], "^"), "drawn pairs, a share of them true")
    axes.plot(
        near["precision"], near[checkpoint], color=PALETTE[0], marker="*", markersize=9, linestyle="none", label="neighbours"
    )  # fmt: skip
    base = table.loc[table["pairs"] == "none", checkpoint].mean()
    axes.axhline(base, color=PALETTE[1], linewidth=0.9, linestyle="--", label="repetition")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("pairs that share their concept")
    y_of(axes, checkpoint)
    made.legend(loc="outside lower center", ncols=2)
    return titled(made, f"Loss by the precision of the pairs; {cells_of(table)}")


@plot.use_style()
def ablation_dots(table: pd.DataFrame, ablation: str = "all", checkpoint: str = "best") -> Figure:
    """Every value of the ablations, a dot for each cell: the comparison's own value filled; lines are its mean and repetition's."""
    check_columns(table, {"x": checkpoint, "ablation": "ablation"}, "ablation_dots")
    own_rows = table[table["ablation"] != "none"]
    own_rows = own_rows if ablation == "all" else own_rows[own_rows["ablation"] == ablation]
    if own_rows.empty:
        raise ValueError(f"no ablation {ablation!r}: there are {', '.join(pd.unique(table['ablation'])[1:])}, and all")
    places = own_rows[["ablation", "value"]].drop_duplicates().reset_index(drop=True)
    gaps = (places["ablation"] != places["ablation"].shift()).cumsum() - 1
    made, (axes,) = plot.figure(height=0.9 + 0.17 * len(places) + 0.1 * int(gaps.max()))
    own = table.loc[table["own"], checkpoint].mean()
    base = table.loc[table["ablation"] == "none", checkpoint].mean()
    axes.axvline(own, color=PALETTE[0], linewidth=0.9, label="SBP as compared")
    axes.axvline(base, color=PALETTE[1], linewidth=0.9, linestyle="--", label="repetition")
    ticks = []
    for place, (name, value) in enumerate(places.itertuples(index=False)):
        part = own_rows[(own_rows["ablation"] == name) & (own_rows["value"] == value)]
        y = place + 0.6 * gaps[place]
        face = PALETTE[0] if part["own"].all() else "white"
        axes.plot(
            part[checkpoint], np.full(len(part), y), "o", color=PALETTE[0], markerfacecolor=face, markersize=4.5, zorder=3
        )  # fmt: skip
        ticks.append((y, f"{name}: {value}"))
    axes.set_yticks([y for y, _ in ticks], [text for _, text in ticks])
    axes.set_ylim(ticks[-1][0] + 0.6, -0.6)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{EXCESS}, {checkpoint}")
    made.legend(loc="outside lower center", ncols=2)
    return titled(made, f"One setting changed at a time; {cells_of(table)}")


@plot.use_style()
def share_curves(
    table: pd.DataFrame, published: pd.DataFrame | None = None, size: str = "both", checkpoint: str = "best"
) -> Figure:
    """Loss against the synthetic share, a line for each size of the model; its smallest mean is ringed. Dotted: the control, documents of
    the exact law in the place of SBP's. Grey: shares the paper used."""
    check_columns(table, {"x": "share", "y": checkpoint, "hue": "size"}, "share_curves")
    made, (axes,) = plot.figure(height=2.4)
    own, law = (table[table["arm"] == arm] for arm in ("sbp-nn-lm", "exact-posterior"))
    for name, look in SIZE_LOOKS.items():
        part = own[own["size"] == name]
        if part.empty or size not in ("both", name):
            continue
        control = law[law["size"] == name].groupby("share")[checkpoint].mean()
        axes.plot(
            control.index, control, ":", color=look.colour, linewidth=1, label=f"{name}, documents of the exact law"
        )
        parameters = EngFormatter(places=1, sep="")(part["parameters"].iloc[0])
        means = line(axes, part, "share", checkpoint, look, f"{name} model ({parameters} parameters)")["mean"]
        at = means.sort_values().head(1)
        axes.plot(at.index, at, "o", color=look.colour, markerfacecolor="none", markersize=10)
    if published is not None:
        shares = published[(published["table"] == "budgets") & (published["metric"] == "share (%)")]
        for scale, value in zip(shares["scale"], shares["value"] / 100, strict=True):
            axes.axvline(value, color=GREY, linewidth=0.8, linestyle=":")
            axes.text(
                value, 1.0, f"{scale} ", color=GREY, fontsize=6, rotation=90, ha="right", va="top", transform=axes.get_xaxis_transform()
            )  # fmt: skip
    axes.xaxis.set_major_locator(FixedLocator(sorted(pd.unique(table["share"]))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_xlabel("synthetic share of the budget (%)")
    y_of(axes, checkpoint)
    made.legend(loc="outside lower center", ncols=1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))  # room for the paper's scales
    return titled(made, "Loss by synthetic share, best share ringed; dots are seeds")


@plot.use_style()
def round_curves(table: pd.DataFrame) -> Figure:
    """By round: loss at the best and the last checkpoint, different trigrams, entropy of the concepts. Round 0: repetition, and D."""
    check_columns(table, {"x": "round", "y": "best"}, "round_curves")
    made, axes = plot.figure(WIDE, 2.2, columns=3)
    for name, look in (("best", Look(PALETTE[0], "o")), ("last", Look(PALETTE[1], "s"))):
        line(axes[0], table, "round", name, look, f"{name} checkpoint")
    axes[0].legend(loc="best")
    axes[0].set_ylabel(EXCESS)
    labels = {"distinct": "different trigrams / all", "entropy": "entropy of concepts (nats)"}
    for panel, (column, label) in zip(axes[1:], labels.items(), strict=True):
        line(panel, table, "round", column, Look(PALETTE[2], "D"), column)
        panel.set_ylabel(label)
    for panel in axes:
        panel.set_xlabel("round")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(y=0.15)
    return titled(made, f"Bootstrapping again and again (round 0: repetition, real documents); {cells_of(table)}")


@plot.use_style()
def cost_bars(table: pd.DataFrame) -> Figure:
    """FLOPs of every arm by stage, in trainings of the last model."""
    check_columns(table, {"x": "times", "y": "arm", "hue": "stage"}, "cost_bars")
    wide = table.pivot_table(index="arm", columns="stage", values="times", sort=False)
    made, (axes,) = plot.figure(height=1.0 + 0.19 * len(wide))
    left = np.zeros(len(wide))
    for stage in STAGES:
        axes.barh(range(len(wide)), wide[stage], left=left, color=STAGE_COLOURS[stage], label=stage, height=0.7)
        left += wide[stage].to_numpy()
    rows(axes, wide.index.tolist())
    axes.set_xlabel("FLOPs, in trainings of the last model")
    made.legend(loc="outside lower center", ncols=3)
    return titled(made, "What an arm costs, all stages counted")


@plot.use_style()
def flop_matched(table: pd.DataFrame, checkpoint: str = "best") -> Figure:
    """Loss against tokens read and against FLOPs spent: hollow at equal tokens, filled at equal FLOPs, lines join what one arm reaches."""
    check_columns(table, {"y": checkpoint, "hue": "arm", "charged": "charged"}, "flop_matched")
    made, (left, right) = plot.figure(WIDE, 2.5, columns=2)
    handles: dict[str, Line2D] = {}
    cells = table.groupby(["arm", "charged", "world", "seed"], sort=False)[["tokens", "flops", checkpoint]].mean()
    points = cells.groupby(["arm", "charged"], sort=False).mean()
    labels = {"tokens": "tokens the model reads", "flops": "FLOPs, all stages charged"}
    for panel, (x, label) in zip((left, right), labels.items(), strict=True):
        for arm in pd.unique(table["arm"]):
            look, own = LOOKS[arm], points.loc[arm]
            each = cells.xs(arm)
            panel.plot(each[x], each[checkpoint], ".", color=look.colour, markersize=2.5)
            panel.plot(own[x], own[checkpoint], color=look.colour, linewidth=0.8)
            for charge, place in own[x].items():
                face = "white" if charge == "tokens" else look.colour
                style: dict[str, Any] = {
                    "marker": look.marker,
                    "color": look.colour,
                    "markerfacecolor": face,
                    "linestyle": "none",
                }
                (handles[arm],) = panel.plot(place, own.loc[charge, checkpoint], label=arm, **style)
        panel.set_xlabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.margins(x=0.1, y=0.1)
    y_of(left, checkpoint)
    made.legend(handles.values(), handles.keys(), loc=BELOW, ncols=4)
    return titled(made, "Equal tokens (hollow) and equal FLOPs (filled); a dot per world and seed")


def synthesis_share(table: pd.DataFrame) -> pd.Series:
    """Embedding, tuning and sampling of each arm, in trainings of its last model."""
    return table[table["stage"].isin(SYNTHESIS)].groupby("arm", sort=False)["times"].sum()
