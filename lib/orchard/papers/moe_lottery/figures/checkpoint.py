"""Figures of 06_real_checkpoint: importance by layer and expert, agreement of criteria, sum of the router's weights, dropping by hand."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from orchard import plot
from orchard.plot import use_style
from orchard.plot.style import PALETTE


def importance_table(ranking: pd.DataFrame, criteria: list[str]) -> pd.DataFrame:
    """Rows of a ranking for some criteria, in their order and in the first direction each has: criterion, layer, expert,
    importance, which is 0 for the expert of the layer that is dropped first and 1 for the one dropped last."""
    rows = ranking[ranking["criterion"].isin(criteria)]
    rows = rows[rows["direction"] == rows.groupby("criterion")["direction"].transform("first")]
    last = rows.groupby(["criterion", "layer"])["rank"].transform("max")
    number = rows["layer"].str.split(".").str[2].astype(int)
    table = rows.assign(
        importance=(rows["rank"] - 1) / (last - 1), layer=number, order=rows["criterion"].map(criteria.index)
    )
    table = table.sort_values(["order", "layer", "expert"], ignore_index=True)
    return table[["criterion", "layer", "expert", "importance"]]


@use_style()
def importance(table: pd.DataFrame) -> Figure:
    """Importance by layer (downwards) and expert, one map per criterion."""
    criteria = list(pd.unique(table["criterion"]))
    made, axes = plot.figure(width=7.0, height=1.9, columns=len(criteria))
    for place, (criterion, ax) in enumerate(zip(criteria, axes, strict=True)):
        ax.imshow(
            table[table["criterion"] == criterion].pivot(index="layer", columns="expert", values="importance"),
            cmap="cividis", vmin=0, vmax=1, aspect="auto",
        )  # fmt: skip
        layers = sorted(table["layer"].unique())
        step = max(1, -(-len(layers) // 8))
        ax.set_yticks(range(0, len(layers), step), layers[::step])
        ax.set_title(criterion)
        ax.set_xlabel("expert")
        ax.grid(False)
        if place == 0:
            ax.set_ylabel("layer")
    made.colorbar(axes[0].images[0], ax=axes, label="importance in its layer", pad=0.02)
    return made


@use_style()
def agreement(table: pd.DataFrame) -> Figure:
    """Spearman correlation of every two criteria, from -1 over white to 1."""
    names = list(pd.unique(table["a"]))
    grid = table.pivot(index="a", columns="b", values="spearman").loc[names, names]
    made, (axes,) = plot.figure(width=4.6, height=3.8)
    image = axes.imshow(grid, cmap="PuOr", vmin=-1, vmax=1)
    made.colorbar(image, ax=axes, label="rank correlation within a layer", pad=0.02)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("criterion")
    axes.set_ylabel("criterion")
    axes.grid(False)
    return made


@use_style()
def router_mass(table: pd.DataFrame) -> Figure:
    """Sum of the router's weights per token against the layer, with all experts and with those kept, one panel per checkpoint."""
    names = list(pd.unique(table["checkpoint"]))
    made, axes = plot.figure(width=3.3 * len(names), height=2.2, columns=len(names))
    for place, (name, ax) in enumerate(zip(names, axes, strict=True)):
        rows = table[table["checkpoint"] == name]
        for (experts, one), marker in zip(rows.groupby("experts", sort=False), ("o", "s"), strict=False):
            ax.plot(one["layer"], one["mass"], marker=marker, label=f"{experts} experts")
        ax.set_title(name)
        ax.set_xlabel("layer")
        ax.set_xticks(sorted(rows["layer"].unique()))
        ax.set_ylim(0, 1.1 * table["mass"].max())
        if place == 0:
            ax.set_ylabel("sum of router weights")
            ax.legend()
    return made


@use_style()
def by_hand(full: float, loss: float, table: pd.DataFrame, title: str) -> Figure:
    """Loss with all experts and without the dropped ones; share of the tokens per layer and expert, white where it is dropped."""
    made, axes = plot.figure(width=7.0, height=2.2, columns=2)
    bars = axes[0].barh(["dropped", "all experts"], [loss, full], color=[PALETTE[1], PALETTE[0]])
    axes[0].bar_label(bars, fmt="%.3f", padding=2)
    axes[0].set_xlim(0, 1.2 * max(loss, full))
    axes[0].set_xlabel("loss (nats per token)")
    axes[0].set_title(title)
    plot.heat_map(
        table, row="layer", column="expert", value="share", x_label="expert", y_label="mixture",
        value_label="share of tokens", axes=axes[1],
    )  # fmt: skip
    return made
