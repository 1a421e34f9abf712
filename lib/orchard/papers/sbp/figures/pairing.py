"""Figures of pairing: degrees, time and memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy  # its submodules load when first used
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from orchard import plot
from orchard.plot.style import COLUMN, GREY, PALETTE, check_columns, use_style


def _check(table: pd.DataFrame, chart: str, *columns: str) -> None:
    check_columns(table, {name: name for name in columns}, chart)


@use_style()
def hub_degrees(table: pd.DataFrame, variant: str | None = None) -> Figure:
    """Share of documents with at least so many pairs, by stage: a panel per embedder. Grey: as many pairs with ends anywhere."""
    _check(table, "hub_degrees", "variant", "pairs by", "stage", "degree", "documents")
    part = table[table["variant"] == (table["variant"].iloc[0] if variant is None else variant)]
    kinds = list(pd.unique(part["pairs by"]))
    made, panels = plot.figure(COLUMN, 0.6 + 1.7 * len(kinds), rows=len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for number, (stage, rows) in enumerate(part[part["pairs by"] == kind].groupby("stage", sort=False)):
            look = {
                "color": PALETTE[number],
                "linewidth": (5.0, 2.6, 1.0)[number % 3],
            }  # stages that agree lie on one another
            _at_least(axes, rows, str(stage), **look)
        before = part[(part["pairs by"] == kind) & (part["stage"] == part["stage"].iloc[0])]
        mean = float((before["degree"] * before["documents"]).sum() / before["documents"].sum())
        degrees = np.arange(int(scipy.stats.poisson.isf(1 / before["documents"].sum(), mean)) + 1)
        axes.step(
            degrees, scipy.stats.poisson.sf(degrees - 1, mean), where="pre", color=GREY, label="by chance (Poisson)"
        )
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("share of documents")
        axes.set_title(str(kind))
    panels[-1].set_xlabel("at least so many pairs")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return made


def _at_least(axes: object, rows: pd.DataFrame, label: str, **look: object) -> None:
    count = rows.groupby("degree")["documents"].sum().sort_index()
    share = count[::-1].cumsum()[::-1] / count.sum()
    axes.step(share.index, share, where="pre", label=label, **look)  # type: ignore[attr-defined]


@use_style()
def pairing_speed(table: pd.DataFrame) -> Figure:
    """Processor seconds and peak memory against the number of documents; FAISS with its recall, random vectors dashed."""
    _check(table, "pairing_speed", "vectors", "documents", "what", "processor_seconds", "peak")
    made, panels = plot.figure(COLUMN, 4.2, rows=2)
    names = list(pd.unique(table["what"]))
    for kind, line in (("clustered", "-"), ("uniform", "--")):
        for number, name in enumerate(names):
            rows = table[(table["vectors"] == kind) & (table["what"] == name)].sort_values("documents")
            if rows.empty or (kind == "uniform" and name == "rules"):
                continue
            words = name if kind == "clustered" else f"{name}, random vectors"
            for axes, value in ((panels[0], rows["processor_seconds"]), (panels[1], rows["peak"] / 2**20)):
                axes.plot(rows["documents"], value, line, color=PALETTE[number], marker="os^"[number % 3], label=words)
            if name == "FAISS" and kind == "clustered":
                for _, row in rows.iterrows():
                    panels[0].annotate(
                        f"{row['recall']:.3f}", (row["documents"], row["processor_seconds"]), xytext=(0, -4),
                        textcoords="offset points", ha="center", va="top", fontsize=6, color=PALETTE[number],
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
                    )  # fmt: skip
    ticks = sorted(table["documents"].unique())
    for axes, label in zip(panels, ("processor seconds", "peak memory (MiB)"), strict=True):
        axes.set_xscale("log")
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
        axes.set_ylabel(label)
    panels[0].set_yscale("log")
    panels[0].margins(y=0.15)
    panels[1].set_ylim(bottom=0)
    panels[1].set_xlabel("documents (numbers at FAISS: recall at 8)")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return made
