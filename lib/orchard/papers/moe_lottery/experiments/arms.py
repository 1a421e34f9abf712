"""The runs that compare one-shot, iterative and lottery dropping, with the controls that tell them apart.

The paper compares a lottery that was fine-tuned with one-shot dropping that was not. Here every amount of fine-tuning that the
lottery gets is also given to a model that dropped at once, to the full model, and to a small model trained from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

import pandas as pd

from orchard.papers.moe_lottery.experiments.profiles import PROFILES, Model, model_of, models
from orchard.papers.moe_lottery.method.models import ROUNDS, Shape
from orchard.papers.moe_lottery.runs.trajectory import (
    LOTTERIES,
    NOTHING,
    PER_ROUND,
    RANDOM,
    SCHEDULES,
    WHOLE,
    Arm,
    budget,
    rate_at,
)
from orchard.runs import Finished, Run, Runner, Setting
from orchard.runs.grid import Best, best_of
from orchard.train import AdamW, TrainLM

HALF = ROUNDS * 4 // 6  # the round at which half of the experts are gone
CRITERIA = ("ean", "ege")  # smallest first: the paper's two best
MOST_STUDIED = "ean"  # its partly trained lotteries, load balance and saturation are measured too
KINDS = {
    "full": NOTHING,
    "one_shot": MOST_STUDIED,
}  # what rates are tuned for: the full model and smaller ones; by what criterion
SCRATCH = "small_scratch"
USUAL = {"lottery": PER_ROUND, "one_shot_tokens": WHOLE}  # schedules where none is tuned
Rates = list[list[float]]  # pairs of steps and learning rate


class Family(NamedTuple):
    """What a learning rate is tuned for: the strategy of a model, and steps of fine-tuning or the round whose size is trained."""

    model: Model
    strategy: str
    steps: int


class Scheduled(NamedTuple):
    """What a schedule and a factor on rates are tuned for."""

    model: Model
    strategy: str
    schedule: str


def level(t: int) -> float:
    """The share of the experts that is gone after round t, in per cent."""
    return 100.0 * t / 8


def arm(
    setting: Setting, model: Model, rates: Rates, criterion: str, strategies: Sequence[str], **fields: Any
) -> Arm.Config:
    """The run of some strategies of a criterion, on one of the setting's models."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms
    given: dict[str, Any] = {
        "base": model.run, "criterion": criterion, "strategies": list(strategies), "per_round": model.shape.per_round,
        "steps": budget(sizes.first, ROUNDS), "controls": list(sizes.controls), "batch_size": sizes.batch_size,
        "learning_rates": rates, "calibration": profile.calibration, "load_round": HALF,
        "label": f"{criterion} {', '.join(strategies)}; {model.name}", **fields,
    }  # fmt: skip
    return Arm.Config(**given)


def tuned(setting: Setting, run: Runner) -> tuple[Best, dict[str, Family]]:
    """The learning rates of the first model of every shape, on validation text and in an order of the training text that no arm reads,
    and what every family of rates is for: for every number of steps in `saturation` the full model and models dropped to 75 % and 25 %
    at once by EAN, whose mean loss counts; and the small models that are trained from scratch."""
    firsts = {model.shape: model for model in reversed(models(setting))}.values()
    sizes = PROFILES[setting.profile].arms
    families, grids = dict[str, Family](), dict[str, Sequence[float]]()
    for model in firsts:
        for strategy, steps in [*product(KINDS, sizes.saturation), *product([SCRATCH], sizes.scratch)]:
            name = f"{strategy}, {'round' if strategy == SCRATCH else 'steps'} {steps}, {model.name}"
            families[name] = Family(model, strategy, steps)
            grids[name] = sizes.scratch_rates if strategy == SCRATCH else sizes.learning_rates

    def trial(name: str, rate: float) -> Run.Config:
        model, strategy, steps = families[name]
        label = f"rate {rate:g}, {name}"
        if strategy == SCRATCH:
            return small(setting, model, steps, rate).set(seed=1000 + model.seed, label=label)
        fixed: dict[str, Any] = {
            "split": "validation", "stream": 1, "steps": [0, steps, *[0] * (ROUNDS - 2)],
            "controls": [ROUNDS] if strategy == "full" else [2, ROUNDS], "label": label,
        }  # fmt: skip
        return arm(setting, model, [[float(steps), rate]], KINDS[strategy], [strategy], **fixed)

    return best_of(grids, trial, _loss, run, widen=0 if setting.profile == "smoke" else 2), families


