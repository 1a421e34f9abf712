"""Figures of training: losses of all stages, the gauge that says whether masks have collapsed, swapped masks, and a map of masks.

Tables are those of :mod:`orchard.papers.ifpruning.experiments.comparison` and `.explanation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchard import plot
from orchard.papers.ifpruning.experiments.arms import words
from orchard.papers.ifpruning.experiments.explanation import nearest
from orchard.papers.ifpruning.figures.looks import LOOKS, WIDE, in_words, taken_legend
from orchard.papers.ifpruning.method.overlap import COLLAPSED, IN_USE
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, check_columns

SPEED = ("dense_k", "dense_D", "rand_mask", "ifp")
PANELS: dict[str, tuple[str, ...]] = {
    "dense and static": ("dense_k", "dense_k_long", "dense_D", "static", "static_kd"),
    "masks from the prompt": ("dense_k", "ifp", "ifp_st", "ifp_contrast", "moe_seq"),
    "controls": ("dense_k", "ifp", "film_k", "prefix_cond", "rand_mask", "rand_lsh", "moe"),
}
GAUGES = {
    "across": "overlap across domains", "within": "overlap within a domain", "union": "channels in use (share)",
    "use": "entropy of use / maximum", "spread": "std(z) / ε", "validation_accuracy": "right answers (share)",
}  # fmt: skip
MARKERS = "osD^vP*X<>hd"
MASKS = {"of the prompt": PALETTE[0], "of the task": PALETTE[9], "of another domain": PALETTE[1]}


@plot.use_style()
def stage_curves(table: pd.DataFrame) -> Figure:
    """Training loss over all stages, a panel per group of arms, one vertical scale; columns step, loss, arm, seed, stage.

    Dotted lines: the stages of most arms end. dense_k stands in every panel."""
    check_columns(table, {name: name for name in ("step", "loss", "arm", "seed", "stage")}, "stage_curves")
    shown = {name: [words(arm) for arm in arms if arm in set(table["arm"])] for name, arms in PANELS.items()}
    made, axes = plot.figure(WIDE, 3.6, columns=len(shown))
    base, table = table[table["arm"] == "dense_k"], in_words(table)
    ends = base.groupby("stage", sort=False)["step"].max().iloc[:-1]
    for place, (frame, (name, arms)) in enumerate(zip(axes, shown.items(), strict=True)):
        own = table[table["arm"].isin(arms)].sort_values("arm", key=lambda arm: arm.map(arms.index), kind="stable")
        label = "cross entropy (nats per token)" if place == 0 else ""
        plot.learning_curves(own, x_label="optimizer step", y_label=label, axes=frame, known=LOOKS)
        frame.set(title=name, ylim=(0, table["loss"].max() * 1.03))
        for end in ends:
            frame.axvline(end, color=INK, linewidth=0.7, linestyle=":")
        taken_legend(frame)
        made.legend(handles=frame.get_lines()[: len(arms)], loc="upper center", fontsize=6, handlelength=1.8,
                    bbox_to_anchor=((place + 0.55) / len(shown), 0.31))  # fmt: skip
    made.set_layout_engine("constrained", rect=(0, 0.3, 1, 0.7))
    return made


@plot.use_style()
def accuracy_curves(table: pd.DataFrame, arms: Sequence[str] = SPEED) -> Figure:
    """Right answers to validation questions against steps, a thin line per seed and a thick one for their mean; columns step,
    validation_accuracy, arm, seed, stage. Dotted lines: stages end. Flat at the end means that steps are not what is missing."""
    names = ("step", "validation_accuracy", "arm", "seed", "stage")
    check_columns(table, {name: name for name in names}, "accuracy_curves")
    made, (axes,) = plot.figure(COLUMN, 3.0)
    held = table[table["arm"].isin(arms)].dropna(subset=["validation_accuracy"])
    given, last = plot.looks(arms, LOOKS), {}
    for arm in arms:
        own, look = held[held["arm"] == arm], given[arm]
        for _, one in own.groupby("seed"):
            axes.plot(one["step"], one["validation_accuracy"], color=look.colour, linewidth=0.5, alpha=0.5)
        mean = own.groupby("step")["validation_accuracy"].mean()
        axes.plot(mean.index, mean, color=look.colour, marker=look.marker, markersize=3, label=words(arm))
        last[arm] = mean.iloc[-1] - mean[mean.index <= 0.75 * mean.index.max()].iloc[-1] if len(mean) > 1 else np.nan
    for end in held[held["arm"] == "dense_k"].groupby("stage", sort=False)["step"].max().iloc[:-1]:
        axes.axvline(end, color=INK, linewidth=0.7, linestyle=":")
    axes.set(xlabel="optimizer step", ylabel="right answers (share)", ylim=(-0.02, 1.02))
    axes.set_title(f"last quarter: small dense {100 * last['dense_k']:+.0f} points, IFP {100 * last['ifp']:+.0f}")
    made.legend(loc="outside lower center", ncols=1)
    return made


@plot.use_style()
def collapse_gauge(table: pd.DataFrame) -> Figure:
    """The gauge while masks are learned, a line per arm; columns arm, step, chance and those of ``GAUGES``.

    Dashed: chance. Dash-dotted: the bounds at which masks count as collapsed, 0.9 from below and 1.5 k/D from above."""
    check_columns(table, {name: name for name in ("arm", "step", "chance", *GAUGES)}, "collapse_gauge")
    arms = list(pd.unique(table["arm"]))
    given = plot.looks(arms, LOOKS)
    made, axes = plot.figure(WIDE, 3.7, rows=2, columns=3)
    chance = table["chance"].iloc[0]
    bounds = {"across": COLLAPSED, "union": IN_USE * chance}
    for frame, (name, label) in zip(axes, GAUGES.items(), strict=True):
        for arm in arms:
            own, look = table[table["arm"] == arm], given[arm]
            frame.plot(own["step"], own[name], color=look.colour, marker=look.marker, markersize=3.2, label=words(arm))
        if name in ("across", "within", "union"):
            frame.axhline(chance, color=GREY, linewidth=0.9, linestyle="--", label="chance, k/D")
        if name in bounds:
            frame.axhline(bounds[name], color=INK, linewidth=0.9, linestyle="-.", label="collapsed beyond")
        if name != "spread":
            frame.set_ylim(-0.04, 1.06)
        frame.set(ylabel=label, xlabel="optimizer step" if frame in axes[3:] else "")
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3)
    return made


@plot.use_style()
def swapped_masks(table: pd.DataFrame) -> Figure:
    """Right answers of each arm with its own masks and with others; columns arm, masks, effect, low, high."""
    check_columns(table, {name: name for name in ("arm", "masks", "effect", "low", "high")}, "swapped_masks")
    arms, kinds = list(pd.unique(table["arm"])), list(pd.unique(table["masks"]))
    made, [axes] = plot.figure(COLUMN, 2.6)
    thick = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        own = table[table["masks"] == kind].set_index("arm").loc[arms]
        at = np.arange(len(arms)) + (number - (len(kinds) - 1) / 2) * thick
        axes.bar(at, own["effect"], thick * 0.92, color=MASKS[kind], label=f"mask {kind}")
        axes.vlines(at, own["low"], own["high"], color=INK, linewidth=0.9)
        for place, high, effect in zip(at, own["high"], own["effect"], strict=True):
            axes.text(place, high + 0.02, f"{effect:.2f}", ha="center", fontsize=5.5)
    axes.set_xticks(
        range(len(arms)), [words(arm).replace(", ", ",\n").replace(" (", "\n(") for arm in arms], fontsize=5.5
    )
    lost = (table[table["masks"] == "of the prompt"].set_index("arm")["effect"] - own["effect"]).loc[arms[0]]
    axes.set(
        ylim=(0, 1.12), ylabel="right answers (share)", title=f"another domain's mask costs IFP {100 * lost:.0f} points"
    )
    axes.grid(False, axis="x")
    made.legend(loc="outside lower center", ncols=2)
    return made


@plot.use_style()
def mask_map(table: pd.DataFrame, prompt: int | None = None) -> Figure:
    """Prompts on a map where equal masks coincide, coloured by group, a marker per domain; filled: held-out wordings.

    ``prompt``: that one is circled, and its nearest are listed beside it with their overlap in every layer. Columns are those of
    ``prompt_pairs``."""
    import seaborn as sns

    check_columns(table, {name: name for name in ("prompt", "domain", "group", "wording", "x", "y")}, "mask_map")
    points = table.drop_duplicates("prompt")
    made, axes = plot.figure(WIDE, 3.1, columns=1 if prompt is None else 2)
    domains, groups = list(pd.unique(points["domain"])), list(pd.unique(points["group"]))
    tints = {name: PALETTE[(0, 1, 2, 3, 4, 5, 9, 8)[i % 8]] for i, name in enumerate(groups)}
    colours = points.drop_duplicates("domain").set_index("domain")["group"].map(tints).to_dict()
    markers = dict(zip(domains, itertools.cycle(MARKERS), strict=False))
    for wording, part in points.groupby("wording"):
        drawn = len(axes[0].collections)
        sns.scatterplot(
            part, x="x", y="y", hue="domain", style="domain", palette=colours, markers=markers, s=22, alpha=0.75, ax=axes[0],
            legend="full" if wording == "held out" and len(domains) <= len(MARKERS) else False,
        )  # fmt: skip
        for marks in axes[0].collections[drawn:] if wording != "held out" else ():  # seaborn fills whatever it is told
            marks.set(edgecolor=marks.get_facecolor(), facecolor="none")
    if axes[0].get_legend() is not None:
        taken_legend(axes[0])
        named = {"title": "filled: wordings that no training has read", "title_fontsize": 6.5}
        made.legend(loc="outside lower center", ncols=len(domains), columnspacing=1.0, handletextpad=0.1, **named)
    axes[0].set(xlabel="first axis of 1 - overlap", ylabel="second axis")
    if prompt is not None:
        own = points.set_index("prompt").loc[prompt]
        axes[0].plot(own["x"], own["y"], "o", color="none", markeredgecolor=INK, markersize=13)
        _listed(axes[1], str(own["domain"]), str(own["text"]), nearest(table, prompt))
    return made


def _listed(frame: Axes, domain: str, text: str, rows: pd.DataFrame) -> None:
    """The nearest prompts as lines of text, with a small bar per layer."""
    layers = [name for name in rows.columns if str(name).startswith("layer ")]
    shown = layers if len(layers) <= 3 else [layers[0], layers[len(layers) // 2], layers[-1]]
    frame.set_axis_off()
    frame.set(xlim=(0, 1), ylim=(len(rows) + 0.6, -1.9))
    frame.text(0, -1.5, f"{domain}   {text}", fontsize=6.5, weight="bold", va="center")
    for i, name in enumerate(shown):
        frame.text(0.02 + 0.13 * i, -0.5, str(name), fontsize=6, va="center")
    for place, (_, row) in enumerate(rows.iterrows()):
        for i, name in enumerate(shown):
            frame.barh(place + 0.3, 0.1 * row[name], 0.55, left=0.02 + 0.13 * i, color=PALETTE[0])
            frame.text(0.02 + 0.13 * i, place + 0.3, f"{row[name]:.2f}", fontsize=5.5, va="center", color="white")
        frame.text(0.03 + 0.13 * len(shown), place + 0.3, f"{row['domain']}  {row['text']}", fontsize=6, va="center")
