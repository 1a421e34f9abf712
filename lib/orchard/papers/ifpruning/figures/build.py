"""Figures of the first notebook: what SoftTopK does to logits, its Jacobian, the sum that iterations miss, the mass on what is chosen.

Logits are standard normal and the same for every epsilon, so that 1 / epsilon is their spread r = std(z) / epsilon.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.ifpruning.method.masks import Selector
from orchard.papers.ifpruning.method.softtopk import soft_top_k
from orchard.plot.style import COLUMN, INK, PALETTE, check_columns

WIDTH, BINS = 512, 20
SPREADS = tuple(np.round(np.geomspace(0.01, 30, 40), 4).tolist())
CHOSEN = Selector.Config().spread
SOURCES = (
    ("6B → 3B", 16384, 6656), ("9B → 3B", 24576, 6656), ("12B → 3B", 32768, 6656), ("ours, k = D / 4", 16384, 4096),
)  # fmt: skip
FLOOR = 1e-16  # of a relative error in float64: what is smaller is drawn here


def weights_table(epsilon: float = 0.3, k: int = 128, width: int = WIDTH) -> pd.DataFrame:
    """Columns rank (from 1, largest logit first), logit, weight, chosen, saturated."""
    z = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(descending=True).values
    weight = soft_top_k(z, k, epsilon)
    table = pd.DataFrame({"rank": np.arange(1, width + 1), "logit": z, "weight": weight})
    return table.assign(chosen=table["rank"] <= k, saturated=table["weight"] == 1)


@plot.use_style()
def weights(epsilon: float = 0.3, k: int = 128) -> Figure:
    """Weights of 512 standard normal logits: by rank, with the k that become gates, and how often each size occurs."""
    table = weights_table(epsilon, k)
    made, (left, right) = plot.figure(2 * COLUMN, 2.3, columns=2)
    top = table[table["chosen"]]
    label = "gates: the k largest"
    left.fill_between(top["rank"], top["weight"], color=PALETTE[0], alpha=0.25, linewidth=0, label=label)
    left.plot(table["rank"], table["weight"], color=PALETTE[0])
    left.axvline(k + 0.5, color=INK, linewidth=0.8, linestyle="--")
    title = f"{top['weight'].sum() / k:.0%} of the mass on the {k} largest"
    left.set(xlabel="channel, largest logit first", ylabel="weight λ", ylim=(-0.02, 1.05), title=title)
    left.legend(loc="upper right")
    saturated = int(table["saturated"].sum())
    rest = table.loc[~table["saturated"], "weight"]
    right.hist(rest, bins=np.linspace(0, 1, BINS + 1).tolist(), color=PALETTE[0], label="0 < λ < 1")
    right.bar(1 + 1 / BINS, saturated, width=1 / BINS, color=PALETTE[3], label="saturated: λ = 1")
    right.set_yscale("symlog", linthresh=1)
    right.set(xlabel="weight λ", ylabel="channels", xlim=(0, 1 + 2 / BINS), ylim=(0, 700))
    right.set_yticks([0, 1, 10, 100, 512], ["0", "1", "10", "100", "512"])
    right.set_title(f"ε = {epsilon:g}: {saturated} of {len(table)} saturated")
    right.legend(loc="upper center")
    return made


def jacobian_table(epsilon: float = 0.3, k: int = 4, width: int = 12) -> pd.DataFrame:
    """Columns output, input (channels from 1, largest logit first), derivative (dλ/dz), saturated (of the output)."""
    z = torch.linspace(1.6, -1.6, width, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda z: soft_top_k(z, k, epsilon), z)
    rows, columns = np.indices(found.shape)
    full = (soft_top_k(z, k, epsilon) == 1).numpy()
    about = {"output": rows.ravel() + 1, "input": columns.ravel() + 1, "saturated": full[rows.ravel()]}
    return pd.DataFrame({**about, "derivative": found.numpy().ravel()})


@plot.use_style()
def jacobian_map(epsilon: float = 0.3, k: int = 4, width: int = 12) -> Figure:
    """dλ_i/dz_j for evenly spaced logits, largest first; saturated channels have empty rows and columns."""
    import seaborn as sns

    table = jacobian_table(epsilon, k, width)
    grid = table.pivot(index="output", columns="input", values="derivative")
    made, (axes,) = plot.figure(COLUMN, 2.7)
    sns.heatmap(grid, cmap="RdBu_r", center=0, square=True, cbar_kws={"label": "$∂λ_i / ∂z_j$"}, ax=axes)
    axes.axhline(k, color=INK, linewidth=0.8, linestyle="--")
    axes.axvline(k, color=INK, linewidth=0.8, linestyle="--")
    saturated = int(table.groupby("output")["saturated"].first().sum())
    title = f"ε = {epsilon:g}, k = {k}: {saturated} saturated"
    axes.set(xlabel="logit $z_j$, largest first", ylabel="weight $λ_i$", title=title)
    return made


@plot.use_style()
def iteration_sums(table: pd.DataFrame) -> Figure:
    """How far the iterative form's sum is from k, in per cent of k, against iterations; columns form, epsilon, iterations, k, sum."""
    check_columns(table, {name: name for name in ("form", "epsilon", "iterations", "k", "sum")}, "iteration_sums")
    forms = list(pd.unique(table["form"]))
    made, panels = plot.figure(2 * COLUMN, 2.6, columns=len(forms))
    for axes, form in zip(panels, forms, strict=True):
        part = table[table["form"] == form]
        for (epsilon, line), colour, marker in zip(part.groupby("epsilon"), PALETTE, "osD^vPX*", strict=False):
            error = (line["sum"] / line["k"] - 1).abs().clip(lower=FLOOR)
            axes.loglog(line["iterations"], 100 * error, marker=marker, color=colour, label=f"ε = {epsilon:g}")
        axes.axvline(20, color=INK, linewidth=0.8, linestyle="--")
        counts = sorted(part["iterations"].unique())
        axes.set_xticks(counts, counts)
        axes.minorticks_off()
        axes.set(xlabel="iterations", title=f"ε {form}", ylim=(50 * FLOOR, 1e3))
    panels[0].set_ylabel("|Σλ − k| / k (%)")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return made


