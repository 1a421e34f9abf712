"""What dropping hurts and what restores it: the grid of Figure 7, errors taken apart, recovery, 2:4 beside Table 4.

Tables are those of `experiments.capabilities`; several models are averaged, and so are random draws, whose range
is a band. Everything is in percent of questions or in nats per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchard import plot
from orchard.papers.moe_lottery.data.episodes import HELPS, PLAIN
from orchard.papers.moe_lottery.data.probes import CAPABILITY, CORRECT, OUTCOMES, UNPARSEABLE, WRONG
from orchard.papers.moe_lottery.data.world import CHOOSE, NAME, TASKS
from orchard.papers.moe_lottery.experiments.capabilities import HALF
from orchard.papers.moe_lottery.figures.training import headline, shared_legend
from orchard.papers.moe_lottery.runs.smaller import FULL, NO_HELP, RANDOM, SPARSE
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, Look, use_style

ARMS = {"ean": "EAN", "ege": "EGE", "euf": "EUF", RANDOM: "random", FULL: "full model"}
LOOKS = {
    "ean": Look(PALETTE[0], "o"), "ege": Look(PALETTE[1], "s"), "euf": Look(PALETTE[2], "^"), RANDOM: Look(PALETTE[4], "D"),
    FULL: Look(INK, "*"),
}  # fmt: skip
TINTS = {CORRECT: PALETTE[2], WRONG: PALETTE[1], UNPARSEABLE: "#5c5c5c"}
# Rows of the paper's Table 4 and our arms.
TABLE_4 = {
    FULL: "full model", "ean": "ean min lottery", "2:4 magnitude": "magnitude 2:4", "2:4 wanda": "Wanda 2:4", "2:4 random": "random 2:4",
}  # fmt: skip
BAR = "#b9b9c4"  # of the full model
CELL = 1.1  # inches of a row of panels


def _order(helps: Sequence[str]) -> list[str]:
    """No help, examples by their number, then the fine-tunings."""
    examples = sorted((name for name in helps if "example" in name), key=lambda name: int(name.split()[0]))
    return [name for name in (NO_HELP, *examples, *HELPS) if name in helps]


@use_style()
def capability_grid(table: pd.DataFrame, helps: Sequence[str] | None = None) -> Figure:
    """Exact match against s: a column per task, a row per help, a line per criterion (the paper's Figure 7). Random dropping is
    the mean of its draws, with their range; the dotted line is guessing, stars are the full model with the same help."""
    exact = table[(table["metric"] == "exact match") & ~table["arm"].isin(SPARSE)]
    rows = _order(list(helps or exact["help"].unique()))
    made, axes = plot.figure(2 * COLUMN, 0.7 + CELL * len(rows), len(rows), len(TASKS))
    for place, help in enumerate(rows):
        for column, task in enumerate(TASKS):
            panel = axes[place * len(TASKS) + column]
            _lines(panel, exact[(exact["help"] == help) & (exact["task"] == task)])
            panel.set_ylim(-6, 106)
            panel.set_xticks([0, 25, 50, 75])
            if place == 0:
                panel.set_title(f"{task}: exact match (%)")
            if column == 0:
                panel.set_ylabel(help)
            if place == len(rows) - 1:
                panel.set_xlabel("experts dropped, s (%)")
            panel.set_xlim(-4, 79)
            panel.tick_params(labelbottom=place == len(rows) - 1, labelleft=column == 0)
    shared_legend(made, axes)
    half = exact[(exact["s"] == HALF) & (exact["task"] == NAME) & (exact["arm"] == "ean") & exact["help"].isin(rows)]
    means = half.groupby("help")["value"].mean()
    if means.empty:
        return made
    words = f"with half of the experts gone by EAN, no help of these brings {NAME} above {means.max():.0%}"
    return headline(made, words)


def _lines(panel: Axes, table: pd.DataFrame) -> None:
    """Lines of the arms in one panel; the full model's point begins each."""
    start = table.loc[table["arm"] == FULL, "value"].mean()
    for arm in (name for name in LOOKS if name != FULL and (table["arm"] == name).any()):
        own, look = 100 * table[table["arm"] == arm].set_index("s")["value"], LOOKS[arm]
        range_ = own.groupby(level="s").agg(["mean", "min", "max"])
        means = pd.concat([pd.Series({0.0: 100 * start}), range_["mean"]])
        panel.plot(means.index, means, look.marker + "-", color=look.colour, label=ARMS[arm], markersize=3.5)
        panel.plot(own.index, own, ".", color=look.colour, markersize=2, alpha=0.4)  # a model or a draw
        if arm == RANDOM:
            panel.fill_between(range_.index, range_["min"], range_["max"], color=look.colour, alpha=0.18, linewidth=0)
    if not table.empty:
        panel.plot(0, 100 * start, LOOKS[FULL].marker, color=INK, label=ARMS[FULL], markersize=6, linestyle="none")
        panel.axhline(100 * table["guess"].mean(), color=INK, linestyle=":", linewidth=0.9, label="guessing")


@use_style()
def error_bars(table: pd.DataFrame, tasks: Sequence[str] = (NAME, CHOOSE)) -> Figure:
    """Zero-shot answers as stacked bars: correct, wrong (understood, not right), unparseable; a panel per task."""
    own = table[(table["help"] == NO_HELP) & ~table["arm"].isin(SPARSE)]
    means = own.groupby(["task", "arm", "s", "outcome"])["share"].mean().unstack("outcome")[list(OUTCOMES)] * 100
    arms = [FULL, *LOOKS]  # the full model first
    order = sorted(set(zip(own["arm"], own["s"], strict=True)), key=lambda row: (arms.index(row[0]), row[1]))
    made, axes = plot.figure(2 * COLUMN, 0.8 + 0.19 * len(order), 1, len(tasks))
    for panel, task in zip(axes, tasks, strict=True):
        shares = means.loc[task].loc[order]
        shares.index = pd.Index([ARMS[arm] if arm == FULL else f"{ARMS[arm]}, {s:g} %" for arm, s in order])
        edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4}
        shares.plot.barh(stacked=True, width=0.78, color=[*TINTS.values()], legend=False, ax=panel, **edge)
        _bars(panel, task, "answers (%)", labels=panel is axes[0])
    shared_legend(made, axes)
    lost = means.xs(NAME)[UNPARSEABLE].drop(FULL, level="arm", errors="ignore").groupby("s").mean()
    words = ", ".join(f"{share:.0f} % at s = {s:g} %" for s, share in lost.items())
    return headline(made, f"{NAME}: answers that cannot be read, mean over arms: {words}")


