"""The LightningModule of a stage. Apart, because Lightning takes seconds to import: only runs that train do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.nn import Decoder, auxiliary_loss
from orchard.papers.ifpruning.data import Examples
from orchard.papers.ifpruning.method import Predictor, Selector, masked_layers
from orchard.papers.ifpruning.training import Train, conditioned_logits, counted_logits

TEMPERATURE = 0.1  # of the contrast


class Module(pl.LightningModule):
    """Trains a decoder and what conditions it, together."""

    def __init__(
        self, cfg: Train.Config, decoder: Decoder, selector: Selector | None, teacher: Decoder | None, fused: bool
    ) -> None:
        super().__init__()
        self.run, self.decoder, self.selector, self.fused = cfg, decoder, selector, fused
        self.optim = cfg.optim.build()
        self._teacher = (
            [] if teacher is None else [teacher.requires_grad_(False).eval()]
        )  # a list: no part of checkpoints

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean nats of the tokens that count, and what the arm adds."""
        examples = Examples(**batch)
        warmth = min(1.0, (self.global_step + 1) / (self.run.warmup * self.run.steps)) if self.run.warmup else 1.0
        logits = conditioned_logits(self.decoder, self.selector, examples, warmth)
        loss = F.cross_entropy(logits, examples.tokens[examples.counts]) + auxiliary_loss(self.decoder)
        if self._teacher:
            with torch.no_grad():
                wanted = counted_logits(self._teacher[0].to(self.device), examples)
            loss = loss + divergence(wanted, logits, self.run.teacher_top)
        if self.run.contrast and isinstance(self.selector, Predictor):
            loss = loss + self.run.contrast * contrast(self.selector.logits(examples)[:, 0], examples.domain)
        if self.selector is not None and self.selector.penalty is not None:
            loss = loss + self.selector.penalty
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW: the selector at its own rate; weight decay on matrices, but not on channels that a mask may leave out."""
        cfg = self.optim.cfg
        kept_out = set() if self.selector is None or self.run.decay_channels else {
            id(p) for layer in masked_layers(self.decoder) for p in layer.parameters()
        }  # fmt: skip
        parts = [(self.decoder, cfg.learning_rate), (self.selector, self.run.selector_rate)]
        listed = parameter_groups(parts, kept_out, cfg.weight_decay)
        optimizer = torch.optim.AdamW(listed, betas=(cfg.betas[0], cfg.betas[1]), fused=self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.scale(step, self.run.steps))
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


def divergence(
    teacher: Float[Tensor, "counted vocab"], student: Float[Tensor, "counted vocab"], top: int
) -> Float[Tensor, ""]:
    """KL(teacher | student) on the teacher's ``top`` likeliest tokens, both renormalised there (Minitron, arXiv 2407.14679)."""
    best, index = teacher.topk(min(top, teacher.shape[-1]), dim=-1)
    own = student.gather(-1, index).log_softmax(dim=-1)
    return F.kl_div(own, best.log_softmax(dim=-1), log_target=True, reduction="batchmean")


def contrast(z: Float[Tensor, "examples layers logits"], domain: Int[Tensor, "examples"]) -> Float[Tensor, ""]:
    """Supervised contrast (Khosla et al. 2020, arXiv 2004.11362) of mask logits: prompts of one domain near, others far.

    The paper names such a loss as future work; it reads the domain of the training prompts, which `ifp` does not.
    """
    unit = F.normalize((z - z.mean(dim=-1, keepdim=True)).flatten(1), dim=-1)
    scores = (unit @ unit.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    same = (domain[:, None] == domain[None, :]).fill_diagonal_(False)
    likely = scores.log_softmax(dim=-1).masked_fill(~same, 0.0).sum(dim=-1) / same.sum(dim=-1).clamp_min(1)
    return -likely[same.any(dim=-1)].mean()
