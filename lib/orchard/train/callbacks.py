"""What every training does around its steps."""

from __future__ import annotations

import lightning.pytorch as pl
import torch


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
