"""The LightningModule for decoders, which takes its loss as a function, and the loop around Lightning's trainer."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from orchard.config import Config
from orchard.errors import BadInput
from orchard.nn import Decoder, auxiliary_loss
from orchard.runs import Workspace
from orchard.train.callbacks import ClipGradients, StopWhenDiverged
from orchard.train.checkpoint import CounterRandomness, KeepCheckpoints, SafetensorsIO, latest
from orchard.train.hardware import Hardware
from orchard.train.losses import Loss, next_token_loss
from orchard.train.metrics import JsonLinesLogger
from orchard.train.mirror import mirrors
from orchard.train.optim import AdamW


class LanguageModel(pl.LightningModule):
    """Trains a decoder. ``loss(model, batch)`` is a scalar: that of the next token, or another of `orchard.train.losses`.

    A paper whose parts learn at rates of their own subclasses this and says so in ``optimizer``.
    """

    def __init__(self, model: Decoder, optim: AdamW, steps: int, fused: bool, loss: Loss = next_token_loss) -> None:
        super().__init__()
        self.model, self.optim, self.steps, self.fused = model, optim, steps, fused
        self.loss: Loss = loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of the batch, and the auxiliary losses of mixtures of experts."""
        return self.loss(self.model, batch) + auxiliary_loss(self.model)

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of all parameters."""
        return self.optim.optimizer(self.model, self.fused)

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, a function of the step alone."""
        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class OneProcess(LightningEnvironment):
    """One process and no other, whatever launcher the surroundings name.

    The variables of SLURM, torchrun, MPI and LSF are set in every job script, also where it starts a single training.
    """

    creates_processes_externally = False

    def __init__(self) -> None:
        super().__init__()
        self.set_global_rank(0)  # Lightning reads it from the variables when it is imported

    def local_rank(self) -> int:
        """0."""
        return 0

    def node_rank(self) -> int:
        """0."""
        return 0

    def teardown(self) -> None:
        """Nothing: the variables belong to the surroundings."""


@dataclass
class Schedule:
    """What the training loop reads of a run, for runs whose config is not all training; see :class:`Training`."""

    steps: int
    seed: int
    label: str
    checkpoint_every: int
    clip: float = 1.0


@runtime_checkable
class Training(Protocol):
    """What the loop reads of a run's config."""

    steps: int
    clip: float
    seed: int
    checkpoint_every: int
    label: str


def train_loop(
    module: pl.LightningModule,
    loader: Any,
    cfg: Training,
    work: Workspace,
    hardware: Hardware,
    callbacks: Sequence[pl.Callback],
    *,
    accumulate: int = 1,
    loggers: Sequence[Logger] = (),
) -> None:
    """Run Lightning's trainer to ``cfg.steps`` optimizer steps, from the newest whole checkpoint of the workspace.

    ``accumulate`` batches make a step. Quiet: no progress bar unless a person watches a terminal, no
    advertisement, no warnings about workers.
    """
    if cfg.steps < 1:
        raise BadInput(f"{type(cfg).__qualname__}.steps is {cfg.steps}: train for at least one step")
    checkpoint = latest(work.checkpoints)
    start = int(checkpoint.stem.partition("_")[2]) if checkpoint else 0
    if checkpoint:
        work.log(f"goes on from step {start}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _quiet()
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(hardware.device, hardware.device),
            devices=1,
            precision=hardware.precision,
            max_steps=cfg.steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate,
            limit_val_batches=0,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=[
                JsonLinesLogger(work.folder, start),
                *mirrors(cfg.label, _settings(cfg), work.checkpoints),
                *loggers,
            ],
            plugins=[SafetensorsIO(), OneProcess()],
            callbacks=[
                CounterRandomness(cfg.seed),
                ClipGradients(cfg.clip),
                StopWhenDiverged(cfg.checkpoint_every),
                *callbacks,
                KeepCheckpoints(work.checkpoints, cfg.checkpoint_every),
            ],
            default_root_dir=work.folder,
        )
        trainer.fit(module, loader, ckpt_path=checkpoint)


def _settings(cfg: Training) -> dict[str, Any]:
    return cfg.to_dict() if isinstance(cfg, Config) else dict(vars(cfg))


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
