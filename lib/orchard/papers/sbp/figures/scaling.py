"""Figures of 05_scaling_and_claims: loss against unique tokens and compute, the paper's gains beside ours, every claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FormatStrFormatter, LogLocator, NullLocator

from orchard import plot
from orchard.papers.sbp.figures.looks import LOOKS, titled
from orchard.papers.sbp.figures.parts import BELOW, WIDE, line, y_of
from orchard.plot.style import INK, check_columns

CLAIMS = {
    "K1": "SBP − repetition", "K3": "SBP − random pairs", "K3b": "the same, nothing shared", "K4": "what a true partner changes",
    "K4b": "synthesizer − exact law", "K6": "SBP at first", "K10": "SBP − repetition, equal FLOPs",
}  # fmt: skip
BOUND_LINES = {"labels known": (0, (4, 2)), "EM": (0, (1, 1))}
AXES = {"training": "training_flops", "all stages": "flops"}


@plot.use_style()
def scaling_curves(table: pd.DataFrame, bounds: pd.DataFrame | None = None, checkpoint: str = "best") -> Figure:
    """Loss against the documents of D, a line per arm with its band over seeds; dark lines: what N documents can tell; 0 is Bayes."""
    check_columns(table, {"x": "documents", "y": checkpoint, "hue": "arm"}, "scaling_curves")
    made, (axes,) = plot.figure(4.6, 3.0)
    _arms(axes, table, "documents", checkpoint)
    if bounds is not None:
        for name, dashes in BOUND_LINES.items():
            means = bounds[bounds["line"] == name].groupby("documents")["excess"].mean()
            axes.plot(means.index, means, color=INK, linestyle=dashes, linewidth=1, label=f"N documents tell: {name}")
    axes.axhline(0, color=INK, linewidth=0.8, label="Bayes")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(pd.unique(table["documents"]))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
    axes.set_xlabel("unique documents N")
    y_of(axes, checkpoint)
    made.legend(loc="outside lower center", ncols=2)
    return titled(made, "Loss against unique documents; every arm is tuned at every N")


def _arms(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    for arm in pd.unique(table["arm"]):
        part = table[table["arm"] == arm]
        line(axes, part.assign(at=part.groupby("documents")[x].transform("mean")), "at", y, LOOKS[arm], arm)


@plot.use_style()
def scaling_compute(table: pd.DataFrame, checkpoint: str = "best") -> Figure:
    """The points of :func:`scaling_curves` against FLOPs: of the last model's training alone, and of all stages."""
    check_columns(table, {"x": "flops", "y": checkpoint, "hue": "arm"}, "scaling_compute")
    made, panels = plot.figure(WIDE, 2.4, columns=2)
    for panel, (name, column) in zip(panels, AXES.items(), strict=True):
        _arms(panel, table, column, checkpoint)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_xlabel(f"FLOPs, {name}")
    panels[1].set_xlim(panels[0].get_xlim()[0], None)
    panels[0].set_xlim(panels[1].get_xlim())
    y_of(panels[0], checkpoint)
    handles, names = panels[0].get_legend_handles_labels()
    made.legend(handles, names, loc="outside lower center", ncols=3)
    return titled(made, "Loss against FLOPs: of the last model alone, and of all stages")


@plot.use_style()
def claims_forest(verdicts: pd.DataFrame) -> Figure:
    """Measured effects of the claims that are differences of losses, in nats per document, coloured by verdict; thresholds are ticks, and
    an arrow says on which side of it the claim lies (≈: near it)."""
    table = verdicts[verdicts["metric"].str.contains("nats/document") & verdicts["effect"].notna()]
    sides = {"<": "←", ">": "→", "=": "≈"}
    labels = [
        f"{name}: {CLAIMS[name]} {sides[str(rule)[0]]}" for name, rule in zip(table["id"], table["rule"], strict=True)
    ]
    made, (axes,) = plot.figure(4.6, 1.2 + 0.23 * len(table))
    shown = table.assign(label=labels)[["label", "effect", "low", "high", "threshold", "verdict"]]
    plot.forest(shown, x_label="effect (nats/document)", axes=axes)
    legend = axes.get_legend()
    assert legend is not None
    made.legend(handles=legend.legend_handles, loc=BELOW, ncols=4)
    legend.remove()
    return titled(made, "Effects of the claims; an arrow points to the side that is claimed")


def saved_documents(table: pd.DataFrame, arm: str, checkpoint: str = "best") -> float:
    """How many times as many documents repetition would need for the arm's loss at the smallest N, on the line through its points
    (log N against loss); NaN where the arm is off that line."""
    means = table.pivot_table(index="documents", columns="arm", values=checkpoint)
    losses, counts = means["repetition"].to_numpy(), np.log(means.index.to_numpy(dtype=float))
    wanted = float(means[arm].iloc[0])
    if not losses.min() <= wanted <= losses.max() or (np.diff(losses) >= 0).any():
        return float("nan")
    return float(np.exp(np.interp(-wanted, -losses, counts) - counts[0]))
