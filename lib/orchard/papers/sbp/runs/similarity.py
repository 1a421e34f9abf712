"""What similarity finds: scores of random, nearest and true pairs, and precision and recall against the threshold.

    precision(alpha) = share of the k nearest above alpha that share a label with their document, near duplicates left out
    recall(alpha)    = those found / those that k places could hold, sum_d min(k, partners of d)

The embedder and k are those of a pairing run; alpha is given by the share of random pairs that exceed it, as there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.method.ngrams import jaccard
from orchard.papers.sbp.method.pairing import random_scores
from orchard.papers.sbp.method.search import exact_neighbours
from orchard.papers.sbp.runs.pair import Pair, drawn
from orchard.runs import Run, Workspace

EXCEEDANCES = tuple(np.logspace(-4, 0, 25).tolist())
SHOWN = 20_000  # random and nearest pairs that are kept for the histogram


class Similarity(Run):
    """Scores of pairs of D under the embedder of a pairing run.

    Result: ``rows``: relation (what documents share), exceedance, alpha, found (pairs above alpha), precision, recall; ``chance``: the
    share of random pairs that share each relation. Files: ``scores.safetensors``: ``random``, ``nearest``, ``true`` (pairs that share
    their concept).
    """

    class Config(Run.Config):
        pairs: Pair.Config = REQUIRED

    preload = "orchard.papers.sbp.runs.embedding"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg.pairs
        corpus: Any = cfg.corpus.build()
        documents = corpus.documents("train")
        vectors = cfg.embedder.build().embed(corpus, {"train": documents}, work)["train"]
        random = np.random.default_rng([cfg.seed, 4])
        scores = random_scores(vectors, random)
        near, score = exact_neighbours(vectors, cfg.k)
        first, second, score = np.repeat(np.arange(len(near)), cfg.k), near.reshape(-1), score.reshape(-1)
        fresh = jaccard(documents, documents, first, second) <= cfg.near_duplicate
        relations = corpus.relations(documents)
        rows, chance = [], {}
        for relation, labels in relations.items():
            hit, possible = labels[first] == labels[second], reachable(labels, cfg.k)
            chance[relation] = same_label(labels)
            for exceedance in EXCEEDANCES:
                alpha = float(np.quantile(scores, 1 - exceedance))
                above = fresh & (score > alpha)
                found, hits = int(above.sum()), int((above & hit).sum())
                precision = hits / found if found else float("nan")
                row = {"relation": relation, "exceedance": exceedance, "alpha": alpha, "found": found}
                rows.append({**row, "precision": precision, "recall": hits / possible})
        a, b = drawn(documents, 1.0, 1, random)
        together = documents.labels[a] == documents.labels[b]
        true = np.einsum("nd,nd->n", vectors[a[together]], vectors[b[together]])
        shown = {"random": scores[:SHOWN], "nearest": score[:SHOWN], "true": true}
        save_file(shown, work.folder / "scores.safetensors")
        return {"rows": rows, "chance": chance}


def reachable(labels: Int[np.ndarray, "documents"], k: int) -> int:
    """Pairs with one label that k places for each document can hold."""
    sizes = np.unique(labels, return_counts=True)[1]
    return int((sizes * np.minimum(sizes - 1, k)).sum())


def same_of(labels: Int[np.ndarray, "documents"], first: np.ndarray, second: np.ndarray) -> float:
    """The share of the pairs whose documents have one label."""
    return float((labels[first] == labels[second]).mean())


def same_label(labels: Int[np.ndarray, "documents"]) -> float:
    """The share of pairs of two documents that have one label."""
    sizes, count = np.unique(labels, return_counts=True)[1], len(labels)
    return float((sizes * (sizes - 1)).sum() / (count * (count - 1)))


class KnownCopies(Run):
    """What the rule against near duplicates finds in a corpus that knows its own. Result: ``rows``: edits (words that differ; -1: no
    copy, one of the nearest by TF-IDF), jaccard."""

    class Config(Run.Config):
        corpus: ConceptWorld.Config = REQUIRED
        k: int = 8
        most: int = 2000  # pairs of each kind

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: Any = cfg.corpus.build()
        documents = corpus.documents("train")
        original = corpus.originals(len(documents))
        copy = np.flatnonzero(original >= 0)[: cfg.most]
        vectors = TfidfEmbedder.Config().build().embed(corpus, {"train": documents}, work)["train"]
        near, _ = exact_neighbours(vectors, cfg.k)
        root = np.where(original >= 0, original, np.arange(len(documents)))
        first, second = np.repeat(np.arange(len(near)), cfg.k), near.reshape(-1)
        other = np.flatnonzero(root[first] != root[second])[: cfg.most]
        rows = []
        for a, b, copied in ((copy, original[copy], True), (first[other], second[other], False)):
            same = jaccard(documents, documents, a, b)
            for i, j, value in zip(a, b, same, strict=True):
                edits = int((documents[i] != documents[j]).sum()) if copied else -1
                rows.append({"edits": edits, "jaccard": float(value)})
        return {"rows": rows}
