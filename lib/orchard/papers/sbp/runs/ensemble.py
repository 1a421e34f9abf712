"""The strong baseline of data-constrained training: an ensemble of repetition models, and one model distilled from it.

    ensemble      p(x_t) = 1/K sum_k p_k(x_t)                  models that differ in their seed alone
    distillation  loss = (1 - w) * -log p(x_t) + w * - sum_v q(v) log p(v)      q: the ensemble, on the documents of D

Neither reads a document that is not in D. An ensemble costs K trainings, and K forward passes for every token that is ever scored;
the distilled model costs K + 1 trainings (and the teachers' forward passes), and one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from orchard.config import REQUIRED
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Documents, Symbols, document_batch
from orchard.papers.sbp.runs.pretrain import Pretrain, held_out_documents, in_parts, load_pretrained, save_scores
from orchard.runs import Run, Workspace
from orchard.train import choose
from orchard.train.losses import Loss, counted_logits, counted_losses


class Ensemble(Run):
    """Score held-out documents with the mean of several models' probabilities, each at its last checkpoint.

    Result: ``members``, ``training_flops``. Files: ``eval.safetensors`` as that of `pretrain.Pretrain`, with one evaluation.
    """

    class Config(Run.Config):
        members: list[Pretrain.Config] = REQUIRED
        eval_documents: int = 500

    preload = "orchard.papers.sbp.runs.pretrain"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        device = choose(work.device).device
        corpus = cfg.members[0].mix.corpus.build()
        done = [work.result_of(member) for member in cfg.members]
        models = [load_pretrained(run, member).to(device) for run, member in zip(done, cfg.members, strict=True)]
        held_out = held_out_documents(corpus, cfg.eval_documents)
        nll = {name: ensemble_nll(models, documents, corpus.symbols)[None] for name, documents in held_out.items()}
        save_scores(work, np.array([cfg.members[0].mix.steps]), nll)
        return {"members": len(models), "training_flops": sum(run.result["training_flops"] for run in done)}


@torch.no_grad()
def ensemble_nll(models: Sequence[Decoder], documents: Documents, symbols: Symbols) -> Float64[np.ndarray, "documents"]:
    """-log of the mean probability, token by token, summed over every document, in nats."""
    device = models[0].embedding.weight.device
    found = []
    for part in in_parts(documents.lengths):
        batch = document_batch(documents.take(part), symbols)
        tokens, counts = batch.tokens.to(device), batch.counts.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logs = -torch.stack([counted_losses(model, tokens, counts).double() for model in models])
        nats = torch.zeros(counts.shape, dtype=torch.float64, device=device)
        nats[counts] = np.log(len(models)) - torch.logsumexp(logs, dim=0)
        found.append(nats.sum(dim=1).cpu().numpy())
    return np.concatenate(found)


class Distill(Pretrain):
    """Pretraining that also learns from what an ensemble predicts at every token that counts.

    Result and files as those of `pretrain.Pretrain`: no teacher is part of the model, of its checkpoints or of its FLOPs.
    """

    class Config(Pretrain.Config):
        teachers: list[Pretrain.Config] = REQUIRED
        weight: float = 0.5  # of the teachers in the loss

    cfg: Config

    def loss(self, work: Workspace) -> Loss:
        """The loss of distillation, with the teachers at their last checkpoints."""
        device, weight = choose(work.device).device, self.cfg.weight
        teachers = [load_pretrained(work.result_of(one), one).to(device) for one in self.cfg.teachers]

        def distilled(model: Decoder, batch: dict[str, Tensor]) -> Tensor:
            tokens, counts = batch["tokens"], batch["counts"]
            with torch.no_grad():
                laws = [counted_logits(teacher, tokens, counts).softmax(dim=-1) for teacher in teachers]
            logits = counted_logits(model, tokens, counts)
            hard = F.cross_entropy(logits, tokens[:, 1:][counts])
            return (1 - weight) * hard + weight * F.cross_entropy(logits, torch.stack(laws).mean(dim=0))

        return distilled
