"""The runs that compare one-shot, iterative and lottery dropping, with the controls that tell them apart.

The paper compares a lottery that was fine-tuned with one-shot dropping that was not. Here every amount of fine-tuning that the
lottery gets is also given to a model that dropped at once, to the full model, and to a small model trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from orchard.papers.moe_lottery.experiments.profiles import PROFILES, Model, model_of, models
from orchard.papers.moe_lottery.method.models import ROUNDS
from orchard.papers.moe_lottery.runs.trajectory import LOTTERIES, NOTHING, RANDOM, Arm, budget
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best, best_of
from orchard.train import TrainLM

HALF = ROUNDS * 4 // 6  # the round at which half of the experts are gone
CRITERIA = ("ean", "ege")  # smallest first: the paper's two best
MOST_STUDIED = "ean"  # its partly trained lotteries, load balance and saturation are measured too


def level(t: int) -> float:
    """The share of the experts that is gone after round t, in per cent."""
    return 100.0 * t / 8


def arm(
    setting: Setting, model: Model, rate: float, criterion: str, strategies: Sequence[str], **fields: Any
) -> Arm.Config:
    """The run of some strategies of a criterion, on one of the setting's models."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms
    given: dict[str, Any] = {
        "base": model.run, "criterion": criterion, "strategies": list(strategies), "per_round": model.shape.per_round,
        "steps": budget(sizes.first, ROUNDS), "controls": list(sizes.controls), "batch_size": sizes.batch_size,
        "learning_rate": rate, "calibration": profile.calibration, "load_round": HALF,
        "label": f"{criterion} {', '.join(strategies)}; {model.name}", **fields,
    }  # fmt: skip
    return Arm.Config(**given)


def tuned(setting: Setting, run: Runner) -> Best:
    """The learning rate of every shape, the same for all its arms: that with the lowest mean validation loss of two arms that get all
    tokens at once, the full model and one-shot EAN at 75 %, at the first model of the shape. A family is that model's name."""
    firsts = {model.name: model for model in {model.shape: model for model in reversed(models(setting))}.values()}
    fixed: dict[str, Any] = {"split": "validation", "controls": [ROUNDS], "draws": [0]}

    def trials(name: str, rate: float) -> list[Arm.Config]:
        cells = ((NOTHING, "full"), (MOST_STUDIED, "one_shot"))
        return [arm(setting, firsts[name], rate, criterion, [strategy], **fixed) for criterion, strategy in cells]

    grids = dict.fromkeys(firsts, PROFILES[setting.profile].arms.learning_rates)
    return best_of(grids, trials, _tokens_loss, run, widen=0 if setting.profile == "smoke" else 2)


def _tokens_loss(done: Finished) -> float:
    """The loss of the fine-tuned model of a run that has one."""
    return next(float(row["loss"]) for row in done.result["rows"] if row["tokens"])


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """The grid of learning rates: model, strategy, learning_rate, loss (nats/byte, validation). Empty for a grid of one; without the
    rates at which a trial diverged."""
    rows = [
        {"model": name, "strategy": strategy, "learning_rate": rate, "loss": _tokens_loss(done)}
        for (name, rate), both in tuned(setting, run).runs.items() if both
        for strategy, done in zip(("full_tokens", "one_shot_tokens"), both, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "strategy", "learning_rate", "loss"])


def rate_of(setting: Setting, run: Runner) -> dict[str, float]:
    """The learning rate of every model: that of its shape in :func:`tuned`."""
    chosen, shapes = tuned(setting, run).chosen, {model.name: model.shape for model in models(setting)}
    by_shape = {shapes[name]: rate for name, rate in chosen.items()}
    return {name: by_shape[shape] for name, shape in shapes.items()}


def arms(setting: Setting, model: Model, rate: float) -> list[Arm.Config]:
    """Every arm of a model."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms

    def of(criterion: str, strategies: Sequence[str], **fields: Any) -> Arm.Config:
        return arm(setting, model, rate, criterion, strategies, **fields)

    size = sizes.draws_per_run
    draws = [list(range(profile.draws))[i : i + size] for i in range(0, profile.draws, size)]
    return [
        *(of(name, ["one_shot", "iterative", "lottery"], saturation=list(sizes.saturation) if name == MOST_STUDIED else [])
          for name in CRITERIA),
        of(MOST_STUDIED, LOTTERIES[1:]),
        *(of(RANDOM, ["one_shot", "lottery"], draws=some, label=f"random, draws {some[0]} to {some[-1]}; {model.name}")
          for some in draws),
        of(NOTHING, ["full"]),
    ]  # fmt: skip


def small(setting: Setting, model: Model, t: int) -> TrainLM.Config:
    """The model of the size that round t leaves, trained from scratch with the tokens of pre-training and of the lottery."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].arms
    shape = replace(model.shape, num_experts=model.shape.num_experts - t * model.shape.per_round)
    base = model.run
    tokens = sum(budget(sizes.first, ROUNDS)[:t]) * sizes.batch_size * base.seq_len
    steps = base.steps + -(-tokens // (base.batch_size * base.seq_len))
    cfg: TrainLM.Config = base.clone().set(
        model=model_of(shape, profile), steps=steps, validate_every=steps, log_every=steps,
        label=f"from scratch, {shape.num_experts} experts, seed {model.seed}",
    )  # fmt: skip
    return cfg
