"""Figures of 02_train: how the references were tuned, how the arms learn, where they end, and what is left of the paper's ratio."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchard import plot, stats
from orchard.papers.sbp.figures.looks import LOOKS, looks
from orchard.papers.sbp.figures.parts import BELOW, EXCESS, panels, rows
from orchard.papers.sbp.figures.parts import ends as ends_of
from orchard.plot.style import GREY, INK

WORLDS = {
    "dep": "documents share concepts", "indep": "no shared information", "hier": "topics and subtopics", "facts": "facts"
}  # fmt: skip
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)  # nats per document


@plot.use_style()
def tuning(table: pd.DataFrame) -> Figure:
    """Test loss of every trial, at its best checkpoint (filled) and its last one (hollow), a panel per variant. Trials are in the order in
    which they were made; the one that was chosen is circled."""
    figure, axes, parts = panels(table, 3.4, names=WORLDS)
    for panel, own in parts:
        own = own.reset_index(drop=True)
        for arm, look in looks(("repetition", "oracle")).items():
            part = own[own["arm"] == arm]
            panel.vlines(part.index, part["loss"], part["last_loss"], color=look.colour, linewidth=0.8)
            panel.plot(part.index, part["last_loss"], look.marker, color=look.colour, markerfacecolor="white")
            panel.plot(part.index, part["loss"], look.marker, color=look.colour, label=arm)
            best = part[part["chosen"]]
            panel.plot(best.index, best["loss"], "o", markersize=10, markerfacecolor="none", color=INK)
        panel.set_xticks(own.index, [_trial(row) for _, row in own.iterrows()], rotation=90, fontsize=6)
    axes[0].set_ylabel("test loss\n(nats/document)")
    title = "filled: best checkpoint, hollow: last"
    figure.legend(*axes[0].get_legend_handles_labels(), loc=BELOW, ncols=2, title=title)
    return figure


def _trial(row: pd.Series) -> str:
    return f"wd {row['weight_decay']:g}, drop {row['dropout']:g}, lr {row['learning_rate']:g}"


@plot.use_style()
def learning(table: pd.DataFrame, arms: tuple[str, ...] = ()) -> Figure:
    """Loss above Bayes against tokens, a panel per variant, bands over worlds and seeds. 0 is the law of the world itself."""
    figure, axes, parts = panels(table[table["arm"].isin(arms)] if arms else table, 2.5, names=WORLDS)
    handles: dict[str, Line2D] = {}
    for panel, own in parts:
        own = own.assign(cell=own["world"].astype(str) + " " + own["seed"].astype(str), tokens=own["tokens"] / 1e3)
        plot.learning_curves(
            own, x="tokens", y="excess", seed="cell", x_label="tokens (thousands)", y_label=EXCESS, axes=panel, known=LOOKS
        )  # fmt: skip
        panel.set_yscale("log")
        low, high = own["excess"].min(), own["excess"].max()
        panel.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low / 1.3 < tick < high * 1.3]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if (legend := panel.get_legend()) is not None:
            legend.remove()
        handles |= {label: line for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    for panel in axes[1:]:
        panel.set_ylabel("")
    figure.legend(handles.values(), handles.keys(), loc=BELOW, ncols=5)
    return figure


@plot.use_style()
def ends(table: pd.DataFrame) -> Figure:
    """Every arm's loss above Bayes at its best checkpoint (filled) and its last one (hollow): a point per world and seed."""
    means = table.groupby(["variant", "arm", "world", "seed"])[["best", "last"]].mean().reset_index()
    order = list(pd.unique(table["arm"]))
    figure, axes, parts = panels(means, 0.8 + 0.19 * len(order), names=WORLDS)
    for panel, own in parts:
        ends_of(panel, own, order)
        rows(panel, order, panel is axes[0])
        panel.set(xlim=(0, None), xlabel="loss above Bayes (nats/document)")
    return figure