def mass_table() -> pd.DataFrame:
    """Share of the mass on the k largest of normal logits with standard deviation r epsilon: columns source, spread, share."""
    rows = []
    for name, width, k in SOURCES:
        z = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = (z / z.std()).sort(descending=True).values
        for spread in SPREADS:
            share = float(soft_top_k(z * spread, k, 1.0)[:k].sum() / k)
            rows.append({"source": name, "spread": spread, "share": share})
    return pd.DataFrame(rows)


@plot.use_style()
def initial_mass(table: pd.DataFrame) -> Figure:
    """Share of the mass on the k chosen channels against the spread of the logits: what is left of a feed-forward layer at the start."""
    check_columns(table, {name: name for name in ("source", "spread", "share")}, "initial_mass")
    made, (axes,) = plot.figure(COLUMN, 2.6)
    parts = zip(table.groupby("source", sort=False), PALETTE, ("-", "--", ":", "-."), strict=False)
    for (name, part), colour, style in parts:
        axes.semilogx(part["spread"], part["share"], color=colour, linestyle=style, label=name)
    axes.axvline(CHOSEN, color=INK, linewidth=0.8)
    axes.annotate(f"r = {CHOSEN}", (CHOSEN, 0.04), xytext=(3, 0), textcoords="offset points", fontsize=7)
    ends = table["spread"].min(), table["spread"].max()
    axes.set(xlabel="spread r = std(z) / ε", ylabel="Σ of the k gates / k", ylim=(0, 1), xlim=ends)
    axes.legend(loc="upper left")
    return made
