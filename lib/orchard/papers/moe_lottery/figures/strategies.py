"""Figures of 04_lottery: what the order of dropping and fine-tuning is worth, what is dropped, how load and repair change.

Losses are in nats per byte of test text. Intervals are 95 % bootstrap intervals over test windows, within draws of random dropping
and seeds of training, and over those.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from orchard import plot
from orchard.papers.moe_lottery.experiments.strategies import main_shape as _main
from orchard.papers.moe_lottery.figures.training import headline, roomy, shared_legend
from orchard.plot.style import COLUMN, GREY, INK, PALETTE, Look
from orchard.stats import paired_bootstrap

WIDE = 2 * COLUMN
STRATEGY_NAMES = {
    "one_shot": "one-shot", "iterative": "iterative", "lottery": "lottery", "one_shot_tokens": "one-shot + equal tokens",
    "iterative_tokens": "iterative + equal tokens", "full_tokens": "full model + equal tokens", "full": "full model",
    "small_scratch": "small model from scratch", "lottery_router": "router rows learn",
    "lottery_frozen_router": "all but router rows learn",
    "lottery_balanced": "with load-balance loss",
}  # fmt: skip
LOOKS = {
    "one_shot": Look(PALETTE[1], "s"), "iterative": Look(PALETTE[2], "^"), "lottery": Look(PALETTE[0], "o"),
    "one_shot_tokens": Look(PALETTE[3], "D"), "iterative_tokens": Look(PALETTE[4], "v"), "full_tokens": Look(INK, "x"),
    "full": Look(INK, "*"),
}  # fmt: skip
CRITERIA = {"random": "random", "ean": "activation norm (EAN)", "ege": "gradient entropy (EGE)"}
SETS = {"both": PALETTE[0], "the first alone": PALETTE[1], "the second alone": PALETTE[9], "neither": "#efefef"}


def _each(rows: pd.DataFrame, by: str = "s") -> pd.Series:
    """The loss at every s: of every draw of random dropping (the mean over models), else of every model."""
    return rows.groupby([by, "draw" if rows["draw"].nunique() > 1 else "seed"])["loss"].mean().droplevel(1)


@plot.use_style()
def strategy_curves(table: pd.DataFrame) -> Figure:
    """Test loss against the share of experts dropped, a panel per criterion: strategies as lines, controls with the lottery's tokens
    as single points, the full model as horizontal line; below, what was fine-tuned on a scale of its own. Dots are draws (random) or
    models."""
    rows = _main(table)
    shown = [name for name in CRITERIA if name in set(rows["criterion"])]
    made, panels = plot.figure(WIDE, 4.2, rows=2, columns=len(shown))
    above, below = panels[: len(shown)], panels[len(shown) :]
    full = rows.loc[rows["strategy"] == "full", "loss"].mean()
    for name, axes in zip([*shown, *shown], [*_shared(above), *_shared(below)], strict=True):
        axes.axhline(full, color=INK, linewidth=0.8, linestyle=":", label=STRATEGY_NAMES["full"])
        for strategy, look in list(LOOKS.items())[:-1]:
            own = "none" if strategy == "full_tokens" else name
            part = rows[(rows["criterion"] == own) & (rows["strategy"] == strategy)]
            if not part.empty:
                _line(axes, _each(part), look, STRATEGY_NAMES[strategy], joined=not strategy.endswith("_tokens"))
        axes.set_title(CRITERIA[name] + (", fine-tuned" if axes in below else ""))
        axes.set_xlabel("experts dropped, s (%)" if axes in below else "")
        axes.xaxis.set_major_locator(FixedLocator([12.5, 25, 37.5, 50, 62.5, 75]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    tuned = rows.loc[rows["strategy"].isin(["lottery", "full_tokens"]), "loss"]
    margin = 0.08 * (tuned.max() - tuned.min())
    below[0].set_ylim(tuned.min() - margin, tuned.max() + margin)
    for axes in (above[0], below[0]):
        axes.set_ylabel("test loss (nats/byte)")
    shared_legend(made, panels, 4)
    last = rows[rows["s"] == rows["s"].max()].groupby(["criterion", "strategy"])["loss"].mean()
    ends = [f"{_short(name)} {last[name, 'lottery']:.2f} and {last[name, 'one_shot_tokens']:.2f}" for name in shown]
    return headline(made, f"at s = {rows['s'].max():g} %, lottery and one-shot + equal tokens: {', '.join(ends)}")


def _shared(panels: list[Axes]) -> list[Axes]:
    """The panels, with the first one's vertical axis."""
    for axes in panels[1:]:
        axes.sharey(panels[0])
    return panels


