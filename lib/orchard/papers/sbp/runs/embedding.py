"""Documents as mean-pooled states of a decoder that was pretrained on the same corpus.

e(d) = unit(mean_t h_t - mean over D)        h_t: last layer's states over the tokens of d
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from orchard.config import REQUIRED
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols, document_batch
from orchard.papers.sbp.method.embedding import Embedder, centred
from orchard.papers.sbp.runs.pretrain import Pretrain, in_parts, load_pretrained
from orchard.runs import Workspace
from orchard.train import choose


class LMEmbedder(Embedder):
    """Mean-pooled states of a decoder that was pretrained on the same corpus: no model from outside."""

    class Config(Embedder.Config):
        pretrained: Pretrain.Config = REQUIRED

    cfg: Config

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Workspace) -> dict[str, Any]:
        model = load_pretrained(work.result_of(self.cfg.pretrained), self.cfg.pretrained).to(choose(work.device).device)
        return centred({name: mean_states(model, found, corpus.symbols) for name, found in splits.items()})


@torch.no_grad()
def mean_states(model: Decoder, documents: Documents, symbols: Symbols) -> Float32[np.ndarray, "documents dim"]:
    """The mean over the body's tokens of what the output matrix reads."""
    device = model.embedding.weight.device
    found = np.empty((len(documents), model.dim), np.float32)
    order = np.argsort(documents.lengths, kind="stable")  # documents of one length need no padding
    for places in in_parts(documents.lengths):
        chosen = documents.take(order[places])
        tokens = document_batch(chosen, symbols).tokens[:, :-1].to(device)  # eos tells nothing about the document
        inside = torch.arange(tokens.shape[1]) <= torch.from_numpy(chosen.lengths)[:, None]
        inside[:, 0] = False  # bos neither
        weights = inside.float().to(device)
        states = model.features(tokens)
        pooled = torch.einsum("ntd,nt->nd", states, weights) / weights.sum(dim=1, keepdim=True)
        found[order[places]] = pooled.float().cpu().numpy()
    return found
