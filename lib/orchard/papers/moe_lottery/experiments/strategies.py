"""Does the order of dropping and fine-tuning matter once the tokens are equal? Tables and evidence.

    strategies, strategies_units   every arm at every share s        scratch    the sizes that stay, trained from scratch
    saturation   loss against tokens at s = 75 %                     trainable  what learns between the rounds
    load         share of tokens of every expert at s = 50 %         agreement  the dropped sets at s = 50 %

The runs are those of `arms`. Losses are in nats per byte, on windows of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from orchard.evidence import Evidence, Tables, difference, of, paired, rows, together
from orchard.papers.moe_lottery.experiments.arms import (
    CRITERIA,
    HALF,
    MOST_STUDIED,
    SCRATCH,
    arms,
    level,
    rates,
    rates_of,
    small,
    ways,
)
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, Model, models
from orchard.papers.moe_lottery.runs.trajectory import LOTTERIES, NOTHING, RANDOM, Arm
from orchard.runs import Finished, Runner, Setting
from orchard.train import TrainLM

KEYS = ["model", "seed", "criterion"]


Trained = tuple[Model, int, TrainLM.Config, Finished]
Dropped = tuple[Model, Arm.Config, Finished]


def _finished(setting: Setting, run: Runner) -> tuple[list[Trained], list[Dropped]]:
    """Every model that was trained from scratch, the full one (round 0) and those of the sizes that rounds leave; and every run
    that drops experts, or fine-tunes the full model as a control."""
    best, sizes = rates_of(setting, run), PROFILES[setting.profile].arms
    chosen = models(setting)
    whole = [(model, 0, model.run) for model in chosen]
    if sizes.scratch:
        own = {model.name: best[model.name, SCRATCH] for model in chosen}
        whole += [(m, int(t), small(setting, m, int(t), rate)) for m in chosen for t, rate in own[m.name]]
    how = ways(setting, run, best)
    fewer = [(model, cfg) for model in chosen for cfg in arms(setting, model, best, how)]
    done = iter(run([*(cfg for *_, cfg in whole), *(cfg for _, cfg in fewer)]))  # in one batch, the longest first
    return [(*cell, next(done)) for cell in whole], [(*cell, next(done)) for cell in fewer]


def _about(model: Model, criterion: str) -> dict[str, Any]:
    shape = f"{model.shape.num_experts} experts, top {model.shape.top_k}"
    direction = "min" if criterion in CRITERIA else ""
    return {"model": model.name, "shape": shape, "seed": model.seed, "criterion": criterion, "direction": direction}


def _measured(setting: Setting, run: Runner) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Every model that was scored: its row of :func:`strategies`, and the loss of each of its test windows."""
    found: list[tuple[dict[str, Any], np.ndarray]] = []
    trained, dropped = _finished(setting, run)
    for model, t, cfg, done in trained:
        extra = (cfg.steps - model.run.steps) * cfg.batch_size * cfg.seq_len
        row = {"strategy": SCRATCH if t else "full", "s": level(t), "draw": 0, "tokens": extra}
        losses = done.tensors("eval")["nll"].double().mean(dim=1).numpy()
        found.append(({**_about(model, NOTHING), **row, "loss": done.result["loss"]}, losses))
    for model, arm, done in dropped:
        units = done.tensors("units")["loss"].numpy()
        for row, losses in zip(done.result["rows"], units, strict=True):
            own = {name: row[name] for name in ("strategy", "draw", "tokens", "loss")}
            found.append(({**_about(model, arm.criterion), "s": level(row["round"]), **own}, losses))
    return found


