"""What every run of the series is scored by: losses on windows of text, byte by byte of a known domain.

Calibration reads windows of the validation split, evaluation those of the test split, and of the validation split windows that
calibrate nothing; fine-tuning reads the train split. Losses are kept per window, which intervals resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchard.nn import Decoder
from orchard.papers.moe_lottery.data.domains import domains, windows
from orchard.runs import Workspace
from orchard.train import TrainLM, choose, load_model
from orchard.train.losses import token_losses


@dataclass(frozen=True)
class Text:
    """Windows of a split in batches, with the document and the domain of every byte."""

    tokens: list[Int[Tensor, "_ _"]]  # [batch, time + 1]
    documents: list[Int[Tensor, "_ _"]]
    names: list[str]  # of the domains
    domain: Int[Tensor, "documents"]

    @classmethod
    def calibration(cls, cfg: TrainLM.Config, count: int) -> Text:
        """`count` windows spread evenly over the even-numbered ones of the validation split."""
        return cls.spread(cfg, "validation", count, slice(0, None, 2))

    @classmethod
    def evaluation(cls, cfg: TrainLM.Config, split: str, count: int) -> Text:
        """`count` windows that losses are taken on: of the validation split the odd-numbered, which calibrate nothing."""
        return cls.spread(cfg, split, count, slice(1, None, 2) if split == "validation" else slice(None))

    @classmethod
    def spread(cls, cfg: TrainLM.Config, split: str, count: int, part: slice = slice(None)) -> Text:
        """`count` windows of the text a model was trained on, spread evenly over (a part of) a split."""
        whole = windows(cfg.source, split, cfg.seq_len)
        names, own = domains(whole.corpus.names)
        numbers = np.arange(len(whole))[part]
        places = np.unique(np.linspace(0, len(numbers) - 1, num=min(count, len(numbers))).astype(np.int64))
        starts = range(0, len(places), cfg.batch_size)
        parts = [whole.batch(numbers[places[i : i + cfg.batch_size]]) for i in starts]
        return cls([p["tokens"] for p in parts], [p["document"] for p in parts], names, torch.from_numpy(own))

    def on(self, model: Decoder) -> list[Int[Tensor, "_ _"]]:
        """The windows where the model is."""
        return [tokens.to(model.embedding.weight.device) for tokens in self.tokens]

    def counts(self) -> Int[Tensor, "windows domains"]:
        """Predicted bytes of every window by domain."""
        predicted = torch.cat([self.domain[document[:, 1:]] for document in self.documents])
        return torch.stack([(predicted == d).sum(dim=1) for d in range(len(self.names))], dim=1)


def nats(model: Decoder, text: Text, precision: str = "32-true") -> Float[Tensor, "windows domains"]:
    """Summed nats of every window by the domain of the predicted byte, in float64 on the CPU."""
    found = []
    for losses, documents in zip(_losses(model, text.tokens, precision), text.documents, strict=True):
        own = text.domain[documents[:, 1:]]
        found.append(torch.stack([(losses * (own == d)).sum(dim=1) for d in range(len(text.names))], dim=1))
    return torch.cat(found)


def window_losses(
    model: Decoder, batches: list[Int[Tensor, "_ time_and_one"]], precision: str = "32-true"
) -> Float[Tensor, "windows"]:
    """Mean nats per token of every window, in float64 on the CPU. The model must be in evaluation mode."""
    return torch.cat([losses.mean(dim=1) for losses in _losses(model, batches, precision)])


@torch.no_grad()
def _losses(model: Decoder, batches: Sequence[Tensor], precision: str) -> list[Float[Tensor, "_ _"]]:
    """Nats of every token, in float64 on the CPU."""
    device = model.embedding.weight.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        return [token_losses(model, batch.to(device)).cpu().double() for batch in batches]


def trained(work: Workspace, cfg: TrainLM.Config) -> tuple[Decoder, str]:
    """The trained model on the run's device, ready for use, and the precision that device evaluates in."""
    hardware = choose(work.device)
    return load_model(work.result_of(cfg), cfg).to(hardware.device), hardware.precision