def _loss(done: Finished) -> float:
    """The validation loss of a training, or the mean loss of the fine-tuned models of a run."""
    result = done.result
    return float(result.get("validation_loss") or mean(float(row["loss"]) for row in result["rows"] if row["tokens"]))


def scheduled(
    setting: Setting, run: Runner, rates: Mapping[tuple[str, str], Rates]
) -> tuple[Best, dict[str, Scheduled]]:
    """Schedule and factor on the `rates` of the lottery and of one-shot dropping with equal tokens, each by itself: on the first model
    of every shape, as in :func:`tuned`, with EAN, by the mean loss at 50 and 75 %. A grid for each schedule; see :func:`ways`."""
    sizes = PROFILES[setting.profile].arms
    firsts = {model.shape: model for model in reversed(models(setting))}.values()
    families = {
        f"{strategy}, {schedule}, {model.name}": Scheduled(model, strategy, schedule)
        for model, strategy, schedule in product(firsts, USUAL, SCHEDULES)
        if len(sizes.factors) > 1 or schedule == USUAL[strategy]
    }

    def trial(name: str, factor: float) -> Run.Config:
        model, strategy, schedule = families[name]
        return arm(
            setting, model, rates[model.name, "one_shot"], MOST_STUDIED, [strategy.removesuffix("_tokens")], split="validation", stream=1,
            controls=[HALF, ROUNDS], label=f"rates times {factor:g}, {name}", **_fields(strategy, schedule, factor),
        )  # fmt: skip

    grids = dict.fromkeys(families, sizes.factors)
    return best_of(grids, trial, _loss_at_ends, run, widen=0 if setting.profile == "smoke" else 2), families


def _fields(strategy: str, schedule: str, factor: float) -> dict[str, Any]:
    kind = "lottery" if strategy == "lottery" else "control"
    return {f"{kind}_schedule": schedule, f"{kind}_factor": factor}


def _loss_at_ends(done: Finished) -> float:
    """The mean loss of what was fine-tuned, at 50 and 75 %."""
    return mean(float(row["loss"]) for row in done.result["rows"] if row["tokens"] and row["round"] in (HALF, ROUNDS))


def _chosen(best: Best, families: Mapping[str, Scheduled]) -> dict[tuple[Shape, str], str]:
    """The family with the lower loss of every shape and strategy."""
    losses = best.table[best.table["chosen"]].set_index("family")["score"].fillna(0.0)  # without trials there is one
    found: dict[tuple[Shape, str], str] = {}
    for name in losses.sort_values(kind="stable").index:
        found.setdefault((families[name].model.shape, families[name].strategy), name)
    return found


