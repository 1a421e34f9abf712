"""The LightningModule of both trainings, whose parts have learning rates of their own. Apart, because Lightning takes seconds to import:
only runs that train do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from orchard.train import AdamW

Loss = Callable[[Any, dict[str, Tensor]], Tensor]  # of the model and a batch


class RatedParts(pl.LightningModule):
    """Trains a model by ``loss(model, batch)``; ``rated`` are its parts with their learning rates, ``spared`` the ids of parameters without
    weight decay. It is not compiled: masks come from outside of the layers that they are for."""

    def __init__(
        self, model: nn.Module, rated: Sequence[tuple[nn.Module, float]], spared: Collection[int], optim: AdamW, steps: int, fused: bool,
        loss: Loss,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.optim, self.steps, self.fused, self.loss = model, optim, steps, fused, loss
        self.rated, self.spared = rated, spared

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model, batch)

    def configure_optimizers(self) -> Any:
        """AdamW with a group per rate; one schedule scales all of them."""
        optimizer = self.optim.optimizer_of(self.rated, self.fused, self.spared)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
