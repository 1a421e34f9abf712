"""MC-Suite on the models of the series: which runs, the tables they give, and the evidence of M1 to M4 and M14.

A criterion is judged in two ways, always beside random dropping and beside the oracle: how its scores rank the experts of a layer
compared with leaving each one out (Spearman's rho), and what the loss is after its worst experts are gone (curves over the share s
of dropped experts). Losses are nats per byte. In evidence a model is what a bootstrap resamples first, so that `seed` is its name;
models of all shapes of a profile count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from orchard.evidence import Evidence, Tables, difference, rows, together
from orchard.papers.moe_lottery.experiments import ranks
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, Model, SuiteSize, models
from orchard.papers.moe_lottery.experiments.ranks import LEAVE_ONE_OUT, group_of
from orchard.papers.moe_lottery.method.criteria import CRITERIA, PAPER
from orchard.papers.moe_lottery.method.models import ROUNDS
from orchard.papers.moe_lottery.method.oracle import regret
from orchard.papers.moe_lottery.runs.suite import (
    DIRECTIONS,
    Curves,
    LeaveOneOut,
    Measure,
    References,
    Subsets,
    increase,
)
from orchard.runs import Finished, Runner, Setting

SHARES = [100 * level / 8 for level in range(1, ROUNDS + 1)]  # s, in per cent
SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Study:
    """The runs about one model by name: "measure"; "test" and "validation", which leave one out; "min" and "max", the curves;
    "references"; and "subsets", where an eighth of a layer can be chosen in few enough ways."""

    model: Model
    runs: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The columns that name the model."""
        return {"model": self.model.name, "seed": self.model.seed}


def studies(setting: Setting) -> list[Study]:
    """The runs of a setting, model by model."""
    profile, size, made = PROFILES[setting.profile], PROFILES[setting.profile].suite, []
    windows = dict(zip(SPLITS, size.curves, strict=True))
    for model in models(setting):
        runs: dict[str, Any] = {
            "measure": Measure.Config(
                model=model.run, windows=profile.calibration, sizes=list(size.samples), label=f"scores, {model.name}"
            )
        }
        for split, count in zip(SPLITS, size.leave_one_out, strict=True):
            label = f"leave one out ({split}), {model.name}"
            runs[split] = LeaveOneOut.Config(model=model.run, split=split, windows=count, label=label)
        for direction in DIRECTIONS:
            label = f"curves ({direction}), {model.name}"
            runs[direction] = Curves.Config(measure=runs["measure"], direction=direction, label=label, **windows)
        runs["references"] = References.Config(
            measure=runs["measure"], leave_one_out=runs["validation"], draws=profile.draws, reconstruction=size.reconstruction,
            label=f"references, {model.name}", **windows,
        )  # fmt: skip
        made.append(Study(model, runs | _subsets(model, profile.num_layers, size)))
    return made


