"""Figures of the stages: degrees of pairing; how fast each way to sample is, and what the rules reject of each arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import poisson

from orchard import plot
from orchard.papers.sbp.figures.looks import WORLDS, titled, words
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns

REASON_COLOURS = (1, 0, 2, 4, 3, 7, 9, 5, 8, 6)  # of PALETTE: neighbours in a bar differ in lightness too


@plot.use_style()
def hub_degrees(table: pd.DataFrame, variant: str | None = None) -> Figure:
    """Share of documents with more than so many pairs, by stage: a panel per embedder. Grey: as many pairs with ends anywhere."""
    part = table[table["variant"] == (table["variant"].iloc[0] if variant is None else variant)]
    kinds = list(pd.unique(part["pairs by"]))
    made, panels = plot.figure(COLUMN, 0.6 + 1.7 * len(kinds), rows=len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        own = part[part["pairs by"] == kind]
        for number, (stage, one) in enumerate(own.groupby("stage", sort=False)):  # stages that agree lie on one another
            sns.ecdfplot(
                one, x="degree", weights="documents", complementary=True, ax=axes, color=PALETTE[number], label=str(stage),
                linewidth=(5.0, 2.6, 1.0)[number % 3],
            )  # fmt: skip
        before = own[own["stage"] == own["stage"].iloc[0]]
        mean, count = np.average(before["degree"], weights=before["documents"]), before["documents"].sum()
        degrees = np.arange(int(poisson.isf(1 / count, mean)) + 1)
        axes.step(degrees, poisson.sf(degrees, mean), where="post", color=GREY, label="by chance (Poisson)")
        axes.set(xlabel="", yscale="log", ylim=(None, 1.4))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(ylabel="share of documents", title=str(kind))
    panels[-1].set_xlabel("more than so many pairs")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return titled(made, "In how many pairs a document stands")


@plot.use_style()
def sampling_speed(times: pd.DataFrame) -> Figure:
    """Tokens per second of every way to sample, on a logarithmic axis: the median as a bar, a dot per round."""
    check_columns(times, {"way": "way", "tokens_per_s": "tokens_per_s"}, "sampling_speed")
    ways = list(pd.unique(times["way"]))
    made, (axes,) = plot.figure(COLUMN, 0.7 + 0.28 * len(ways))
    least = float(times["tokens_per_s"].min())
    for place, way in enumerate(reversed(ways)):
        rates = times.loc[times["way"] == way, "tokens_per_s"].to_numpy()
        median = float(np.median(rates))
        axes.barh(place, median, color=PALETTE[0 if way == ways[0] else 9], height=0.7)
        axes.plot(rates, np.full(len(rates), place), ".", color=INK, markersize=3.5)
        axes.annotate(
            f"{median:,.0f}", (max(median, float(rates.max())), place), (4, 0), textcoords="offset points", va="center", fontsize=7
        )  # fmt: skip
    axes.set_yticks(range(len(ways)), list(reversed(ways)))
    axes.set(xscale="log", xlim=(10 ** np.floor(np.log10(least)), 6 * float(times["tokens_per_s"].max())))
    axes.set_xlabel(f"sampled tokens per second ({times['device'].iloc[0]})")
    axes.grid(False, axis="y")
    return titled(made, "How fast documents are sampled")


@plot.use_style()
def rejection_rates(table: pd.DataFrame, variant: str | None = None) -> Figure:
    """Rejected documents of each arm by the first rule that they break, in per cent, mean over seeds; of one variant, the first."""
    check_columns(table, {"arm": "arm", "reason": "reason", "share": "share", "variant": "variant"}, "rejection_rates")
    chosen = variant or str(table["variant"].iloc[0])
    part = table[(table["variant"] == chosen) & (table["reason"] != "kept")]
    wide = part.pivot_table(index="arm", columns="reason", values="share", sort=False) * 100
    all_reasons = [reason for reason in dict.fromkeys(table["reason"]) if reason != "kept"]
    colours = {reason: PALETTE[REASON_COLOURS[i % len(REASON_COLOURS)]] for i, reason in enumerate(all_reasons)}
    wide = wide.loc[:, (wide > 0).any()]
    made, (axes,) = plot.figure(4.4, 1.15 + 0.24 * len(wide))
    places = np.arange(len(wide))[::-1]
    left = np.zeros(len(wide))
    for reason in [reason for reason in all_reasons if reason in wide]:
        widths = wide[reason].fillna(0.0).to_numpy()
        style: dict[str, Any] = {"color": colours[reason], "height": 0.75, "edgecolor": "white", "linewidth": 0.4}
        axes.barh(places, widths, left=left, label=reason, **style)
        left += widths
    for place, total in zip(places, left, strict=True):
        axes.annotate(f"{total:.1f} %", (total, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(places, [words(arm) for arm in wide.index])
    axes.set(xlim=(0, max(float(left.max()) * 1.18, 1.0)), xlabel="sampled documents rejected (%)")
    axes.grid(False, axis="y")
    if len(wide.columns):
        made.legend(loc="outside lower center", ncols=3)
    return titled(made, f"What the rules reject, and why ({WORLDS[chosen]})")
