"""Embedders: a unit vector for every document, fitted on D alone (specification, 3.1 step 1).

e(d) = mean over the tokens of d of the last layer's states, centred on D, of unit length     (a language model of ours)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from orchard.config import REQUIRED, Configurable
from orchard.nn import Decoder
from orchard.papers.sbp.data import Corpus, Documents, Symbols, document_batch
from orchard.papers.sbp.pretrain import Pretrain, in_parts, load_pretrained
from orchard.runs import Workspace


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
        model = load_pretrained(work.result_of(self.cfg.pretrained), self.cfg.pretrained)
        states = {name: mean_states(model, documents, corpus.symbols) for name, documents in splits.items()}
        centre = states["train"].mean(axis=0)
        return {name: unit(rows - centre) for name, rows in states.items()}


@torch.no_grad()
def mean_states(model: Decoder, documents: Documents, symbols: Symbols) -> Float32[np.ndarray, "documents dim"]:
    """The mean over the body's tokens of what the output matrix reads."""
    device = model.embedding.weight.device
    found = [np.empty((0, model.dim), np.float32)]
    for part in in_parts(documents.lengths):
        chosen = documents.take(part)
        tokens = document_batch(chosen, symbols).tokens[:, :-1].to(device)  # eos tells nothing about the document
        inside = torch.arange(tokens.shape[1]) <= torch.from_numpy(chosen.lengths)[:, None]
        inside[:, 0] = False  # bos neither
        weights = inside.float().to(device)
        states = model.features(tokens)
        pooled = torch.einsum("ntd,nt->nd", states, weights) / weights.sum(dim=1, keepdim=True)
        found.append(pooled.float().cpu().numpy())
    return np.concatenate(found)


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
        fitted = weights.fit_transform(words(splits["train"]))
        components = min(self.cfg.components, min(fitted.shape) - 1)
        reduced = TruncatedSVD(components, random_state=0).fit(fitted)
        return {
            name: unit(reduced.transform(weights.transform(words(documents)))) for name, documents in splits.items()
        }
