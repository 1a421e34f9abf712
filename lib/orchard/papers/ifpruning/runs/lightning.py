"""The LightningModule of both trainings, which has two learning rates. Apart, because Lightning takes seconds to import: only runs that
train do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from orchard.train import AdamW

Loss = Callable[[dict[str, Tensor], int], Tensor]  # of a batch and the number of the step


class Module(pl.LightningModule):
    """Trains several parts together, each at its own learning rate."""

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        loss: Loss,
        groups: list[dict[str, Any]],
        optim: AdamW,
        steps: int,
        fused: bool,
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.loss, self.groups, self.optim, self.steps, self.fused = loss, groups, optim, steps, fused

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self.loss(batch, self.global_step)

    def configure_optimizers(self) -> Any:
        """AdamW over the groups; one schedule scales all rates."""
        betas = (self.optim.cfg.betas[0], self.optim.cfg.betas[1])
        optimizer = torch.optim.AdamW(self.groups, betas=betas, fused=self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(
    parts: Sequence[tuple[nn.Module | None, float]], kept_out: set[int], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW: each module at its learning rate, weight decay on matrices but those whose id is ``kept_out``."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module, rate in parts:
        for p in module.parameters() if module is not None else ():
            if p.requires_grad:
                decay = weight_decay if p.ndim == 2 and id(p) not in kept_out else 0.0
                groups.setdefault((rate, decay), []).append(p)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