def strategies(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per model, criterion, strategy, s (%) and draw: tokens of fine-tuning, test loss (nats/byte)."""
    return pd.DataFrame([row for row, _ in _measured(setting, run)])


def strategies_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """As :func:`strategies`, a row per test window (`unit`): what intervals are computed from."""
    parts = [pd.DataFrame({**row, "unit": range(len(x)), "loss": x}) for row, x in _measured(setting, run)]
    return pd.concat(parts, ignore_index=True)


def scratch(setting: Setting, run: Runner) -> pd.DataFrame:
    """What gets to a size by dropping beside small models trained from scratch at it, with equal tokens in all: the rows of
    :func:`strategies` at the shares that have controls, `tokens` beyond pre-training, and the full model with as many."""
    table = strategies(setting, run)
    at = table.loc[table["strategy"] == "full_tokens", "s"].unique()
    names = ("small_scratch", "lottery", "one_shot_tokens", "iterative_tokens", "full_tokens")
    return table[table["s"].isin(at) & table["strategy"].isin(names)].reset_index(drop=True)


def trainable(setting: Setting, run: Runner) -> pd.DataFrame:
    """Lotteries in which all parameters learn, the router rows alone, or all but those; `one_shot` has no fine-tuning."""
    table = strategies(setting, run)
    names = ("one_shot", "iterative", *LOTTERIES[:3])
    return table[(table["criterion"] == MOST_STUDIED) & table["strategy"].isin(names)].reset_index(drop=True)


def saturation(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns model, strategy, tokens after the last drop, loss at s = 75 % (nats/byte), and `repair`, the share of what the most
    tokens repair: (loss at 0 - loss) / (loss at 0 - loss at the end)."""
    arms = _finished(setting, run)[1]
    rows = [{**_about(model, cfg.criterion), **row} for model, cfg, done in arms for row in done.result["saturation"]]
    table = pd.DataFrame(rows)
    by = table.groupby(["model", "strategy"])["loss"]
    start, end = by.transform("first", skipna=False), by.transform("last", skipna=False)
    return table.assign(repair=(start - table["loss"]) / (start - end))


def load(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per lottery, draw, layer and expert (number in the full model) at s = 50 %: its share of the tokens before and after
    the round's fine-tuning; with the layer's coefficients of variation (sd / mean) `cv_before` and `cv_after`."""
    parts = []
    for model, cfg, done in _finished(setting, run)[1]:
        for row in done.result["loads"]:
            before, after = np.array(row["before"]), np.array(row["after"])
            parts.append(pd.DataFrame({
                **_about(model, cfg.criterion), "strategy": row["strategy"], "draw": row["draw"], "layer": row["layer"],
                "expert": row["kept"], "before": before, "after": after,
                "cv_before": before.std() / before.mean(), "cv_after": after.std() / after.mean(),
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def dropped_sets(setting: Setting, run: Runner) -> pd.DataFrame:
    """What every strategy of a criterion drops: one row per model, criterion, strategy, s (%), layer and expert, `dropped`."""
    parts = []
    for model, cfg, done in _finished(setting, run)[1]:
        for row in done.result["rows"]:
            if cfg.criterion in CRITERIA and row["strategy"] in ("one_shot", "iterative", "lottery"):
                for layer, kept in enumerate(row["kept"]):
                    experts = np.arange(model.shape.num_experts)
                    parts.append(pd.DataFrame({
                        **_about(model, cfg.criterion), "strategy": row["strategy"], "s": level(row["round"]), "layer": layer,
                        "expert": experts, "dropped": ~np.isin(experts, kept),
                    }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def chance(experts: int, dropped: int) -> float:
    """Mean Jaccard index of two random sets of `dropped` of `experts`: i of them are common with the hypergeometric probability."""
    found = range(max(0, 2 * dropped - experts), dropped + 1)
    weights = [comb(dropped, i) * comb(experts - dropped, dropped - i) / comb(experts, dropped) for i in found]
    return sum(weight * i / (2 * dropped - i) for weight, i in zip(weights, found, strict=True))


def agreement(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`agreed` of what every strategy drops."""
    return agreed(dropped_sets(setting, run))


def agreed(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model, criterion, pair of strategies (`first`, `second`) and layer: Jaccard index of the dropped sets at
    s = 50 %, and `chance`, its mean for two random sets. From the table of :func:`dropped_sets`."""
    rows = []
    for keys, part in table[table["s"] == level(HALF)].groupby([*KEYS, "shape", "layer"], sort=False):
        sets = {name: set(x.loc[x["dropped"], "expert"]) for name, x in part.groupby("strategy", sort=False)}
        expected = chance(int(part["expert"].nunique()), len(sets["lottery"]))
        for first, second in combinations(sets, 2):
            jaccard = len(sets[first] & sets[second]) / len(sets[first] | sets[second])
            names = dict(zip([*KEYS, "shape", "layer"], keys, strict=True))
            rows.append({**names, "first": first, "second": second, "jaccard": jaccard, "chance": expected})
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "rates": rates, "strategies": strategies, "strategies_units": strategies_units, "scratch": scratch,
    "trainable": trainable, "saturation": saturation, "load": load, "dropped_sets": dropped_sets,
    "agreement": agreement,
}  # fmt: skip


def main_shape(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the shape that was trained with several seeds, the first one: intervals over seeds are about it."""
    return table[table["shape"] == table["shape"].iloc[0]]


def iterating(tables: Tables) -> pd.DataFrame:
    """M5: iterative minus one-shot at s >= 37.5 %, neither fine-tuned; a part per criterion."""
    units = main_shape(tables("strategies_units"))
    return together(_lower(units[units["s"] >= 37.5], name, "iterative", "one_shot") for name in CRITERIA)


def order(tables: Tables) -> pd.DataFrame:
    """M6: lottery minus one-shot with equal tokens; a part per criterion, and random dropping."""
    units = main_shape(tables("strategies_units"))
    return together(_lower(units, name, "lottery", "one_shot_tokens") for name in (*CRITERIA, RANDOM))


def _lower(units: pd.DataFrame, criterion: str, first: str, second: str) -> pd.DataFrame:
    """Loss of one strategy of a criterion minus that of another, window by window: mean over the draws of random dropping, then over
    the s at which both were measured."""
    own = units[(units["criterion"] == criterion) & units["strategy"].isin([first, second])]
    both = own.groupby("s")["strategy"].transform("nunique") == 2
    means = own[both].groupby(["strategy", "s", "seed", "unit"])["loss"].mean(skipna=False)
    if means.empty:
        return together([])
    return of((means[first] - means[second]).groupby(level=["seed", "unit"]).mean(skipna=False), criterion)


def repairing(tables: Tables) -> pd.DataFrame:
    """M7: lottery minus one-shot without tokens, for every model, criterion and s; random is the mean of its draws."""
    units = ["model", "criterion", "s"]
    return paired(tables("strategies"), "strategy", "lottery", "one_shot", units=units, value="loss", part="all")


def last_doubling(tables: Tables, full: bool = False) -> pd.DataFrame:
    """M8: the share of the repair that the last doubling of the tokens brings; a part per way to get to 75 %. Control: the `full`
    model, which has nothing to repair, in the place of both."""
    table = tables("saturation")
    if full:
        own = table[table["strategy"] == "full"]
        table = pd.concat([own.assign(strategy=name) for name in ("one_shot", "lottery")])
    by = table[table["strategy"] != "full"].groupby(["strategy", "model", "seed"], sort=False)["repair"]
    return of(by.apply(lambda repair: 1 - repair.iloc[-2]).rename_axis(["part", "unit", "seed"]))


def balance(tables: Tables, strategy: str = "lottery") -> pd.DataFrame:
    """M9: coefficient of variation of the load after fine-tuning minus before, every layer of every lottery. Control: of the full
    model, which lost nothing."""
    table = tables("load")
    layers = table[table["strategy"] == strategy].drop_duplicates(["model", "criterion", "draw", "layer"])
    keyed = layers.set_index(["seed", "model", "criterion", "draw", "layer"])
    return difference(keyed["cv_after"], keyed["cv_before"], "all")


def closer(tables: Tables) -> pd.DataFrame:
    """M10: Jaccard index of iterative and lottery minus that of one-shot and lottery, every layer; a part per criterion."""
    table = main_shape(tables("agreement")).rename(columns={"criterion": "part"})
    table = table[table["second"] == "lottery"]
    return paired(table, "first", "iterative", "one_shot", units=["part", "layer"], value="jaccard")


def above_chance(tables: Tables) -> pd.DataFrame:
    """M10b: Jaccard index minus chance, every layer; a part per criterion and pair with the lottery."""
    table = main_shape(tables("agreement"))
    table = table[table["second"] == "lottery"]
    part = table["criterion"] + ", " + table["first"] + " and lottery"
    return rows(part, table["seed"], table["layer"], table["jaccard"] - table["chance"])


def redrawn(table: pd.DataFrame, criteria: Sequence[str], first: str, second: str) -> pd.DataFrame:
    """One-shot dropping at random under other names, for controls: every second draw is called strategy `first`, the others `second`,
    and the draws are shared out among the `criteria`. What is left of a strategy is that its order was drawn anew."""
    own = table[(table["criterion"] == RANDOM) & (table["strategy"] == "one_shot")]
    pair = own["draw"] // 2
    return own.assign(
        strategy=np.where(own["draw"] % 2 == 0, first, second), criterion=np.array(criteria)[pair % len(criteria)],
        draw=pair,
    )  # fmt: skip


def drawn_anew(tables: Tables) -> pd.DataFrame:
    """Control of M5: an order that is drawn anew in the place of scores that are estimated anew."""
    units = redrawn(main_shape(tables("strategies_units")), CRITERIA, "iterative", "one_shot")
    return iterating(lambda name: units)


def estimated_anew(tables: Tables) -> pd.DataFrame:
    """Control of M6: all tokens after the last drop in both places; scores that are estimated anew in the place of the lottery, of
    random dropping the other half of the draws."""
    units = main_shape(tables("strategies_units"))
    at = units[units["strategy"].isin(["one_shot_tokens", "iterative_tokens"])]
    random = (at["criterion"] == RANDOM) & (at["draw"] % 2 == 0)
    at = at.assign(strategy=at["strategy"].mask(random, "lottery").replace("iterative_tokens", "lottery"))
    return order(lambda name: at)


def without_tuning(tables: Tables) -> pd.DataFrame:
    """Control of M7: rounds without fine-tuning in the place of the lottery; an order drawn anew, of random dropping. At 12.5 % there
    was one round, which is the same in both."""
    table = tables("strategies")
    anew = table[table["criterion"].isin(CRITERIA) & (table["s"] > 12.5)].replace(
        {"strategy": {"iterative": "lottery"}}
    )
    anew = anew[anew["strategy"].isin(["lottery", "one_shot"])]
    return repairing(lambda name: pd.concat([anew, redrawn(table, [RANDOM], "lottery", "one_shot")]))


def of_another_model(sets: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """The table of :func:`dropped_sets` with the sets of one strategy taken from the next model, whose experts are others."""
    models = list(sets["model"].unique())
    swapped = sets["strategy"] == strategy
    other = dict(zip(models, [*models[1:], models[0]], strict=True))
    keys = ["model", "criterion", "strategy", "s", "layer", "expert"]
    wanted = pd.MultiIndex.from_frame(sets.loc[swapped, keys].assign(model=sets["model"].map(other)))
    found = sets.copy()
    found.loc[swapped, "dropped"] = sets.set_index(keys)["dropped"].loc[wanted].to_numpy()
    return found


EVIDENCE: dict[str, Evidence] = {
    "M5": iterating, "M6": order, "M7": repairing, "M8": last_doubling, "M9": balance, "M10": closer,
    "M10b": above_chance,
}  # fmt: skip
CONTROLS: dict[str, Evidence] = {
    "M5": drawn_anew, "M6": estimated_anew, "M7": without_tuning, "M8": partial(last_doubling, full=True),
    "M9": partial(balance, strategy="full_tokens"),
    "M10": lambda tables: closer(lambda name: agreed(of_another_model(main_shape(tables("dropped_sets")), "iterative"))),
    "M10b": lambda tables: above_chance(
        lambda name: agreed(of_another_model(main_shape(tables("dropped_sets")), "lottery"))
    ),
}  # fmt: skip
