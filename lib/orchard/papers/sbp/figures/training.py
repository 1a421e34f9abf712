"""Figures of 02_train: how the references were tuned, how the arms learn, where they end, and what is left of the paper's ratio."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchard import plot, stats
from orchard.papers.sbp.figures.parts import EXCESS, rows
from orchard.papers.sbp.figures.parts import ends as ends_of
from orchard.plot.style import GREY, INK

WORLDS = {
    "dep": "documents share concepts",
    "indep": "no shared information",
    "hier": "topics and subtopics",
    "facts": "facts",
}


def _variants(table: pd.DataFrame) -> list[str]:
    return [name for name in WORLDS if name in set(table["variant"])]


@plot.use_style()
def tuning(table: pd.DataFrame) -> Figure:
    """Test loss of every trial, at its best checkpoint (filled) and its last one (hollow), a panel per variant. Trials are in the order in
    which they were made; the one that was chosen is circled."""
    variants = _variants(table)
    figure, axes = plot.figure(width=6.8, height=3.4, columns=len(variants))
    looks = plot.looks(("repetition", "oracle"))
    for panel, variant in zip(axes, variants, strict=True):
        own = table[table["variant"] == variant].reset_index(drop=True)
        for arm, look in looks.items():
            part = own[own["arm"] == arm]
            panel.vlines(part.index, part["loss"], part["last_loss"], color=look.colour, linewidth=0.8)
            panel.plot(part.index, part["last_loss"], look.marker, color=look.colour, markerfacecolor="white")
            panel.plot(part.index, part["loss"], look.marker, color=look.colour, label=arm)
            best = part[part["chosen"]]
            panel.plot(best.index, best["loss"], "o", markersize=10, markerfacecolor="none", color=INK)
        panel.set_xticks(own.index, [_trial(row) for _, row in own.iterrows()], rotation=90, fontsize=6)
        panel.set_title(WORLDS[variant])
    axes[0].set_ylabel("test loss\n(nats/document)")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        title="filled: best checkpoint, hollow: last",
    )
    return figure


def _trial(row: pd.Series) -> str:
    return f"wd {row['weight_decay']:g}, drop {row['dropout']:g}, lr {row['learning_rate']:g}"


@plot.use_style()
def learning(table: pd.DataFrame, arms: tuple[str, ...] = ()) -> Figure:
    """Loss above Bayes against tokens, a panel per variant, bands over worlds and seeds. 0 is the law of the world itself."""
    chosen = table[table["arm"].isin(arms)] if arms else table
    variants = _variants(chosen)
    figure, axes = plot.figure(width=6.8, height=2.5, columns=len(variants))
    for panel, variant in zip(axes, variants, strict=True):
        own = chosen[chosen["variant"] == variant]
        own = own.assign(cell=own["world"].astype(str) + " " + own["seed"].astype(str), tokens=own["tokens"] / 1e3)
        plot.learning_curves(
            own, x="tokens", y="excess", seed="cell", x_label="tokens (thousands)", y_label=EXCESS, axes=panel
        )
        panel.set_title(WORLDS[variant])
        panel.set_yscale("log")
        low, high = own["excess"].min(), own["excess"].max()
        ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low / 1.3 < tick < high * 1.3]
        panel.yaxis.set_major_locator(FixedLocator(ticks))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    for panel in axes[1:]:
        panel.set_ylabel("")
    handles: dict[str, Line2D] = {}
    for panel in axes:
        handles |= {label: line for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


@plot.use_style()
def ends(table: pd.DataFrame) -> Figure:
    """Every arm's loss above Bayes at its best checkpoint (filled) and its last one (hollow): a point per world and seed."""
    variants = _variants(table)
    means = table.groupby(["variant", "arm", "world", "seed"])[["best", "last"]].mean().reset_index()
    order = list(pd.unique(table["arm"]))
    figure, axes = plot.figure(width=6.8, height=0.8 + 0.19 * len(order), columns=len(variants))
    for panel, variant in zip(axes, variants, strict=True):
        ends_of(panel, means[means["variant"] == variant], order)
        rows(panel, order, panel is axes[0])
        panel.set_xlim(left=0)
        panel.set_title(WORLDS[variant])
        panel.set_xlabel("loss above Bayes (nats/document)")
    return figure


def against(table: pd.DataFrame, reference: str = "repetition", column: str = "best") -> pd.DataFrame:
    """Every arm minus the reference, document by document: variant, arm, estimate, low, high (95 % bootstrap over cells and documents)."""
    found = []
    for variant in _variants(table):
        own = table[table["variant"] == variant]
        wide = own.pivot_table(index=["world", "seed", "document"], columns="arm", values=column)
        for arm in [name for name in pd.unique(own["arm"]) if name != reference]:
            value = (wide[arm] - wide[reference]).dropna()
            cell = value.index.get_level_values("world") * 1000 + value.index.get_level_values("seed")
            mean = stats.paired_bootstrap(value.to_numpy(), cell.to_numpy())
            ends = {"estimate": mean.estimate, "low": mean.low, "high": mean.high}
            found.append({"variant": variant, "arm": arm, **ends})
    return pd.DataFrame(found)


@plot.use_style()
def differences(table: pd.DataFrame) -> Figure:
    """The table of :func:`against`: left of 0 an arm is better than the best checkpoint of repetition."""
    variants = _variants(table)
    order = list(pd.unique(table["arm"]))
    figure, axes = plot.figure(width=6.8, height=0.8 + 0.19 * len(order), columns=len(variants))
    looks = plot.looks(order)
    for panel, variant in zip(axes, variants, strict=True):
        panel.axvline(0, color=INK, linewidth=0.8)
        for _, row in table[table["variant"] == variant].iterrows():
            look, place = looks[row["arm"]], order.index(row["arm"])
            panel.hlines(place, row["low"], row["high"], color=look.colour, linewidth=1.5)
            panel.plot(row["estimate"], place, look.marker, color=look.colour)
        rows(panel, order, panel is axes[0])
        panel.set_title(WORLDS[variant])
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
    variants = _variants(table)
    arms = [arm for arm in plot.style.FAMILIES if arm in set(table["arm"])]
    figure, axes = plot.figure(width=6.8, height=2.5, columns=len(variants))
    looks = plot.looks(arms)
    shares = published.loc[published["metric"] == "share of the oracle's gain (%)", "value"]
    for panel, variant in zip(axes, variants, strict=True):
        for share in shares:
            panel.axhline(share, color=GREY, linewidth=0.8, linestyle="--")
        panel.axhline(0, color=INK, linewidth=0.8)
        for place, arm in enumerate(arms):
            for shift, against, fill in ((-0.15, "last", "white"), (0.15, "best", looks[arm].colour)):
                own = table[(table["variant"] == variant) & (table["arm"] == arm) & (table["against"] == against)]
                panel.plot(
                    [place + shift] * len(own), own["share"], looks[arm].marker, color=looks[arm].colour, markerfacecolor=fill
                )  # fmt: skip
        panel.set_xticks(range(len(arms)), arms, rotation=90, fontsize=6)
        panel.set_title(WORLDS[variant])
        panel.set_ylim(top=max(110, panel.get_ylim()[1]))
        panel.set_xlim(-0.5, len(arms) - 0.5)
    axes[0].set_ylabel("share of the oracle's\ngain (%)")
    handles = [
        Line2D([], [], color=INK, marker="o", linestyle="", markerfacecolor="white", label="against the last checkpoint of repetition"),
        Line2D([], [], color=INK, marker="o", linestyle="", label="against its best"),
        Line2D([], [], color=GREY, linestyle="--", linewidth=0.8, label="paper, three scales"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
