"""Figures of the comparison: scores of all arms beside their training FLOPs, differences with intervals, and what explains the gain."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.ifpruning.experiments.arms import words
from orchard.papers.ifpruning.figures.looks import LOOKS, WIDE, in_words
from orchard.plot.style import COLUMN, INK, check_columns


@plot.use_style()
def arm_scores(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Right answers of every arm, best first, with intervals and a dot per seed; right the same against training FLOPs over those of
    dense_k, named by markers.

    Columns arm, accuracy, low, high, flops_factor; of ``seeds`` arm and test. Dashed: dense_k and dense_D, between which R is measured."""
    check_columns(table, {name: name for name in ("arm", "accuracy", "low", "high", "flops_factor")}, "arm_scores")
    ordered = table.sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)
    given = plot.looks(ordered["arm"], LOOKS)
    made, axes = plot.figure(WIDE, 0.9 + 0.155 * len(ordered), columns=2)
    for place, row in enumerate(ordered.to_dict("records")):
        look = given[row["arm"]]
        drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5, "linestyle": "none"}
        dots = seeds.loc[seeds["arm"] == row["arm"], "test"]
        axes[0].plot(dots, [place + 0.28] * len(dots), ".", color=look.colour, markersize=3, alpha=0.7)
        axes[0].hlines(place, row["low"], row["high"], color=look.colour, linewidth=1.4)
        axes[0].plot(row["accuracy"], place, **drawn)
        axes[1].vlines(row["flops_factor"], row["low"], row["high"], color=look.colour, linewidth=1)
        axes[1].plot(row["flops_factor"], row["accuracy"], **drawn)
    ends = ordered.set_index("arm")["accuracy"].reindex(["dense_k", "dense_D"]).dropna()
    for score in ends:
        axes[0].axvline(score, color=INK, linewidth=0.8, linestyle="--")
        axes[1].axhline(score, color=INK, linewidth=0.8, linestyle="--")
    axes[0].set_yticks(range(len(ordered)), [words(arm) for arm in ordered["arm"]])
    axes[0].set(ylim=(len(ordered) - 0.4, -0.6), xlabel="right answers (share)")
    axes[0].set_title(f"most right: {words(ordered['arm'][0])}")
    axes[0].grid(False, axis="y")
    axes[1].set(xlabel="training FLOPs / those of small dense", ylabel="right answers (share)", xlim=(0.9, None))
    axes[1].set_title("dashed: small and large dense")
    return made


@plot.use_style()
def arm_differences(table: pd.DataFrame) -> Figure:
    """ifp minus each of the others, with intervals, in points; columns label, effect, low, high (shares). C1, C1f, C2, C2s ask for
    more than 0."""
    check_columns(table, {name: name for name in ("label", "effect", "low", "high")}, "arm_differences")
    points = table.assign(**{name: 100 * table[name] for name in ("effect", "low", "high")})
    made, [axes] = plot.figure(WIDE, 0.8 + 0.19 * len(table))
    plot.forest(points, x_label="mask per instruction minus this (points)", axes=axes)
    axes.set_title(
        f"ahead of {(table['low'] > 0).sum()} of {len(table)}, behind {(table['high'] < 0).sum()}, the others not told apart"
    )
    return made


@plot.use_style()
def gain_explained(table: pd.DataFrame) -> Figure:
    """The share of the gain of ifp that each control has, with intervals: 0 is dense_k, 1 (dashed) is ifp.

    Columns label, effect, low, high, seeds."""
    check_columns(table, {name: name for name in ("label", "effect", "low", "high", "seeds")}, "gain_explained")
    plural = table["seeds"].map(lambda count: "seed" if count == 1 else "seeds")
    counted = table["label"] + " (" + table["seeds"].astype(str) + " " + plural + ")"
    made, [axes] = plot.figure(WIDE, 0.8 + 0.22 * len(table))
    plot.forest(
        table.assign(label=counted), x_label="share of the gain: 0 is small dense, dashed (1) is IFP", axes=axes
    )
    axes.axvline(1, color=INK, linewidth=0.8, linestyle="--")
    axes.set_title(
        f"{(table['high'] >= 1).sum()} of {len(table)} controls are not shown to gain less than learned selection"
    )
    return made


@plot.use_style()
def domain_scores(table: pd.DataFrame) -> Figure:
    """Right answers by domain, a marker per arm, with intervals; columns domain, arm, right, low, high (mean over what is given more)."""
    check_columns(table, {name: name for name in ("domain", "arm", "right", "low", "high")}, "domain_scores")
    table = in_words(table)
    points = table.groupby(["domain", "arm"], sort=False)[["right", "low", "high"]].mean()
    domains, arms = list(pd.unique(table["domain"])), list(pd.unique(table["arm"]))
    given = plot.looks(arms, LOOKS)
    made, [axes] = plot.figure(COLUMN, 1.0 + 0.2 * len(domains))
    for number, arm in enumerate(arms):
        own = points.xs(arm, level="arm").reindex(domains)
        places = [place + 0.22 * (number - (len(arms) - 1) / 2) for place in range(len(domains))]
        axes.hlines(places, own["low"], own["high"], color=given[arm].colour, linewidth=1.2)
        axes.plot(own["right"], places, given[arm].marker, color=given[arm].colour, label=arm, linestyle="none")
    axes.set_yticks(range(len(domains)), domains)
    axes.set(
        ylim=(len(domains) - 0.4, -0.6),
        xlim=(-0.02, max(0.1, 1.05 * float(points["high"].max()))),
        xlabel="right answers (share)",
    )
    axes.set_title(f"{(points['right'] > 0).sum()} of {len(points)} have a right answer")
    axes.grid(False, axis="y")
    made.legend(loc="outside lower center", ncols=len(arms))
    return made
