"""What decides the claims of a notebook, in one figure: every model a dot behind the mean of a part, the control, the threshold."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchard import plot
from orchard.evidence import Tables, interval
from orchard.papers.moe_lottery.experiments import CONTROLS, EVIDENCE
from orchard.papers.moe_lottery.figures.training import roomy
from orchard.plot.style import COLUMN, INK, PALETTE

COLUMNS = ["claim", "kind", "part", "comparison", "threshold", "metric", "control", "seed", "effect", "low", "high"]
LINE = 62  # characters under a panel
PARTS = {"ean": "EAN", "ege": "EGE", "one_shot": "one-shot"}  # as the figure writes the names of tables
KINDS = {"claim": ("o", PALETTE[0]), "control": ("s", "#8c8c8c")}


def evidence(tables: Tables, claims: Iterable[Any]) -> pd.DataFrame:
    """One row per claim (of `orchard.claims`), kind ("claim", "control"), part and seed: `effect`, its mean; and for seed "all" the mean
    over seeds with its 95 % interval, `low` and `high`, or the range of all values where each must meet the rule; and the rule in words."""
    rows: list[dict[str, Any]] = []
    for claim in claims:
        rule = {name: getattr(claim, name) for name in ("comparison", "threshold", "metric", "control")}
        for kind, source in (("claim", EVIDENCE), ("control", CONTROLS)):
            for part, own in source[claim.id](tables).groupby("part", sort=False):
                about, found = {"claim": claim.id, "kind": kind, "part": part, **rule}, interval(own)
                low, high = (
                    (own["value"].min(), own["value"].max()) if claim.statistic == "exact" else (found.low, found.high)
                )
                rows.append({**about, "seed": "all", "effect": found.estimate, "low": low, "high": high})
                means = own.groupby("seed")["value"].mean()
                rows += [{**about, "seed": str(seed), "effect": value} for seed, value in means.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def seen(table: pd.DataFrame) -> dict[str, str]:
    """What is seen of every claim, in a line: in how many parts the mean lies on the claimed side, and the control's. A rule asks more."""
    lines = {}
    for claim, own in table[table["seed"] == "all"].groupby("claim", sort=False):
        comparison, threshold = own[["comparison", "threshold"]].iloc[0]
        sign = 1 if comparison == ">" else -1
        passed = (sign * (own["effect"] - threshold) > 0).groupby(own["kind"]).agg(["sum", "size"])
        counts = {kind: f"{row['sum']} of {row['size']}" for kind, row in passed.iterrows()}
        found = f"{counts.get('claim', 'none')}, control's in {counts.get('control', 'not run')}"
        lines[str(claim)] = f"{claim}: mean {comparison} {threshold:g} in {found}"
    return lines


def _words(part: str) -> str:
    """The name of a part, in two lines where it is long."""
    for name, word in PARTS.items():
        part = part.replace(name, word)
    return fill(part, 24, break_on_hyphens=False)


@plot.use_style()
def shown(table: pd.DataFrame) -> Figure:
    """A panel per claim, a row per part: means with intervals over models (the range of all values where the rule is about each), a dot
    per model; grey squares are the control, the line is the threshold."""
    titles = seen(table)
    sizes = [table.loc[table["claim"] == claim, "part"].nunique() for claim in titles]
    made, panels = plot.figure(1.6 * COLUMN, 0.3 + sum(0.95 + 0.26 * size for size in sizes), rows=len(titles))
    roomy(made)
    grid = panels[0].get_gridspec()
    assert grid is not None
    grid.set_height_ratios([1.4 + size for size in sizes])
    for axes, (claim, title) in zip(panels, titles.items(), strict=True):
        own = table[table["claim"] == claim]
        parts = list(pd.unique(own["part"]))
        for (kind, (marker, colour)), shift in zip(KINDS.items(), (-0.14, 0.18), strict=True):
            rows = own[own["kind"] == kind]
            place = np.array([parts.index(part) + shift for part in rows["part"]])
            every, one = rows["seed"] == "all", rows["seed"] != "all"
            axes.hlines(place[every], rows.loc[every, "low"], rows.loc[every, "high"], color=colour, linewidth=1.4)
            axes.plot(
                rows.loc[one, "effect"], place[one], marker, color=colour, markersize=2.5, alpha=0.45, linestyle="none"
            )
            axes.plot(rows.loc[every, "effect"], place[every], marker, color=colour, markersize=5, linestyle="none")
        axes.axvline(own["threshold"].iloc[0], color=INK, linewidth=0.9)
        axes.set_yticks(range(len(parts)), [_words(part) for part in parts])
        metric, control = own[["metric", "control"]].iloc[0]
        label = fill(metric, LINE) + "\n" + fill(f"control: {control}", LINE)
        axes.set(ylim=(len(parts) - 0.5, -0.5), xlabel=label, title=title)
        axes.xaxis.label.set_fontsize(6)
        axes.grid(False, axis="y")
    handles = [Line2D([], [], marker=marker, color=colour, label=kind) for kind, (marker, colour) in KINDS.items()]
    handles += [
        Line2D([], [], marker="o", markersize=2.5, alpha=0.45, linestyle="none", color=PALETTE[0], label="one model"),
        Line2D([], [], color=INK, linewidth=0.9, label="threshold"),
    ]  # fmt: skip
    made.legend(handles=handles, loc="outside lower center", ncols=4)
    return made
