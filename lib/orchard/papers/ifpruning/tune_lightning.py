"""The LightningModule of a stage of `tune`. Apart, because Lightning takes seconds to import: only runs that train do."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from orchard.papers.ifpruning.lightning import parameter_groups
from orchard.papers.ifpruning.tune import Tune
from orchard.papers.ifpruning.wrapper import PrunedModel


class TuneModule(pl.LightningModule):
    """Trains a decoder and its predictor together."""

    def __init__(self, pruned: PrunedModel, cfg: Tune.Config, fused: bool) -> None:
        super().__init__()
        self.pruned, self.run, self.fused = pruned, cfg, fused
        self.optim = cfg.optim.build()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean nats of the tokens that count."""
        loss: Tensor = self.pruned(**batch, use_cache=False).loss
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW: predictor and head at their own rate, no weight decay on layers that a mask may leave channels of out."""
        pruned, cfg = self.pruned, self.optim.cfg
        kept_out = {id(p) for name in pruned.layer_names for p in pruned.decoder.get_submodule(name).parameters()}
        rate = self.run.predictor_rate
        parts = [
            (pruned.decoder, cfg.learning_rate),
            (pruned.predictor, rate),
            (pruned.head_in, rate),
            (pruned.head_out, rate),
        ]
        groups = parameter_groups(parts, kept_out, cfg.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=(cfg.betas[0], cfg.betas[1]), fused=self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.run.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
