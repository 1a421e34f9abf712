"""What the four trainings share: steps in stages that are data, batches by number, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.data import OrderedLoader
from orchard.errors import BadInput
from orchard.runs import Workspace
from orchard.train.hardware import Hardware
from orchard.train.run import TrainingRun

Batch = dict[str, Tensor]
Loss = Callable[[Any, Batch], Tensor]  # of the model and a batch


class Until(Configurable):
    """Base of the stages of a training: data, never built."""

    class Config(Configurable.Config):
        until: int = REQUIRED  # steps of the whole training at its end


S = TypeVar("S", bound=Until.Config)


def last_step(place: str, stages: Sequence[Until.Config]) -> int:
    """The steps of a training in stages. Raises BadInput where there are none, or one does not end after the one before it."""
    ends = [stage.until for stage in stages]
    if not ends or ends[0] < 1 or any(a >= b for a, b in pairwise(ends)):
        raise BadInput(
            f"{place} end at the steps {ends}: give at least one, each with a later end than the one before it"
        )
    return ends[-1]


def stage_at(stages: Sequence[S], step: int) -> S:
    """The stage that a step belongs to, counted from 0."""
    return next(stage for stage in stages if step < stage.until)


def shares(place: str, given: dict[str, float]) -> Float64[np.ndarray, "_"]:
    """Shares of a mixture as probabilities. Raises BadInput where none is above 0, or one is below."""
    values = np.array(list(given.values()), dtype=np.float64)
    if not len(values) or values.min() < 0 or values.sum() <= 0:
        raise BadInput(f"{place} is {given}: give shares of 0 or more, at least one above")
    return values / values.sum()


class _Batches:
    """The batches of a training by number."""

    length = 1

    def __init__(self, count: int, make: Callable[[int], Batch]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Int64[np.ndarray, "_"]) -> Batch:
        return self.make(int(indices[0]))


def learn(
    run: TrainingRun,
    work: Workspace,
    hardware: Hardware,
    model: nn.Module,
    loss: Loss,
    batch: Callable[[int], Batch],
    validate: Callable[[], dict[str, float]],
    tokens: int,
) -> dict[str, float]:
    """Train a model by ``loss(model, batch(i))``, ``batch`` a function of i alone, with about ``tokens`` tokens each. Returns what
    ``validate`` measures at the last step; the model is then in evaluation mode on the device of the run."""
    from orchard.papers.manzano.runs.lightning import Trains

    cfg = run.cfg
    module = Trains(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss)
    loader = OrderedLoader(_Batches(cfg.batches, batch), batch_size=1, seed=cfg.seed, accumulate=cfg.accumulate)
    flops = 2.0 * sum(parameter.numel() for parameter in model.parameters())
    measured = run.train(work, hardware, module, loader, validate, tokens=tokens, flops=flops, dynamic=True)
    model.to(hardware.device).eval()
    return measured


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model lie."""
    return next(model.parameters()).device
