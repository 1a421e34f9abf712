"""The strong baseline of data-constrained training: an ensemble of repetition models.

    p(x_t) = 1/K sum_k p_k(x_t)        models that differ in their seed alone

It reads no document that is not in D. It costs K trainings, and K forward passes for every token that is ever scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from orchard.config import REQUIRED
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Documents, Symbols, document_batch
from orchard.papers.sbp.runs.pretrain import Pretrain, held_out_documents, in_parts, load_pretrained, save_scores
from orchard.runs import Run, Workspace
from orchard.train import choose
from orchard.train.losses import counted_losses


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