def _bars(panel: Axes, task: str, label: str, labels: bool) -> None:
    """A panel of horizontal bars, the first on top, in per cent."""
    panel.set(title=task, xlim=(0, 103), xlabel=label, ylabel="")
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.tick_params(labelleft=labels)


@use_style()
def recovery_bars(table: pd.DataFrame, arm: str = "ean", tasks: Sequence[str] = (NAME, CHOOSE)) -> Figure:
    """Exact match at s = 50 % under every help, the full model given the same help beside it, and ticks at the
    parse rates; a panel per task."""
    columns = ["full", "value", "full_parsed", "parsed", "guess"]
    own = table[(table["arm"] == arm) & (table["s"] == HALF)]
    rows = _order(list(own["help"].unique()))
    made, axes = plot.figure(2 * COLUMN, 0.9 + 0.3 * len(rows), 1, len(tasks))
    names = {"full": "full model, same help", "value": f"{ARMS[arm]}, s = 50 %"}
    for panel, task in zip(axes, tasks, strict=True):
        means = own[own["task"] == task].groupby("help")[columns].mean().loc[rows] * 100
        bars = means[list(names)].rename(columns=names)
        bars.plot.barh(color=[BAR, LOOKS[arm].colour], width=0.74, legend=False, ax=panel)
        for shift, column in ((-0.185, "full"), (0.185, "value")):
            each = own[(own["task"] == task) & own["help"].isin(rows)]
            panel.plot(
                100 * each[column], each["help"].map(rows.index) + shift, ".", color=INK, markersize=3, label="_"
            )
        for shift, parsed in ((-0.185, "full_parsed"), (0.185, "parsed")):
            panel.plot(
                means[parsed], [place + shift for place in range(len(rows))], "|", color=TINTS[UNPARSEABLE],
                markersize=6,
            )  # fmt: skip
        panel.axvline(means["guess"].mean(), color=INK, linestyle=":", linewidth=0.9)
        _bars(panel, task, "exact match (%); dotted: guessing", labels=panel is axes[0])
    label = "parsed (right of it: unparseable)"
    tick = Line2D([], [], marker="|", color=TINTS[UNPARSEABLE], linestyle="none", label=label)
    handles: list[Artist] = [*axes[0].containers, tick]  # type: ignore[list-item]
    made.legend(handles=handles, loc="outside lower center", ncols=3)
    gaps = own[own["task"] == tasks[0]].groupby("help")["gap"].mean()
    least, most = (
        f"{100 * gap:.0f} points ({help})" for gap, help in ((gaps.min(), gaps.idxmin()), (gaps.max(), gaps.idxmax()))
    )
    return headline(made, f"{tasks[0]}: the gap to the full model is between {least} and {most}")


