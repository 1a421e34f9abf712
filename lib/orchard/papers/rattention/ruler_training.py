"""The LightningModule of RULER-lite: the language model of ``orchard.train`` with a loss on answers alone."""

from __future__ import annotations

from torch import Tensor

from orchard.papers.rattention.ruler_run import answer_losses
from orchard.train.loop import LanguageModel


class AnswerModel(LanguageModel):
    """Trains a decoder on batches of :class:`orchard.papers.rattention.ruler_run.TrainingBatches`."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Nats per answer token, each sequence with the same weight."""
        return (answer_losses(self.model, batch) * batch["weight"]).sum()
