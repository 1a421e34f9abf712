"""Embedders: a unit vector for every document, fitted on D alone.

    a language model of ours    mean over the tokens of d of the last layer's states, centred on D
    TF-IDF                      (1 + log tf) log((1 + n) / (1 + df)) + 1 per token, rows of unit length, then a truncated SVD
    a model on this disk        the same mean, or the state of the last token, of any model that transformers can load

Every row is of unit length, so that inner products are cosines. TF-IDF is not centred, its angles are small where documents share words;
states of a decoder share a large common direction, which says nothing, and are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from orchard.config import REQUIRED, Configurable
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.sbp.data import Corpus, Documents, Symbols, document_batch
from orchard.papers.sbp.pretrain import Pretrain, in_parts, load_pretrained
from orchard.runs import Workspace
from orchard.train import choose


class Embedder(Configurable):
    """Base of the embedders."""

    class Config(Configurable.Config):
        pass

    def embed(
        self, corpus: Corpus, splits: dict[str, Documents], work: Workspace
    ) -> dict[str, Float32[np.ndarray, "_ dim"]]:
        """Unit rows for the documents of every split; what is fitted is fitted on the split `train`."""
        raise NotImplementedError


class LMEmbedder(Embedder):
    """Mean-pooled states of a decoder that was pretrained on the same corpus: no model from outside."""

    class Config(Embedder.Config):
        pretrained: Pretrain.Config = REQUIRED

    cfg: Config

    def __init__(self, cfg: LMEmbedder.Config) -> None:
        self.cfg = cfg

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Workspace) -> dict[str, Any]:
        model = load_pretrained(work.result_of(self.cfg.pretrained), self.cfg.pretrained).to(choose(work.device).device)
        states = {name: mean_states(model, documents, corpus.symbols) for name, documents in splits.items()}
        centre = states["train"].mean(axis=0)
        return {name: unit(rows - centre) for name, rows in states.items()}


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


def unit(rows: Float[np.ndarray, "_ dim"]) -> Float32[np.ndarray, "_ dim"]:
    """Rows of length one; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1.0)).astype(np.float32)


class TfidfEmbedder(Embedder):
    """TF-IDF of the tokens, from scikit-learn: sublinear term frequencies, inverse document frequencies of D, truncated SVD."""

    class Config(Embedder.Config):
        components: int = 64

    cfg: Config

    def __init__(self, cfg: TfidfEmbedder.Config) -> None:
        self.cfg = cfg

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Workspace) -> dict[str, Any]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        def words(documents: Documents) -> list[list[int]]:
            return [documents[i].tolist() for i in range(len(documents))]

        weights = TfidfVectorizer(analyzer=lambda body: body, sublinear_tf=True)
        distinct = len(np.unique(splits["train"].tokens))
        if distinct < 2 or len(splits["train"]) < 2:
            raise BadInput(
                f"TF-IDF cannot tell {len(splits['train'])} documents of {distinct} different tokens apart: give another corpus or embedder"
            )
        fitted = weights.fit_transform(words(splits["train"]))
        components = min(self.cfg.components, min(fitted.shape) - 1)
        reduced = TruncatedSVD(components, algorithm="arpack", random_state=0).fit(fitted)
        return {
            name: unit(reduced.transform(weights.transform(words(documents)))) for name, documents in splits.items()
        }
