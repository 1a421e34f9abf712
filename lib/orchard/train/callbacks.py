"""What every training does around its steps: clip gradients, stop where it has diverged."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from orchard.errors import Diverged

LOOK_EVERY = 16  # batches whose losses are looked at together on an accelerator, where every look waits for the device


class ClipGradients(pl.Callback):
    """Scale the gradient of each step down to the norm ``clip`` where it is longer; 0 leaves it alone.

    Not by Lightning, which refuses to clip for fused optimizers under mixed precision: with fp16 they divide by the scale of the
    loss themselves, too late for clipping. Here the gradients are divided first, and then the optimizer does not.
    """

    def __init__(self, clip: float) -> None:
        self.clip = clip

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.clip:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.clip)


class StopWhenDiverged(pl.Callback):
    """Raise Diverged at the first loss that is not finite, before a checkpoint holds what came of it.

    Args:
        checkpoint_every: steps after which a checkpoint is saved.
    """

    def __init__(self, checkpoint_every: int) -> None:
        self.checkpoint_every = checkpoint_every
        self._at = 0, 0.0  # the step under way and its learning rate
        self._losses: list[tuple[int, float, Tensor]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._at = trainer.global_step + 1, trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self._losses.append((*self._at, outputs["loss"]))
        due = trainer.global_step % self.checkpoint_every == 0 or len(self._losses) >= LOOK_EVERY
        if due or outputs["loss"].device.type == "cpu":
            self._look()

    def on_train_end(self, *_: Any) -> None:
        self._look()

    def _look(self) -> None:
        if not self._losses:
            return
        finite = torch.stack([loss for _, _, loss in self._losses]).isfinite().tolist()
        for (step, rate, _), good in zip(self._losses, finite, strict=True):
            if not good:
                raise diverged(step, rate)
        self._losses.clear()


def diverged(step: int, rate: float) -> Diverged:
    """The error of a training whose loss is not finite at ``step``, with what to do about it."""
    return Diverged(
        f"diverged at step {step} with learning rate {rate:g}: the loss is not finite; lower the learning rate"
    )
