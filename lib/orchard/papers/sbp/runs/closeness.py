"""How near documents are in the space they were paired in: pairs, random pairs, and synthetic documents to their seeds.

    cosine(a, b) = <e(a), e(b)>        e: an embedder fitted on D alone

The pairs of an arm were chosen by one embedder; TF-IDF beside it has not seen that choice. Real pairs with the same concept and pairs of
anybody, both of D, are the ends of the scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.method.documents import Corpus
from orchard.papers.sbp.method.embedding import Embedder
from orchard.papers.sbp.runs.pair import drawn
from orchard.papers.sbp.runs.synthesise import sampled_documents
from orchard.papers.sbp.runs.tune import pairs_of
from orchard.runs import Run, Workspace


class Closeness(Run):
    """Cosines of pairs of D, and of sampled documents with their seeds.

    Result: ``documents`` of D.
    Files: ``cosines.safetensors``: ``true``, ``random``, ``nearest`` (the pairs of ``pairs``), and ``sampled_<i>`` for each of
    ``sampled`` (raw samples with a seed).
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        embedder: Embedder.Config = REQUIRED
        pairs: Run.Config = REQUIRED
        sampled: list[Run.Config] = REQUIRED
        most: int = REQUIRED  # documents of each
        seed: int = 0

    preload = "orchard.papers.sbp.runs.embedding"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus = cfg.corpus.build()
        real = corpus.documents("train")
        random = np.random.default_rng([cfg.seed, 14])
        splits, seeds = {"train": real}, {}
        for number, sampled in enumerate(cfg.sampled):
            documents, seed, *_ = sampled_documents(work.result_of(sampled))
            chosen = np.flatnonzero((seed >= 0) & (documents.lengths > 0))[: cfg.most]
            splits[f"sampled_{number}"], seeds[f"sampled_{number}"] = documents.take(chosen), seed[chosen]
        vectors = cfg.embedder.build().embed(corpus, splits, work)
        found = {name: cosines(vectors[name], vectors["train"][seed]) for name, seed in seeds.items()}
        first, second = pairs_of(work.result_of(cfg.pairs), "pairs")
        ends = {"true": drawn(real, 1.0, 8, random), "random": drawn(real, 0.0, 8, random), "nearest": (first, second)}
        for name, (a, b) in ends.items():
            some = random.permutation(len(a))[: cfg.most]
            found[name] = cosines(vectors["train"][a[some]], vectors["train"][b[some]])
        save_file({name: torch.from_numpy(value) for name, value in found.items()}, work.folder / "cosines.safetensors")
        return {"documents": len(real)}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of unit rows, row by row."""
    return np.einsum("nd,nd->n", a, b)