def ways(setting: Setting, run: Runner, rates: Mapping[tuple[str, str], Rates]) -> dict[Shape, dict[str, Any]]:
    """Schedules and factors of every shape, as fields of `Arm.Config`."""
    best, families = scheduled(setting, run, rates)
    found: dict[Shape, dict[str, Any]] = {}
    for (shape, strategy), name in _chosen(best, families).items():
        found.setdefault(shape, {}).update(_fields(strategy, families[name].schedule, best.chosen[name]))
    return found


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """The grids of learning rates: model, strategy ("full", "one_shot", "small_scratch"; "lottery" and "one_shot_tokens", whose schedule
    is chosen too), schedule, steps (of the small model, the round whose size it has), learning_rate (of the last cosine), loss (nats/byte,
    validation), chosen. Rates at which a trial diverged have no loss, nor has a grid of one."""
    columns = ["model", "strategy", "schedule", "steps"]
    best, families = tuned(setting, run)
    own = best.table.rename(columns={"value": "learning_rate", "score": "loss"})
    about = [(one.model.name, one.strategy, WHOLE, one.steps) for one in own["family"].map(families)]
    own[columns] = pd.DataFrame(about, index=own.index)
    base = rates_of(setting, run)
    further, cells = scheduled(setting, run, base)
    table = further.table.rename(columns={"value": "learning_rate", "score": "loss"})
    steps = budget(PROFILES[setting.profile].arms.first, ROUNDS)
    about = [(one.model.name, one.strategy, one.schedule, sum(steps)) for one in table["family"].map(cells)]
    table[columns] = pd.DataFrame(about, index=table.index)
    last = table["schedule"].map({WHOLE: sum(steps), PER_ROUND: steps[-1]})
    table["learning_rate"] *= [
        rate_at(base[name, "one_shot"], count) for name, count in zip(table["model"], last, strict=True)
    ]
    table["chosen"] &= table["family"].isin(_chosen(further, cells).values())
    return pd.concat([own, table], ignore_index=True)[[*columns, "learning_rate", "loss", "chosen"]]


def rates_of(setting: Setting, run: Runner) -> dict[tuple[str, str], Rates]:
    """The learning rates of every model and strategy of :func:`rates`: those of its shape."""
    best, families = tuned(setting, run)
    by_shape: dict[tuple[Shape, str], Rates] = {}
    for name, (model, strategy, steps) in families.items():
        by_shape.setdefault((model.shape, strategy), []).append([float(steps), best.chosen[name]])
    return {
        (model.name, kind): own
        for model in models(setting)
        for (shape, kind), own in by_shape.items()
        if shape == model.shape
    }


def arms(
    setting: Setting, model: Model, rates: Mapping[tuple[str, str], Rates], ways: Mapping[Shape, dict[str, Any]]
) -> list[Arm.Config]:
    """Every arm of a model. Partly trained lotteries have the lottery's schedule and factor, every control that drops the one-shot's."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms

    def of(criterion: str, strategies: Sequence[str], **fields: Any) -> Arm.Config:
        if criterion == NOTHING:
            return arm(setting, model, rates[model.name, "full"], criterion, strategies, **fields)
        return arm(setting, model, rates[model.name, "one_shot"], criterion, strategies, **ways[model.shape], **fields)

    size, saturation = sizes.draws_per_run, list(sizes.saturation)
    draws = [list(range(profile.draws))[i : i + size] for i in range(0, profile.draws, size)]
    return [
        *(of(name, ["one_shot", "iterative", "lottery"], saturation=saturation if name == MOST_STUDIED else [])
          for name in CRITERIA),
        of(MOST_STUDIED, LOTTERIES[1:]),
        *(of(RANDOM, ["one_shot", "lottery"], draws=some, label=f"random, draws {some[0]} to {some[-1]}; {model.name}")
          for some in draws),
        of(NOTHING, ["full"], saturation=saturation),
    ]  # fmt: skip


def small(setting: Setting, model: Model, t: int, rate: float) -> TrainLM.Config:
    """The model of the size that round t leaves, trained from scratch with the tokens of pre-training and of the lottery."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms
    shape = replace(model.shape, num_experts=model.shape.num_experts - t * model.shape.per_round)
    base = model.run
    tokens = sum(budget(sizes.first, ROUNDS)[:t]) * sizes.batch_size * base.seq_len
    steps = base.steps + -(-tokens // (base.batch_size * base.seq_len))
    cfg: TrainLM.Config = base.clone().set(
        model=model_of(shape, profile), steps=steps, validate_every=steps, log_every=steps,
        optim=AdamW.Config(learning_rate=rate), label=f"from scratch, {shape.num_experts} experts, seed {model.seed}",
    )  # fmt: skip
    return cfg
