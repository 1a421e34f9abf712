"""Figures of 02_train: how the references were tuned, how the arms learn, where they end, and what is left of the paper's ratio."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchard import plot, stats
from orchard.papers.sbp.figures.looks import LOOKS, WORLDS, titled
from orchard.papers.sbp.figures.parts import BELOW, EXCESS, not_run, panels, rows
from orchard.papers.sbp.figures.parts import ends as ends_of
from orchard.plot.style import GREY, INK

TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)  # nats per document


@plot.use_style()
def tuning(table: pd.DataFrame) -> Figure:
    """Test loss of every trial at its best checkpoint (filled) and its last one (hollow), a row per arm and a panel per variant; what was
    chosen is ringed and written at the right: weight decay, learning rate, dropout. A star: one of them, or the weight decay of
    the synthesizer, is the outermost that was tried."""
    order = [arm for arm in LOOKS if arm in set(table["arm"])]
    figure, axes, parts = panels(table, 1.0 + 0.2 * len(order))
    for panel, own in parts:
        not_run(panel, order, own["arm"])
        for arm, part in own.groupby("arm"):
            look, place = LOOKS[str(arm)], order.index(str(arm))
            panel.plot(
                part["last_loss"],
                [place] * len(part),
                look.marker,
                color=look.colour,
                markerfacecolor="white",
                markersize=3.5,
            )
            panel.plot(part["loss"], [place] * len(part), look.marker, color=look.colour, markersize=3.5)
            best = part[part["chosen"]].iloc[0]
            panel.plot(best["loss"], place, "o", markersize=9, markerfacecolor="none", color=INK)
            chosen = f"{best['weight_decay']:g}, {1000 * best['learning_rate']:g}e-3, {best['dropout']:g}{' *' if best['edge'] else ''}"
            panel.text(1.01, place, chosen, transform=panel.get_yaxis_transform(), va="center", fontsize=6)
        rows(panel, order, panel is axes[0])
        panel.set_xlabel("test loss (nats/document)")
    shapes = (
        ("best checkpoint", 4, INK),
        ("last checkpoint", 4, "white"),
        ("chosen: weight decay, rate, dropout", 9, "none"),
    )
    handles = [
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=size, markerfacecolor=face, label=label)
        for label, size, face in shapes
    ]
    edge = Line2D([], [], color=INK, marker="$*$", linestyle="", markersize=4, label="at an edge of what was tried")
    figure.legend(handles=[*handles, edge], loc=BELOW, ncols=4)
    return titled(figure, "Every arm is tuned by itself")


@plot.use_style()
def learning(table: pd.DataFrame, arms: tuple[str, ...] = ()) -> Figure:
    """Loss above Bayes against tokens, a panel per variant, bands over worlds and seeds. 0 is the law of the world itself."""
    figure, axes, parts = panels(table[table["arm"].isin(arms)] if arms else table, 2.5)
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
    figure.legend(handles.values(), handles.keys(), loc=BELOW, ncols=4)
    return titled(figure, "How the arms learn; the band spans worlds and seeds, 0 is the law of the world")


@plot.use_style()
def ends(table: pd.DataFrame) -> Figure:
    """Every arm's loss above Bayes at its best checkpoint (filled) and its last one (hollow): a point per world and seed."""
    means = table.groupby(["variant", "arm", "world", "seed"])[["best", "last"]].mean().reset_index()
    order = list(pd.unique(table["arm"]))
    figure, axes, parts = panels(means, 0.8 + 0.19 * len(order))
    for panel, own in parts:
        ends_of(panel, own, order)
        not_run(panel, order, own["arm"])
        rows(panel, order, panel is axes[0])
        panel.set(xlim=(0, None), xlabel="loss above Bayes (nats/document)")
    return titled(figure, "Where the arms end: best checkpoint filled, last hollow")


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
def differences(table: pd.DataFrame, documents: pd.DataFrame) -> Figure:
    """The table of :func:`against`, and the mean of each world and seed from the ``documents`` that it was made of. Left of 0 an arm is
    better than the best checkpoint of repetition; 0 is the threshold of K1."""
    means = documents.groupby(["variant", "arm", "world", "seed"])["best"].mean()
    order = list(pd.unique(table["arm"]))
    figure, axes, parts = panels(table, 0.8 + 0.19 * len(order))
    for panel, own in parts:
        panel.axvline(0, color=INK, linewidth=0.8)
        not_run(panel, order, own["arm"])
        for _, row in own.iterrows():
            look, place = LOOKS[row["arm"]], order.index(row["arm"])
            cells = (means[row["variant"], row["arm"]] - means[row["variant"], "repetition"]).dropna()
            panel.plot(cells, [place + 0.25] * len(cells), ".", color=look.colour, markersize=3, alpha=0.7)
            panel.hlines(place, row["low"], row["high"], color=look.colour, linewidth=1.5)
            panel.plot(row["estimate"], place, look.marker, color=look.colour)
        rows(panel, order, panel is axes[0])
        panel.set_xlabel("minus repetition at its best (nats/document)")
    return titled(
        figure, "Every arm minus repetition: left of 0 it is better; 95 % intervals, a dot per world and seed"
    )


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
    """The table of :func:`recovery`: against the last checkpoint of repetition and against its best, a mark per world and seed; the
    paper's shares in grey, the threshold of K2 as a line."""
    arms = [arm for arm in LOOKS if arm in set(table["arm"])]
    figure, axes, parts = panels(table, 1.0 + 0.22 * len(arms))
    shares = published.loc[published["metric"] == "share of the oracle's gain (%)", "value"]
    for panel, own in parts:
        for share in shares:
            panel.axvline(share, color=GREY, linewidth=0.8, linestyle="--")
        panel.axvline(0, color=INK, linewidth=0.8)
        panel.axvline(42, color=INK, linewidth=0.9)
        not_run(panel, arms, own["arm"])
        for place, arm in enumerate(arms):
            look = LOOKS[arm]
            for shift, against, fill in ((-0.15, "last", "white"), (0.15, "best", look.colour)):
                found = own.loc[(own["arm"] == arm) & (own["against"] == against), "share"]
                panel.plot(found, [place + shift] * len(found), look.marker, color=look.colour, markerfacecolor=fill)
        rows(panel, arms, panel is axes[0])
        panel.set_xlabel("share of the oracle's gain (%)")
    last, best = "against the last checkpoint of repetition", "against its best"
    handles = [
        Line2D([], [], color=INK, marker="o", linestyle="", markerfacecolor="white", label=last),
        Line2D([], [], color=INK, marker="o", linestyle="", label=best),
        Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label="paper: 42, 48, 58 %"),
        Line2D([], [], color=INK, linewidth=0.9, label="K2 asks for 42 %"),
    ]
    figure.legend(handles=handles, loc=BELOW, ncols=4)
    return titled(figure, "Share of the oracle's gain that each arm recovers, by the checkpoint of repetition")
