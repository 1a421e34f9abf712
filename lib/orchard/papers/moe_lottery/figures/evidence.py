"""What decides the claims of a notebook, in one figure: every model a dot behind the mean of a part, the control, the threshold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchard import plot
from orchard.evidence import Tables, interval
from orchard.papers.moe_lottery.experiments import CONTROLS, EVIDENCE
from orchard.plot.style import COLUMN, INK, PALETTE

CLAIMS = {  # what is compared with the threshold; where the claimed side is; the control
    "M1": ("largest over median cost of an expert, in units of luck", ">", "experts shuffled in every window"),
    "M2": ("mean loss over s, first − second (nats/byte)", "<", "random orders for criteria"),
    "M3": ("rank correlation with leaving one out", ">", "scores shuffled"),
    "M4": ("mean loss over s, largest − smallest router row first (nats/byte)", "<", "random orders for both"),
    "M5": ("loss, scores estimated anew − once (nats/byte)", "<", "orders drawn anew"),
    "M6": ("loss, lottery − one-shot with equal tokens (nats/byte)", "<", "all tokens at the end in both"),
    "M7": ("loss, lottery − one-shot without tokens (nats/byte)", "<", "rounds without fine-tuning"),
    "M8": ("share of the repair that the last doubling of tokens brings", "<", "the full model"),
    "M9": ("variation of the load, after − before fine-tuning", "<", "the full model"),
    "M10": ("Jaccard index with the lottery, iterative − one-shot", ">", "iterative sets of another model"),
    "M10b": ("Jaccard index with the lottery − chance", ">", "lottery sets of another model"),
    "M11": ("relative drop, knowledge − instructions", "<", "statements right or wrong for instructions"),
    "M11b": ("share of new errors that cannot be parsed", ">", "errors of the full model"),
    "M12": ("gap to the full model, with help − without", "<", "plain text for help"),
    "M13": ("loss, half of the experts dropped − 2:4 (nats/byte)", "<", "random experts"),
    "M14": ("rank correlation of coverage with leaving one out", ">", "scores shuffled"),
    "M14b": ("rank correlation of stable rank with leaving one out", "<", "scores shuffled"),
}  # fmt: skip
KINDS = {"claim": ("o", PALETTE[0]), "control": ("s", "#8c8c8c")}


def evidence(tables: Tables, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """One row per claim, kind ("claim", "control"), part and seed: `effect`, its mean; and for seed "all" the mean over seeds with its
    95 % interval, `low` and `high`. `thresholds`: of the claims that are wanted."""
    rows: list[dict[str, Any]] = []
    for claim, threshold in thresholds.items():
        for kind, source in (("claim", EVIDENCE), ("control", CONTROLS)):
            for part, own in source[claim](tables).groupby("part", sort=False):
                found = interval(own)
                about = {"claim": claim, "kind": kind, "part": part, "threshold": threshold}
                rows.append({**about, "seed": "all", "effect": found.estimate, "low": found.low, "high": found.high})
                means = own.groupby("seed")["value"].mean()
                rows += [{**about, "seed": str(seed), "effect": value} for seed, value in means.items()]
    return pd.DataFrame(rows, columns=["claim", "kind", "part", "threshold", "seed", "effect", "low", "high"])


def seen(table: pd.DataFrame) -> dict[str, str]:
    """What is seen of every claim, in a line: in how many parts the mean lies on the claimed side, and the control's."""
    lines = {}
    for claim, own in table[table["seed"] == "all"].groupby("claim", sort=False):
        sign = 1 if CLAIMS[str(claim)][1] == ">" else -1
        passed = (sign * (own["effect"] - own["threshold"]) > 0).groupby(own["kind"]).agg(["sum", "size"])
        counts = {kind: f"{row['sum']} of {row['size']}" for kind, row in passed.iterrows()}
        side = f"{CLAIMS[str(claim)][1]} {own['threshold'].iloc[0]:g}"
        lines[str(claim)] = (
            f"{claim}: {side} in {counts.get('claim', 'none')}, control {counts.get('control', 'not run')}"
        )
    return lines


@plot.use_style()
def shown(table: pd.DataFrame) -> Figure:
    """A panel per claim, a row per part: means with intervals over models, a dot per model; grey squares are the control, the line is
    the threshold."""
    titles = seen(table)
    sizes = [table.loc[table["claim"] == claim, "part"].nunique() for claim in titles]
    made, panels = plot.figure(1.6 * COLUMN, 0.3 + sum(0.72 + 0.26 * size for size in sizes), rows=len(titles))
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
        axes.set_yticks(range(len(parts)), [re.sub(r"\bean\b|\bege\b", lambda m: m[0].upper(), part) for part in parts])
        axes.set(ylim=(len(parts) - 0.5, -0.5), xlabel=f"{CLAIMS[claim][0]}\ncontrol: {CLAIMS[claim][2]}", title=title)
        axes.xaxis.label.set_fontsize(6.5)
        axes.grid(False, axis="y")
    handles = [Line2D([], [], marker=marker, color=colour, label=kind) for kind, (marker, colour) in KINDS.items()]
    handles += [
        Line2D([], [], marker="o", markersize=2.5, alpha=0.45, linestyle="none", color=PALETTE[0], label="one model"),
        Line2D([], [], color=INK, linewidth=0.9, label="threshold"),
    ]  # fmt: skip
    made.legend(handles=handles, loc="outside lower center", ncols=4)
    return made
