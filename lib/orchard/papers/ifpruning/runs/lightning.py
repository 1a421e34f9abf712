"""The LightningModule of both trainings, whose parts have learning rates of their own. Apart, because Lightning takes seconds to import:
only runs that train do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchard.train import AdamW
from orchard.train.loop import LanguageModel


class RatedParts(LanguageModel):
    """Trains a model by ``loss(model, batch)``; ``rated`` are its parts with their learning rates, ``spared`` the ids of parameters without
    weight decay. It is not compiled: masks come from outside of the layers that they are for."""

    def __init__(
        self, model: Any, rated: Sequence[tuple[nn.Module, float]], spared: Collection[int], optim: AdamW, steps: int, fused: bool,
        loss: Callable[[Any, dict[str, Tensor]], Tensor],
    ) -> None:  # fmt: skip
        super().__init__(model, optim, steps, fused, loss)
        self.rated, self.spared = rated, spared

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch, as it is."""
        return self.loss(self.model, batch)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with a group per rate."""
        return self.optim.optimizer_of(self.rated, self.fused, self.spared)