def _short(criterion: object) -> str:
    return "random" if criterion == "random" else str(criterion).upper()


def _line(axes: Axes, each: pd.Series, look: Look, label: str, joined: bool) -> None:
    """Means over draws or models, and a dot for each."""
    means = each.groupby(level=0).mean()
    axes.plot(each.index, each, "o", color=look.colour, markersize=2, alpha=0.4)
    line = "-" if joined else "none"
    axes.plot(means.index, means, color=look.colour, marker=look.marker, linestyle=line, label=label)


def differences(units: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Loss of strategy `first` minus that of `second` with its interval, for every criterion and s where both were measured:
    columns criterion, s, label, effect, low, high, draws, wins (draws, or models, in which `first` has the lower loss), and the effects
    of the single `models`."""
    index = ["criterion", "s", "seed", "draw", "unit"]
    rows = _main(units)
    rows = rows[rows["strategy"].isin((first, second))]
    values = rows.set_index([*index, "strategy"])["loss"].unstack("strategy").dropna()
    found = []
    gaps = (values[first] - values[second]).rename("gap").reset_index()
    for (criterion, s), part in gaps.groupby(["criterion", "s"]):
        groups = part.groupby(["seed", "draw"])["gap"]
        interval = paired_bootstrap(part["gap"].to_numpy(), groups.ngroup().to_numpy())
        found.append({
            "criterion": criterion, "s": s, "label": f"{_short(criterion)}, {s:g} %", "effect": interval.estimate, "low": interval.low,
            "high": interval.high, "draws": groups.ngroups, "wins": int((groups.mean() < 0).sum()),
            "models": part.groupby("seed")["gap"].mean().tolist(),
        })  # fmt: skip
    table = pd.DataFrame(found)
    place = table["criterion"].map(list(CRITERIA).index)
    return table.assign(place=place).sort_values(["place", "s"]).drop(columns="place")


@plot.use_style()
def order_matters(effects: pd.DataFrame, further: float) -> Figure:
    """What the lottery gains, on the left over one-shot as the paper compares, on the right over one-shot with equal tokens, at the
    shares that both have. `effects`: the two tables of :func:`differences`, told apart by the column `against`. The dotted line is
    `further`, what the full model gains by the same tokens."""
    kinds = ("one_shot", "one_shot_tokens")
    parts = {kind: effects[effects["against"] == kind] for kind in kinds}
    common = set(parts[kinds[0]]["label"]) & set(parts[kinds[1]]["label"])
    parts = {kind: part[part["label"].isin(common)] for kind, part in parts.items()}
    made, panels = plot.figure(WIDE, 0.9 + 0.23 * len(common), columns=2)
    roomy(made)
    for (kind, part), axes in zip(parts.items(), panels, strict=True):
        plot.forest(part, x_label="lottery − other (nats/byte)", axes=axes)
        for place, effects_of in enumerate(part["models"]):
            axes.plot(effects_of, [place + 0.22] * len(effects_of), "o", color=INK, markersize=1.8, label="one model")
        axes.axvline(further, color=GREY, linestyle=":", linewidth=0.9, label="full model, with − without the tokens")
        axes.set_title(f"against {STRATEGY_NAMES[kind]}" + ("" if kind.endswith("tokens") else ", not fine-tuned"))
    shared_legend(made, panels)
    better = [f"{(part['high'] < 0).sum()} of {len(part)}" for part in parts.values()]
    return headline(
        made,
        f"the lottery is better (below 0) in {better[0]} on the left, in {better[1]} with equal tokens on the right",
    )


@plot.use_style()
def agreement_maps(sets: pd.DataFrame, s: float = 50.0) -> Figure:
    """Layer by expert, a row per criterion and a panel per pair of strategies: dropped by both, by the first or the second alone, by
    neither (Figure 5)."""
    rows = _main(sets)
    rows = rows[(rows["s"] == s) & (rows["seed"] == rows["seed"].iloc[0])]
    kinds = [name for name in CRITERIA if name in set(rows["criterion"])]
    pairs = (("one_shot", "lottery"), ("iterative", "lottery"), ("one_shot", "iterative"))
    height = (0.75 + 0.11 * rows["layer"].nunique()) * len(kinds) + 0.4
    made, panels = plot.figure(WIDE, height, rows=len(kinds), columns=3)
    cells = [(kind, pair) for kind in kinds for pair in pairs]
    for (kind, (first, second)), axes in zip(cells, panels, strict=True):
        part = rows[rows["criterion"] == kind].pivot(index=["layer", "expert"], columns="strategy", values="dropped")
        code = 3 - 2 * part[first].astype(int) - part[second]  # place in SETS: both, the first, the second, neither
        seaborn.heatmap(code.unstack("expert"), ax=axes, cmap=list(SETS.values()), vmin=-0.5, vmax=3.5, cbar=False)
        axes.tick_params(axis="y", rotation=0)
        axes.set(title=f"{_short(kind)}: {STRATEGY_NAMES[first]} and {STRATEGY_NAMES[second]}")
    handles = [Patch(color=colour, label=name) for name, colour in SETS.items()]
    made.legend(handles=handles, loc="outside lower center", ncols=4, title=f"dropped by, s = {s:g} %")
    gone = (
        _main(sets)
        .query("s == @s")
        .pivot(index=["model", "criterion", "layer", "expert"], columns="strategy", values="dropped")
    )
    alike = [f"{STRATEGY_NAMES[a]} and {STRATEGY_NAMES[b]} {(gone[a] == gone[b]).mean():.0%}" for a, b in pairs]
    return headline(made, f"experts treated alike, all models: {', '.join(alike)} (maps: seed {rows['seed'].iloc[0]})")


@plot.use_style()
def load_curves(table: pd.DataFrame, criterion: str = "ean") -> Figure:
    """Share of the tokens of every expert that is left at s = 50 %, most used first, in up to three layers: before and after the
    round's fine-tuning, and after it with the load-balance loss on (Figure 6). Dashed: an even load."""
    rows = _main(table)
    rows = rows[(rows["criterion"] == criterion) & (rows["seed"] == rows["seed"].iloc[0])]
    layers = sorted(rows["layer"].unique())
    shown = layers if len(layers) <= 3 else [layers[0], layers[len(layers) // 2], layers[-1]]
    made, panels = plot.figure(WIDE, 2.2, columns=len(shown))
    curves = (
        ("lottery", "before", "before fine-tuning", LOOKS["one_shot"], "--"),
        ("lottery", "after", "after", LOOKS["lottery"], "-"),
        ("lottery_balanced", "after", "after, with load-balance loss", LOOKS["iterative"], "-"),
    )
    for layer, axes in zip(shown, _shared(panels), strict=True):
        for strategy, column, label, look, line in curves:
            shares = np.sort(rows.loc[(rows["layer"] == layer) & (rows["strategy"] == strategy), column])[::-1]
            axes.plot(range(1, len(shares) + 1), 100 * shares, line, color=look.colour, marker=look.marker, label=label)
        axes.axhline(100 / max(1, len(shares)), color=INK, linestyle=":", linewidth=0.8, label="even")
        axes.set(title=f"layer {layer}", xlabel="expert, most used first")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("share of the choices (%)")
    shared_legend(made, panels, 4)
    lottery = _main(table).query("strategy == 'lottery'").drop_duplicates(["model", "criterion", "draw", "layer"])
    even = f"{(lottery['cv_after'] < lottery['cv_before']).sum()} of {len(lottery)} layers of all lotteries"
    return headline(
        made, f"more even after fine-tuning: {even} (curves: {_short(criterion)}, seed {rows['seed'].iloc[0]})"
    )


@plot.use_style()
def saturation(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Test loss at s = 75 % against tokens of fine-tuning after the last drop (log2 axis), the loss before any in the legend; the paper's
    Table 5 on its own axes, since tokens and losses have other sizes there: compare the shapes."""
    rows = _main(table)
    made, panels = plot.figure(WIDE, 2.7, columns=2)
    roomy(made)
    for strategy, part in rows.groupby("strategy", sort=False):
        look, each = LOOKS[str(strategy)], _each(part.assign(draw=0), "tokens")
        label = {"one_shot": "dropped at once", "lottery": "last round of the lottery", "full": "full model"}[
            str(strategy)
        ]
        tuned = each[each.index > 0]
        tuned.index = tuned.index / 1e3
        _line(panels[0], tuned, look, f"{label} ({each.loc[0].mean():.2f} at 0 tokens)", joined=True)
    panels[0].set(ylabel="test loss (nats/byte)", title="here")
    paper = published[published["table"] == "Table 5"]
    thousands = paper["arm"].str.extract(r"([\d.]+) million")[0].astype(float) * 1e3
    for (model, part), marker, line in zip(paper.groupby("model", sort=False), "os", ("-", "--"), strict=True):
        panels[1].plot(
            thousands[part.index], np.log(part["value"].astype(float)), color=GREY, marker=marker, markerfacecolor="white",
            linestyle=line, label=f"Mixtral-8x7B {model} (paper)",
        )  # fmt: skip
    panels[1].set(ylabel="C4 loss (nats/token)", title="Table 5 of the paper")
    for axes, ticks in zip(panels, (rows.loc[rows["tokens"] > 0, "tokens"] / 1e3, thousands), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens of fine-tuning (thousands)")
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value < 1000 else f"{value:.0f}")
    shared_legend(made, panels, 2)
    ends = (
        rows[rows["strategy"] != "full"].groupby(["strategy", "tokens"], sort=False)["loss"].mean().groupby("strategy")
    )
    falls = [f"{STRATEGY_NAMES[str(name)]} {loss.iloc[-2] - loss.iloc[-1]:.3f}" for name, loss in ends]
    return headline(made, f"the last doubling of the tokens still brings, in nats/byte: {', '.join(falls)}")


@plot.use_style()
def same_size(table: pd.DataFrame) -> Figure:
    """Test loss of models of one size with equal tokens in all: dropped to it in four ways, or trained from scratch at it. A dot is a
    draw or a model, a bar their mean. The full model, with as many tokens, is larger."""
    rows = _main(table)
    which = rows["criterion"].map(lambda name: "" if name == "none" else f"{_short(name)}: ")
    rows = rows.assign(arm=which + rows["strategy"].map(STRATEGY_NAMES))
    made, panels = plot.figure(COLUMN if rows["s"].nunique() == 1 else WIDE, 2.9, columns=rows["s"].nunique())
    for (s, part), axes in zip(rows.groupby("s"), panels, strict=True):
        means = part.groupby("arm")["loss"].mean().sort_values()
        for place, arm in enumerate(means.index):
            losses = part.loc[part["arm"] == arm, "loss"]
            around = place + np.linspace(-0.2, 0.2, len(losses))
            axes.plot(losses, around, "o", color=PALETTE[0], alpha=0.5, markersize=3)
        axes.plot(means, range(len(means)), "|", color=INK, markersize=11)
        axes.set_yticks(range(len(means)), list(means.index))
        axes.set_ylim(len(means) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.set(title=f"s = {s:g} %", xlabel="test loss (nats/byte)", ylabel="")
    roomy(made)
    at = rows[rows["s"] == rows["s"].max()].groupby("strategy")["loss"].mean()
    order = [
        f"{STRATEGY_NAMES[name]} {at[name]:.2f}"
        for name in ("small_scratch", "one_shot_tokens", "lottery")
        if name in at
    ]
    return headline(made, f"s = {rows['s'].max():g} %, mean over criteria: {', '.join(order)} nats/byte")


def beside_table_2(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Increase of the loss over the full model by s: of Mixtral-8x7B Base, log perplexity on C4 in nats per token (Table 2), and
    ours, in nats per byte. Rows s; columns who, criterion, strategy. The paper has no control with equal tokens."""
    paper = published[(published["table"] == "Table 2") & (published["s"] > 0)].copy()
    base = published.query("arm == 'full model' and model == 'Base' and metric == 'C4 perplexity'")
    full = float(base["value"].iloc[0])
    words = paper["arm"].str.rsplit(" ", n=1, expand=True)
    paper["criterion"], paper["strategy"] = words[0].str.split().str[0], words[1]
    paper["rise"] = np.log(paper["value"].astype(float) / full)
    rows = _main(table)
    rows = rows[rows["strategy"].isin(("one_shot", "iterative", "lottery")) & (rows["criterion"] != "none")]
    rise = rows["loss"] - _main(table).loc[lambda own: own["strategy"] == "full", "loss"].mean()
    here = rows.assign(rise=rise, strategy=rows["strategy"].map(STRATEGY_NAMES))
    columns = ["who", "criterion", "strategy", "s", "rise"]
    both = pd.concat([paper.assign(who="paper")[columns], here.assign(who="here")[columns]])
    wide = both.pivot_table(index="s", columns=columns[1:3] + columns[:1], values="rise")
    return wide.sort_index(axis=1, ascending=[True, False, False])