def _subsets(model: Model, layers: int, size: SuiteSize) -> dict[str, Subsets.Config]:
    """The middle layer, and the largest share of it, up to a half, whose subsets are not too many; nothing if all are."""
    n = model.shape.num_experts
    fits = [drop for drop in range(n // 8, n // 2 + 1, n // 8) if comb(n, drop) <= size.subsets]
    if not fits:
        return {}
    return {"subsets": Subsets.Config(
        model=model.run, layer=layers // 2, drop=max(fits), windows=size.subset_windows, reconstruction=size.reconstruction,
        label=f"subsets, {model.name}",
    )}  # fmt: skip


def _finished(setting: Setting, run: Runner, *names: str) -> list[tuple[Study, dict[str, Finished]]]:
    """Every study with its finished runs of these names, asked for in one batch."""
    asked = [(study, [name for name in names if name in study.runs]) for study in studies(setting)]
    done = iter(run([study.runs[name] for study, own in asked for name in own]))
    return [(study, {name: next(done) for name in own}) for study, own in asked]


def _long(values: Tensor, column: str, axes: Sequence[str]) -> pd.DataFrame:
    """A row for every element of a tensor: its place along each axis, and its value."""
    places = (place.ravel() for place in np.indices(tuple(values.shape)))
    return pd.DataFrame({**dict(zip(axes, places, strict=True)), column: values.flatten().numpy()})


EXPERT = ["layer", "expert"]


def leave_one_out(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, layer, expert, split, domain ("all" and each): increase of the loss without the expert and its standard error over
    windows (nats/byte). `shuffled` is the increase after the experts were shuffled in every window, so that it is nobody's own."""
    tables = []
    for study, done in _finished(setting, run, *SPLITS):
        for split, finished in done.items():
            losses, names = finished.tensors("losses"), finished.result["domains"]
            more, size = losses["without"] - losses["full"], losses["bytes"].double()
            mean = torch.cat([more.sum(dim=(2, 3))[..., None] / size.sum(), more.sum(dim=2) / size.sum(dim=0)], dim=-1)
            window = increase(losses)
            error = torch.full_like(mean, torch.nan)
            error[..., 0] = window.std(dim=-1) / window.shape[-1] ** 0.5
            nobody = torch.full_like(mean, torch.nan)
            order = torch.rand(window.flatten(0, 1).shape, generator=torch.Generator().manual_seed(0)).argsort(dim=0)
            nobody[..., 0] = window.flatten(0, 1).gather(0, order).mean(dim=-1).view(mean.shape[:2])
            columns = {"error": error.flatten().numpy(), "shuffled": nobody.flatten().numpy()}
            table = _long(mean, "increase", [*EXPERT, "domain"]).assign(**columns)
            table["domain"] = np.array(["all", *names])[table["domain"]]
            tables.append(table.assign(**study.facts, split=split))
    return pd.concat(tables, ignore_index=True)


def importance(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, group, layer, expert: the score, and the increase of the loss without the expert (test and validation)."""
    tables = []
    for study, done in _finished(setting, run, "measure", *SPLITS):
        cost = {split: increase(done[split].tensors("losses")).mean(dim=-1) for split in SPLITS}
        scores = done["measure"].tensors("scores")
        values = {name: scores[name] for name in CRITERIA} | {LEAVE_ONE_OUT: cost["validation"]}
        for name, own in values.items():
            table = _long(own, "score", EXPERT).assign(increase=cost["test"].flatten().numpy())
            tables.append(table.assign(**study.facts, criterion=name, group=group_of(name)))
    return pd.concat(tables, ignore_index=True)


def criteria_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, group, direction, budget ("per layer", "all layers"), draw, s (%), split: loss (nats/byte). Beside the
    criteria: "full" (s = 0), "random" (a draw each), "leave_one_out", "naee"."""
    return _curves(setting, run).drop(columns="losses")


def criteria_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, group, direction, budget, draw, unit (a test window): mean over s of its loss (nats/byte)."""
    table = _curves(setting, run)
    table = table[(table["split"] == "test") & (table["criterion"] != "full")]
    keys = ["model", "seed", "criterion", "group", "direction", "budget", "draw"]
    rows = []
    for names, part in table.groupby(keys, sort=False):
        values = np.mean(np.stack(part["losses"].tolist()), axis=0)
        own = dict(zip(keys, names, strict=True))
        rows.append(pd.DataFrame({**own, "unit": np.arange(len(values)), "value": values}))
    return pd.concat(rows, ignore_index=True)


def _curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`criteria_curves` with the losses of every window."""
    rows: list[dict[str, Any]] = []
    for study, done in _finished(setting, run, *DIRECTIONS, "references"):
        for (kind, finished), split in product(done.items(), SPLITS):
            tensors = finished.tensors(split)
            size = tensors.pop("bytes").sum(dim=1)
            for name, losses in tensors.items():
                own = {**study.facts, **_curve(name, kind if kind in DIRECTIONS else ""), "split": split}
                shares = [0.0] if name == "full" else SHARES
                windows = (losses.sum(dim=-1) / size).numpy()
                rows += [{**own, "s": s, "losses": window} for s, window in zip(shares, windows, strict=False)]
    return pd.DataFrame(rows).assign(loss=lambda rows: rows["losses"].map(np.mean))


def _curve(name: str, direction: str) -> dict[str, Any]:
    """The columns that name a curve, from its key in the files of `Curves` and `References`."""
    first, _, second = name.partition(" ")
    criterion, budget = (second, "all layers") if first == "global" else (first, "per layer")
    direction = direction or ("" if first in ("random", "full") else "min")
    draw = int(second) if first == "random" else 0
    names = {"criterion": criterion, "group": group_of(criterion), "direction": direction}
    return {**names, "budget": budget, "draw": draw}


def dropped_experts(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, direction, layer, expert: the round in which the expert goes (1 ... 6), 0 if it stays."""
    tables = []
    for study, done in _finished(setting, run, "measure"):
        shape = study.model.shape
        for key, order in done["measure"].tensors("orders").items():
            name, direction = key.split(" ")
            goes = torch.zeros(len(order), shape.num_experts, dtype=torch.int64)
            rounds = torch.arange(order.shape[1]) // shape.per_round + 1
            goes.scatter_(1, order, rounds.expand_as(order))
            tables.append(_long(goes, "round", EXPERT).assign(**study.facts, criterion=name, direction=direction))
    return pd.concat(tables, ignore_index=True)


def specialisation(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, layer, expert, domain: share of the domain's routed tokens that the expert got; load and vocabulary coverage of the
    expert. Shares of a domain sum to one."""
    tables = []
    for study, done in _finished(setting, run, "measure"):
        tensors, names = done["measure"].tensors("usage"), done["measure"].result["domains"]
        counts = ranks.by_domain(tensors["routed"], tensors["domain"], len(names))
        load = counts.sum(dim=2) / counts.sum(dim=(1, 2))[:, None]
        coverage = (tensors["seen"] > 0).double().mean(dim=2)
        by_expert = _long(load, "load", EXPERT).assign(coverage=coverage.flatten().numpy())
        shares = _long(counts / counts.sum(dim=1, keepdim=True), "share", [*EXPERT, "domain"])
        table = shares.merge(by_expert, on=EXPERT)
        table["domain"] = np.array(names)[table["domain"]]
        tables.append(table.assign(**study.facts))
    return pd.concat(tables, ignore_index=True)


def router(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, layer: variation of the load, entropy of the router (nats), and the information that the choice of an expert carries
    about the domain of the token (bits), beside the same with the documents' domains shuffled, which is chance."""
    tables = []
    for study, done in _finished(setting, run, "measure"):
        result, tensors = done["measure"].result, done["measure"].tensors("usage")

        def bits(domain: Tensor, routed: Tensor = tensors["routed"], names: int = len(result["domains"])) -> Tensor:
            return ranks.information(ranks.by_domain(routed, domain, names))

        domain = tensors["domain"]
        chance = torch.stack([bits(ranks.shuffled(domain, draw)) for draw in range(20)]).mean(dim=0)
        table = pd.DataFrame(result["router"])[["layer", "variation", "entropy", "mass"]]
        found = {"information": bits(domain).numpy(), "information by chance": chance.numpy()}
        tables.append(table.assign(**study.facts, **found)[[*study.facts, *table.columns, *found]])
    return pd.concat(tables, ignore_index=True)


def stability(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, group, windows, layer: rank correlation of the scores from two disjoint calibration samples."""
    tables = []
    for study, done in _finished(setting, run, "measure"):
        for key, halves in done["measure"].tensors("halves").items():
            name, windows = key.split(" ")
            table = pd.DataFrame({"rho": ranks.correlations(*halves.numpy())}).rename_axis("layer").reset_index()
            tables.append(table.assign(**study.facts, criterion=name, group=group_of(name), windows=int(windows)))
    return pd.concat(tables, ignore_index=True)


def subset_regret(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, layer, criterion, group, direction: loss without the experts that it drops from one layer (nats/byte), and the regret:
    0 is the best of all sets of that size, 1 their mean, which is random dropping."""
    rows = []
    for study, done in _finished(setting, run, "subsets", "measure", "validation"):
        if "subsets" not in done:
            continue
        cfg, sets = study.runs["subsets"], done["subsets"].tensors("sets")
        kept = [tuple(own) for own in sets["kept"].tolist()]
        table = pd.DataFrame({"kept": kept, "loss": sets["losses"].numpy()})
        orders = {key: order[cfg.layer] for key, order in done["measure"].tensors("orders").items()}
        cost = increase(done["validation"].tensors("losses")).mean(dim=-1)[cfg.layer]
        orders[f"{LEAVE_ONE_OUT} min"] = cost.argsort(stable=True)
        experts = set(range(study.model.shape.num_experts))
        chosen = {key: sorted(experts - set(order[: cfg.drop].tolist())) for key, order in orders.items()}
        chosen["naee min"] = list(kept[int(sets["errors"].argmin())])
        room = table["loss"].mean() - table["loss"].min()
        for key, own in chosen.items():
            name, direction = key.split(" ")
            above = regret(table, own)
            rows.append({
                **study.facts, "layer": cfg.layer, "drop": cfg.drop, "criterion": name, "group": group_of(name),
                "direction": direction, "loss": table["loss"].min() + above, "regret": above / room,
            })  # fmt: skip
    return pd.DataFrame(rows)


def spearman(setting: Setting, run: Runner) -> pd.DataFrame:
    """Model, criterion, group, layer: rank correlation of the score with the increase of the test loss without the expert. The
    criterion "leave_one_out" is the increase on validation text: as high as a criterion can be expected to get."""
    return ranks.by_layer(importance(setting, run))


def trust(setting: Setting, run: Runner) -> pd.DataFrame:
    """Criterion, group: mean of :func:`spearman` over layers and models with a 95 % interval, and "random", its range by chance."""
    return ranks.pooled(importance(setting, run))


def agreement_of_criteria(setting: Setting, run: Runner) -> pd.DataFrame:
    """Two criteria: rank correlation of their scores, mean over layers and models."""
    return ranks.between(importance(setting, run))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "leave_one_out": leave_one_out, "importance": importance, "spearman": spearman, "trust": trust,
    "agreement_of_criteria": agreement_of_criteria, "criteria_curves": criteria_curves,
    "criteria_units": criteria_units, "dropped_experts": dropped_experts, "specialisation": specialisation,
    "router": router, "stability": stability, "subset_regret": subset_regret,
}  # fmt: skip


@lru_cache
def ratio_by_chance(experts: int) -> float:
    """What the largest of so many costs divided by the median one stays below in 95 of 100 cases, where all costs are independent draws
    from one exponential law: experts that differ by luck alone."""
    costs = np.random.default_rng(0).exponential(size=(20_000, experts))
    return float(np.quantile(costs.max(axis=1) / np.median(costs, axis=1), 0.95))


def unequal(tables: Tables, column: str = "increase") -> pd.DataFrame:
    """M1: largest increase over the median one, test split, every model, divided by what chance gives as many experts; infinite where
    the median expert costs nothing. Control: `column` "shuffled"."""
    table = tables("leave_one_out")
    found = table[(table["split"] == "test") & (table["domain"] == "all")].groupby("model", sort=False)[column]
    most, middle = found.max(skipna=False), found.median(skipna=False)
    ratio = np.where(middle > 0, most / middle, np.where(most > 0, np.inf, np.nan))
    return rows("all models", most.index, 0, ratio / found.size().map(ratio_by_chance))


def best_of(curves: pd.DataFrame, groups: tuple[str, ...]) -> pd.DataFrame:
    """Model, criterion, direction with the lowest mean loss over s on validation text, among the paper's criteria of some groups."""
    own = curves[(curves["split"] == "validation") & curves["group"].isin(groups) & curves["criterion"].isin(PAPER)]
    own = own[own["budget"] == "per layer"]
    area = own.groupby(["model", "criterion", "direction"], sort=False)["loss"].mean().reset_index()
    return area.loc[area.groupby("model", sort=False)["loss"].idxmin()].drop(columns="loss").reset_index(drop=True)


def _area(units: pd.DataFrame, criterion: str, direction: str) -> pd.Series:
    """Mean loss over s of every model and window; of random dropping, the mean over its draws."""
    own = units.query("criterion == @criterion and direction == @direction and budget == 'per layer'")
    return own.groupby(["model", "unit"])["value"].mean(skipna=False).rename_axis(["seed", "unit"])


def beats_random(tables: Tables) -> pd.DataFrame:
    """M2: EAN and EGE, smallest first, minus the mean of the random draws; the best criterion of activations or gradients minus the
    best of weights or usage, each chosen for its model on validation text."""
    units, curves = tables("criteria_units"), tables("criteria_curves")
    random = _area(units, "random", "")
    parts = [difference(_area(units, name, "min"), random, f"Min-{name.upper()} − random") for name in ("ean", "ege")]
    chosen = []
    for groups in (("activation", "gradient"), ("weight", "inference")):
        best = best_of(curves, groups).to_numpy().tolist()
        areas = [_area(units[units["model"] == model], *which) for model, *which in best]
        chosen.append(pd.concat([random.iloc[:0], *areas]))
    return together([*parts, difference(chosen[0], chosen[1], "best activation or gradient − best weight or usage")])


def drawn(tables: Tables) -> Tables:
    """The tables of the curves with random orders in the place of criteria, for controls: of EAN and EGE, which see outputs or gradients,
    of EUF and RWN, which do not, and of RWN the other way round. The draws that are left stay random dropping."""
    places = (("ean", "min", "activation"), ("ege", "min", "gradient"), ("euf", "min", "inference"),
              ("rwn", "min", "weight"), ("rwn", "max", "weight"))  # fmt: skip

    def table(name: str) -> pd.DataFrame:
        own = tables(name)
        own = own[own["criterion"] == "random"].copy()
        for draw, place in enumerate(places):
            own.loc[own["draw"] == draw, ["criterion", "direction", "group"]] = place
        return own

    return table


def router_norm(tables: Tables) -> pd.DataFrame:
    """M4: Max-RWN minus Min-RWN, every model."""
    units = tables("criteria_units")
    by_model = (_area(units, "rwn", "max") - _area(units, "rwn", "min")).groupby("seed").mean(skipna=False)
    return rows("all models", by_model.index, 0, by_model)


def correlation(*names: str, shuffled: bool = False) -> Evidence:
    """Evidence from rank correlations with leaving one out: a part for each criterion, a unit for each layer. Control: scores are
    `shuffled` among the experts of their layer."""

    def measured(tables: Tables) -> pd.DataFrame:
        table = tables("importance" if shuffled else "spearman")
        own = table[table["criterion"].isin(names)]
        if shuffled:
            score = own.groupby(["model", "criterion", "layer"], sort=False)["score"]
            draw = np.random.default_rng(0)
            own = ranks.by_layer(own.assign(score=score.transform(lambda values: draw.permutation(values.to_numpy()))))
        return rows(own["criterion"].str.upper(), own["model"], own["layer"], own["rho"])

    return measured


EVIDENCE: dict[str, Evidence] = {
    "M1": unequal, "M2": beats_random, "M3": correlation("ean", "ege"), "M4": router_norm, "M14": correlation("evtc"),
    "M14b": correlation("wsr"),
}  # fmt: skip
CONTROLS: dict[str, Evidence] = {
    "M1": partial(unequal, column="shuffled"), "M2": lambda tables: beats_random(drawn(tables)),
    "M3": correlation("ean", "ege", shuffled=True), "M4": lambda tables: router_norm(drawn(tables)),
    "M14": correlation("evtc", shuffled=True), "M14b": correlation("wsr", shuffled=True),
}  # fmt: skip