LINES = {  # capability, metric -> legend, colour, marker
    ("state", "rank score"): ("knowledge, rank", PALETTE[0], "o"),
    ("state", "likeliest"): ("knowledge, likeliest", PALETTE[9], "v"),
    ("name", "exact match"): ("name, zero-shot", PALETTE[3], "s"),
    ("choose", "exact match"): ("choose, zero-shot", PALETTE[1], "D"),
    ("add", "exact match"): ("sums, zero-shot", PALETTE[4], "^"),
}


@use_style()
def relative_drops(table: pd.DataFrame, arms: Sequence[str] = ("ean", "ege", "euf", RANDOM)) -> Figure:
    """Share that is lost of what the full model has above guessing, by capability, against s; a panel per arm. Above 100 %: below
    guessing. `table` is that of `drops`; what the full model does not do better than guessing has no line."""
    found = table[(table["metric"] != "test loss") & table["drop"].notna()]
    made, axes = plot.figure(2 * COLUMN, 2.3, 1, len(arms))
    for panel, arm in zip(axes, arms, strict=True):
        for (task, metric), (label, tint, marker) in LINES.items():
            own = found[(found["arm"] == arm) & (found["task"] == task) & (found["metric"] == metric)]
            if not own.empty:
                means = 100 * own.groupby("s")["drop"].mean()
                panel.plot(own["s"], 100 * own["drop"], ".", color=tint, markersize=2, alpha=0.5)
                panel.plot([0, *means.index], [0, *means], marker + "-", color=tint, label=label, markersize=3.5)
        panel.axhline(100, color=INK, linestyle=":", linewidth=0.9)
        panel.set_title(ARMS[arm])
        panel.set_xticks([0, 25, 50, 75])
        panel.sharey(axes[0])
        panel.tick_params(labelleft=panel is axes[0])
        panel.set_xlabel("experts dropped (%)")
    axes[0].set_ylabel("relative drop (%)")
    shared_legend(made, axes)
    tasks = found["task"].nunique()
    return headline(
        made,
        f"{tasks} of {len(CAPABILITY)} tasks can be judged (the full model is above guessing); above 100 %: below guessing",
    )


@use_style()
def against_sparsity(table: pd.DataFrame, published: pd.DataFrame, model: str = "Base") -> Figure:
    """Half of the experts' weights gone: test loss and likeliest-value accuracy, without (hollow) and with fine-tuning (full
    marker); grey: the paper's mean zero-shot accuracy (Table 4)."""
    arms = [FULL, "ean", RANDOM, *SPARSE]
    made, axes = plot.figure(2 * COLUMN, 2.0, 1, 3)
    panels = (
        ("loss", "test loss (nats/byte)", 1),
        ("likeliest", "true value likeliest (%)", 100),
        ("exact match", "exact match, zero-shot (%)", 100),
    )
    for panel, (column, label, scale) in zip(axes, panels, strict=True):
        means = table.groupby(["help", "arm"])[column].mean().mul(scale)
        for help, face, name in ((NO_HELP, "white", "not fine-tuned"), (PLAIN, PALETTE[0], "fine-tuned, equal tokens")):
            own = means.get(help, pd.Series(dtype=float)).reindex(arms)
            panel.plot(own, range(len(arms)), "o", color=PALETTE[0], markerfacecolor=face, label=name)
            each = table[(table["help"] == help) & table["arm"].isin(arms)]
            panel.plot(
                each[column] * scale, each["arm"].map(arms.index), ".", color=PALETTE[0], markersize=2.5, alpha=0.4
            )
        panel.set_yticks(range(len(arms)), ["full model", "EAN, 4 of 8", "random experts", *SPARSE])
        panel.tick_params(labelleft=panel is axes[0])
        panel.set(ylim=(len(arms) - 0.5, -0.5), xlabel=label)
    rows = published.query("table == 'Table 4' and metric == 'mean (%)' and model == @model")
    paper = rows.set_index("arm")["value"].astype(float).reindex([TABLE_4.get(arm, "") for arm in arms])
    axes[1].plot(
        paper, [place + 0.22 for place in range(len(arms))], "D", color=GREY, markerfacecolor="white", linestyle="none", markersize=3.5,
        label="paper, mean of five tasks",
    )  # fmt: skip
    shared_legend(made, axes)
    loss = table[(table["help"] == NO_HELP) & (table["arm"] != FULL)].groupby("arm")["loss"].mean()
    return headline(
        made, f"half of the weights gone, not fine-tuned: {loss.idxmin()} keeps most, {loss.idxmax()} least"
    )
