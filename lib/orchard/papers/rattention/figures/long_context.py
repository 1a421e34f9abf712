"""Figures of long context: accuracy against length, depth maps, the table of tasks, learning curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchard import plot
from orchard.evidence import interval
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS, UNAVAILABLE
from orchard.papers.rattention.experiments import OTHERS, SMALL
from orchard.papers.rattention.experiments.long_context import REACHED, against, steps_to_reach
from orchard.papers.rattention.figures.looks import LOOKS, intervals, legend_below, lines, octaves, rule, titled, words
from orchard.plot.style import INK

DEPTH_BINS = 5
NUMBERS = {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 6.5}}  # in the cells of a map


def task_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over RULER's tasks: one row per arm, seed and multiple of T."""
    own = table[table["ruler"]]
    return own.groupby(["arm", "seed", "multiple"], sort=False)["accuracy"].mean().reset_index()


def length_curves(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Ours on the left: mean over RULER-lite's tasks, band over seeds. On the right, in grey, the paper's RULER averages of 3B models.

    The two panels share the axis of lengths as multiples of the training length, not the tasks, the models or the data.
    """
    made, (left, right) = plot.figure(6.8, 2.9, columns=2)
    with plot.use_style():
        _lines(task_means(table), left)
        points = published[published["metric"] == "RULER"]
        points = points.assign(multiple=points["context"] / points["context"].min())
        plot.overlay_published(right, points, x="multiple", y="value", hue="arm", known=LOOKS)
        _length_axis(right, table["multiple"].unique())
        for axes, title in ((left, "RULER-lite, measured here"), (right, "RULER, as published (3B)")):
            axes.set_title(title)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
    return titled(made, fall(table))


LEAD = 0.1  # accuracy: the threshold of claim C9


def leads_table(units: pd.DataFrame) -> pd.DataFrame:
    """What decides C9 and C10, and the control of C9: claim, label (the other arm), where (4T, or T), effect, low, high, seeds. RAttention
    at T/8 minus the other arm, mean accuracy over RULER's tasks."""
    rows = []
    for claim, others in (("C9", OTHERS), ("C10", SMALL)):
        for multiple in (4, 1):
            found = against(others, {"ruler_units": units}.__getitem__, multiple=multiple)
            for part, gaps in found.groupby("part", sort=False):
                at, seeds = interval(gaps), gaps.groupby("seed")["value"].mean().tolist()
                about = {
                    "claim": claim,
                    "label": str(part).partition(" − ")[2],
                    "where": "4T" if multiple == 4 else "T",
                }
                rows.append({**about, "effect": at.estimate, "low": at.low, "high": at.high, "seeds": seeds})
    return pd.DataFrame(rows)


@plot.use_style()
def leads(table: pd.DataFrame) -> Figure:
    """RAttention against every other arm at 4T (filled) and at T (hollow), a tick per seed; C9 asks for what is right of the dotted line at
    4T and not at T, C10 for what is right of zero at 4T."""
    rows = list(dict.fromkeys(zip(table["claim"], table["label"], strict=True)))
    made, (axes,) = plot.figure(5.0, 1.0 + 0.3 * len(rows))
    for shift, where in ((-0.14, "4T"), (0.14, "T")):
        part = table[table["where"] == where]
        places = [rows.index(row) + shift for row in zip(part["claim"], part["label"], strict=True)]
        intervals(axes, places, part, LOOKS["rattn"].colour, hollow=where == "T", label=f"lead at {where}")
    axes.axvline(0, color=INK, linewidth=0.8)
    asked = (
        sum(claim == "C9" for claim, _ in rows) - 0.5
    )  # below it stand the rows of C10, which asks for more than zero
    axes.vlines(LEAD, -0.5, asked, color=INK, linewidth=0.9, linestyle=":", label="asked by C9 at 4T")
    axes.set_yticks(range(len(rows)), [f"{claim}: {words(label)}" for claim, label in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("RAttention T/8 ahead by (accuracy, RULER's tasks)")
    legend_below(made, axes)
    ahead = table.assign(ahead=table["low"] > 0).pivot(index=["claim", "label"], columns="where", values="ahead")
    said = f"{ahead['4T'].sum()} of {len(ahead)} leads at 4T are above zero, {(ahead['4T'] & ahead['T']).sum()} of them at T too"
    return titled(made, said)


def fall(table: pd.DataFrame, multiple: int = 4) -> str:
    """Accuracy where the text is four times as long as trained (or another multiple): RAttention, full attention and the best window."""
    return _said(task_means(table), multiple)


def _said(table: pd.DataFrame, multiple: int) -> str:
    found = table.groupby(["arm", "multiple"], sort=False)["accuracy"].mean().unstack()
    at = multiple if multiple in found else max(found.columns)
    left = found[at].rename(str)
    ours, windows = (left[left.index.str.startswith(family)] for family in ("rattn", "swa"))
    said = [f"RAttention {', '.join(ours.index.str.split('@').str[1])}: {', '.join(ours.map('{:.0%}'.format))}"]
    said += [f"{words(name)} {left[name]:.0%}" for name in ("full_rope",) if name in left]
    said += [f"best window {windows.max():.0%}"] if len(windows) else []
    return f"at {_in_lengths(float(at))} {'; '.join(said)}"


@plot.use_style()
def task_curves(table: pd.DataFrame, task: str) -> Figure:
    """Accuracy on one task against length, every arm."""
    rows = table[table["task"] == task]
    made, (axes,) = plot.figure(5.0, 3.2)
    _lines(rows, axes)
    legend_below(made, axes)
    return titled(made, f"{task_title(task)}\n{_said(rows, 1)}")


def task_title(task: str) -> str:
    """The task's name; one that is not RULER's says so."""
    return task if task in RULER_TASKS else f"{task} (ours, no RULER task)"


def _lines(table: pd.DataFrame, axes: Axes) -> None:
    """Accuracy in percent against multiples of T: mean over seeds, band over seeds; arms of one family differ in line style."""
    lines(axes, table.assign(accuracy=100 * table["accuracy"]), "multiple", "accuracy", "", "accuracy (%)")
    _length_axis(axes, table["multiple"].unique())


def _in_lengths(multiple: float) -> str:
    return "T" if multiple == 1 else f"{multiple:g}T"


def _length_axis(axes: Axes, multiples: np.ndarray) -> None:
    octaves(axes, multiples, _in_lengths)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("length, in training lengths T")


def depth_table(units: pd.DataFrame, task: str) -> pd.DataFrame:
    """Accuracy by arm, depth of the needle (in percent: the lower edge of each of five bins) and length, over seeds and queries."""
    rows = units[(units["task"] == task) & units["depth"].notna()]
    low = np.minimum((DEPTH_BINS * rows["depth"]).astype(int), DEPTH_BINS - 1) * (100 // DEPTH_BINS)
    return rows.groupby(["arm", low, "length"], sort=False)["correct"].mean().reset_index()


def depth_maps(units: pd.DataFrame, task: str, arms: list[str]) -> Figure:
    """Depth of the needle × length, a map per arm on one scale. Depth 0 is the start of the text, farthest from the question."""
    table = depth_table(units, task)
    made, panels = plot.figure(2.1 * len(arms) + 0.6, 2.3, columns=len(arms))
    with plot.use_style():
        for axes, arm in zip(panels, arms, strict=True):
            grid = table[table["arm"] == arm].pivot(index="depth", columns="length", values="correct").sort_index()
            bins = [f"{low}–{low + 100 // DEPTH_BINS}" for low in grid.index]
            rows = bins if axes is panels[0] else [""] * len(bins)
            sns.heatmap(grid, ax=axes, vmin=0, vmax=1, cmap="cividis", cbar=False, yticklabels=rows, **NUMBERS)
            axes.set(xlabel="length (tokens)", ylabel="", title=words(arm))
            axes.tick_params(axis="y", rotation=0, length=0)
        panels[0].set_ylabel(f"{task}\ndepth of the needle (%)")
        made.colorbar(panels[0].collections[0], ax=panels, label="accuracy", pad=0.02)
    lengths = sorted(table["length"].unique())
    far = table[table["length"] == lengths[len(lengths) // 2]].groupby("arm")["correct"].mean()
    said = ", ".join(f"{words(arm)} {far[arm]:.0%}" for arm in arms)
    return titled(made, f"at {lengths[len(lengths) // 2]} tokens, mean over depths: {said}")


def task_table(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent, mean over seeds: a row per task, columns (arm, length).

    Tasks that cannot be measured say so. The last row is the mean over RULER's measured tasks.
    """
    cells = table.pivot_table(index="task", columns=["arm", "length"], values="accuracy", sort=False)
    mean = table[table["ruler"]].pivot_table(columns=["arm", "length"], values="accuracy", sort=False).iloc[0]
    shown = (100 * cells).map("{:.0f}".format)
    for task in UNAVAILABLE:
        shown.loc[task] = "unavailable"
    shown.loc["mean of RULER's"] = [f"{100 * mean[column]:.0f}" for column in shown.columns]
    own = {task: f"{task} (ours)" for task in cells.index if task not in RULER_TASKS}
    return shown.rename(index=own)


@plot.use_style()
def accuracy_curves(curves: pd.DataFrame, task: str) -> Figure:
    """Validation accuracy at the training length against steps. A slow curve is slow optimisation, not a lack of capacity."""
    part = curves.dropna(subset=["validation_accuracy"])
    part = part.assign(accuracy=100 * part[f"accuracy {task}"])
    made, (axes,) = plot.figure(5.0, 3.4)
    lines(axes, part, "step", "accuracy", "optimizer step", "accuracy at T (%)", ends=True)
    rule(axes, 100 * REACHED, "counted as learned")
    legend_below(made, axes)
    axes.set_yticks([0, 25, 50, 75, 90, 100])
    end = part["step"].max()
    means = part[part["step"] == end].groupby("arm")["accuracy"].mean()
    learned = (means >= 100 * REACHED).sum()
    return titled(made, f"{task_title(task)}: learned by {learned} of {len(means)} arms after {end:g} steps")


def steps_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Steps until 90 % of a task's answers are right at T, by task and arm: median of the seeds that got there (how many, if not all)."""
    steps = steps_to_reach(curves)
    seeds = steps["seed"].nunique()

    def cell(values: pd.Series) -> str:
        reached = values.dropna()
        if reached.empty:
            return "–"
        return f"{reached.median():.0f}" + ("" if len(reached) == seeds else f" ({len(reached)} of {seeds} seeds)")

    return steps.groupby(["task", "arm"], sort=False)["step"].apply(cell).unstack("arm")