def against(table: pd.DataFrame, reference: str = "repetition", column: str = "best") -> pd.DataFrame:
    """Every arm minus the reference, document by document: variant, arm, estimate, low, high (95 % bootstrap over cells and documents)."""
    found = []
    for variant in [name for name in WORLDS if name in set(table["variant"])]:
        own = table[table["variant"] == variant]
        wide = own.pivot_table(index=["world", "seed", "document"], columns="arm", values=column)
        for arm in [name for name in pd.unique(own["arm"]) if name != reference]:
            value = (wide[arm] - wide[reference]).dropna()
            cell = value.index.get_level_values("world") * 1000 + value.index.get_level_values("seed")
            mean = stats.paired_bootstrap(value.to_numpy(), cell.to_numpy())
            found.append((variant, arm, mean.estimate, mean.low, mean.high))
    return pd.DataFrame(found, columns=["variant", "arm", "estimate", "low", "high"])


@plot.use_style()
def differences(table: pd.DataFrame) -> Figure:
    """The table of :func:`against`: left of 0 an arm is better than the best checkpoint of repetition."""
    order = list(pd.unique(table["arm"]))
    figure, axes, parts = panels(table, 0.8 + 0.19 * len(order), names=WORLDS)
    for panel, own in parts:
        panel.axvline(0, color=INK, linewidth=0.8)
        for _, row in own.iterrows():
            look, place = LOOKS[row["arm"]], order.index(row["arm"])
            panel.hlines(place, row["low"], row["high"], color=look.colour, linewidth=1.5)
            panel.plot(row["estimate"], place, look.marker, color=look.colour)
        rows(panel, order, panel is axes[0])
        panel.set_xlabel("minus repetition at its best (nats/document)")
    return figure


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """The share of the oracle's gain that each synthetic arm recovers, in per cent, cell by cell: against the last checkpoint of
    repetition, as papers do, and against its best one. Columns variant, arm, world, seed, against, share."""
    mean = table.groupby(["variant", "world", "seed", "arm"])[["best", "last"]].mean()
    parts = []
    for against in ("last", "best"):
        wide = mean[against].unstack("arm")
        gain = wide["repetition"] - mean["best"].unstack("arm")["oracle"]
        for arm in [name for name in pd.unique(table["arm"]) if name not in ("repetition", "oracle")]:
            share = (100 * (wide["repetition"] - wide[arm]) / gain).dropna().rename("share")
            parts.append(share.reset_index().assign(arm=arm, against=against))
    return pd.concat(parts, ignore_index=True)


@plot.use_style()
def recovered(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """The table of :func:`recovery`: against the last checkpoint of repetition and against its best; the paper's shares in grey."""
    arms = [arm for arm in LOOKS if arm in set(table["arm"])]
    figure, axes, parts = panels(table, 2.5, names=WORLDS)
    shares = published.loc[published["metric"] == "share of the oracle's gain (%)", "value"]
    for panel, own in parts:
        for share in shares:
            panel.axhline(share, color=GREY, linewidth=0.8, linestyle="--")
        panel.axhline(0, color=INK, linewidth=0.8)
        for place, arm in enumerate(arms):
            look = LOOKS[arm]
            for shift, against, fill in ((-0.15, "last", "white"), (0.15, "best", look.colour)):
                found = own.loc[(own["arm"] == arm) & (own["against"] == against), "share"]
                panel.plot([place + shift] * len(found), found, look.marker, color=look.colour, markerfacecolor=fill)
        panel.set_xticks(range(len(arms)), arms, rotation=90, fontsize=6)
        panel.set(ylim=(None, max(110, panel.get_ylim()[1])), xlim=(-0.5, len(arms) - 0.5))
    axes[0].set_ylabel("share of the oracle's\ngain (%)")
    last, best = "against the last checkpoint of repetition", "against its best"
    handles = [
        Line2D([], [], color=INK, marker="o", linestyle="", markerfacecolor="white", label=last),
        Line2D([], [], color=INK, marker="o", linestyle="", label=best),
        Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label="paper, three scales"),
    ]
    figure.legend(handles=handles, loc=BELOW, ncols=3)
    return figure
