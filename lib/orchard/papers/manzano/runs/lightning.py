"""The LightningModule of all four trainings. Apart, because Lightning takes seconds to import: only runs that train do."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from orchard.papers.manzano.runs.learning import Batch, Loss
from orchard.train import AdamW


class Trains(pl.LightningModule):
    """Trains the parameters of a model that need a gradient, by ``loss(model, batch)``. It is not compiled: lengths differ."""

    def __init__(self, model: nn.Module, optim: AdamW, steps: int, fused: bool, loss: Loss) -> None:
        super().__init__()
        self.model, self.optim, self.steps, self.fused, self.loss = model, optim, steps, fused, loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model, batch)

    def configure_optimizers(self) -> Any:
        """AdamW, and its schedule, a function of the step alone."""
        optimizer = self.optim.optimizer(self.model, self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
