"""Figures of 06_real_checkpoint: importance by layer and expert, agreement of criteria, sum of the router's weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.moe_lottery.figures.suite import title
from orchard.papers.moe_lottery.figures.training import correlation_map, headline, layer_map
from orchard.plot import use_style


def importance_table(ranking: pd.DataFrame, criteria: list[str]) -> pd.DataFrame:
    """Rows of a ranking for some criteria, in their order and in the first direction each has: criterion, layer, expert,
    importance, which is 0 for the expert of the layer that is dropped first and 1 for the one dropped last."""
    rows = ranking[ranking["criterion"].isin(criteria)]
    rows = rows[rows["direction"] == rows.groupby("criterion")["direction"].transform("first")]
    last = rows.groupby(["criterion", "layer"])["rank"].transform("max")
    number, order = rows["layer"].str.split(".").str[2].astype(int), rows["criterion"].map(criteria.index)
    table = rows.assign(importance=(rows["rank"] - 1) / (last - 1), layer=number, order=order)
    table = table.sort_values(["order", "layer", "expert"], ignore_index=True)
    return table[["criterion", "layer", "expert", "importance"]]


@use_style()
def importance(table: pd.DataFrame) -> Figure:
    """Importance by layer (downwards) and expert, one map per criterion."""
    criteria = list(pd.unique(table["criterion"]))
    made, axes = plot.figure(width=5.2, height=1.7, columns=len(criteria))
    for place, (criterion, panel) in enumerate(zip(criteria, axes, strict=True)):
        grid = table[table["criterion"] == criterion].pivot(index="layer", columns="expert", values="importance")
        image = layer_map(panel, grid, Normalize(0, 1), y_label="layer" if place == 0 else "")
        panel.set(title=criterion.upper(), xlabel="expert")
    made.colorbar(image, ax=axes, label="importance\nin its layer", pad=0.02)
    return headline(made, "bright: kept longest, dark: dropped first")


@use_style()
def checkpoint_agreement(table: pd.DataFrame) -> Figure:
    """Spearman correlation of every two criteria, from -1 over white to 1."""
    names = list(pd.unique(table["a"]))
    grid = table.pivot(index="a", columns="b", values="spearman").loc[names, names]
    made, (axes,) = plot.figure(width=4.6, height=3.8)
    correlation_map(axes, grid, [title(name) for name in names], label="rank correlation within a layer")
    axes.set(xlabel="criterion", ylabel="criterion")
    pairs = grid.to_numpy()[np.triu_indices(len(grid), 1)]
    return headline(made, f"{(pairs > 0.8).sum()} of {len(pairs)} pairs go together (ρ > 0.8)")
