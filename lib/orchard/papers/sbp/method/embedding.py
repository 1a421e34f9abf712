"""Embedders: a unit vector for every document, fitted on D alone.

    TF-IDF                      (1 + log tf) log((1 + n) / (1 + df)) + 1 per token, rows of unit length, then a truncated SVD
    a language model of ours    mean over the tokens of d of the last layer's states, centred on D       (`runs.embedding`)
    a model on this disk        the same mean, or the state of the last token                            (`integrations.embedder`)

Every row is of unit length, so that inner products are cosines. TF-IDF is not centred, its angles are small where documents share words;
states of a decoder share a large common direction, which says nothing, and are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from orchard.config import Configurable
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Corpus, Documents


class Embedder(Configurable):
    """Base of the embedders."""

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Any) -> dict[str, Float32[np.ndarray, "_ dim"]]:
        """Unit rows for the documents of every split; what is fitted is fitted on the split `train`.

        ``work`` is the workspace of the run that embeds: its device, and the results of the runs it holds.
        """
        raise NotImplementedError


def unit(rows: Float[np.ndarray, "_ dim"]) -> Float32[np.ndarray, "_ dim"]:
    """Rows of length one; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1.0)).astype(np.float32)


def centred(rows: dict[str, Float32[np.ndarray, "_ dim"]]) -> dict[str, Float32[np.ndarray, "_ dim"]]:
    """Rows of length one around the mean of the split `train`."""
    centre = rows["train"].mean(axis=0)
    return {name: unit(found - centre) for name, found in rows.items()}


class TfidfEmbedder(Embedder):
    """TF-IDF of the tokens, from scikit-learn: sublinear term frequencies, inverse document frequencies of D, truncated SVD."""

    class Config(Embedder.Config):
        components: int = 64

    cfg: Config

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Any) -> dict[str, Any]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        def words(documents: Documents) -> list[list[int]]:
            return [body.tolist() for body in documents]

        weights = TfidfVectorizer(analyzer=lambda body: body, sublinear_tf=True)
        distinct = len(np.unique(splits["train"].tokens))
        if distinct < 2 or len(splits["train"]) < 2:
            told = f"{len(splits['train'])} documents of {distinct} different tokens"
            raise BadInput(f"TF-IDF cannot tell {told} apart: give another corpus or embedder")
        fitted = weights.fit_transform(words(splits["train"]))
        components = min(self.cfg.components, min(fitted.shape) - 1)
        reduced = TruncatedSVD(components, algorithm="arpack", random_state=0).fit(fitted)
        return {name: unit(reduced.transform(weights.transform(words(one)))) for name, one in splits.items()}
