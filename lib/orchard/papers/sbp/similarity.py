"""What similarity finds: scores of random, nearest and true pairs, and precision and recall against the threshold.

    precision(alpha) = share of the k nearest above alpha that share a label with their document, near duplicates left out
    recall(alpha)    = those found / those that k places could hold, sum_d min(k, partners of d)

The embedder and k are those of a pairing run; alpha is given by the share of random pairs that exceed it, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp import joint
from orchard.papers.sbp.drawn import drawn
from orchard.papers.sbp.embedding import TfidfEmbedder
from orchard.papers.sbp.pairing import Pair, random_scores
from orchard.papers.sbp.profiles import PROFILES, world
from orchard.papers.sbp.search import exact_neighbours
from orchard.papers.sbp.shingles import jaccard
from orchard.papers.sbp.world import ConceptWorld
from orchard.runs import Run, Runner, Setting, Workspace

EXCEEDANCES = tuple(np.logspace(-4, 0, 25).tolist())
SHOWN = 20_000  # random and nearest pairs that are kept for the histogram
EDGES = np.linspace(-1.0, 1.0, 81)  # of the bins of cosines
VARIANTS = ("dep", "indep", "hier")  # where pairs can be scored, or must be at chance


class Similarity(Run):
    """Scores of pairs of D under the embedder of a pairing run.

    Result: ``rows``: relation (what documents share), exceedance, alpha, found (pairs above alpha), precision, recall; ``chance``: the
    share of random pairs that share each relation. Files: ``scores.safetensors``: ``random``, ``nearest``, ``true`` (pairs that share
    their concept).
    """

    class Config(Run.Config):
        pairs: Pair.Config = REQUIRED

    preload = "orchard.papers.sbp.embedding"
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
        tensors = {name: torch.from_numpy(value.copy()) for name, value in shown.items()}
        save_file(tensors, work.folder / "scores.safetensors")
        return {"rows": rows, "chance": chance}


def reachable(labels: Int[np.ndarray, "documents"], k: int) -> int:
    """Pairs with one label that k places for each document can hold."""
    sizes = np.unique(labels, return_counts=True)[1]
    return int((sizes * np.minimum(sizes - 1, k)).sum())


def same_label(labels: Int[np.ndarray, "documents"]) -> float:
    """The share of pairs of two documents that have one label."""
    sizes, count = np.unique(labels, return_counts=True)[1], len(labels)
    return float((sizes * (sizes - 1)).sum() / (count * (count - 1)))


def _first_cells(setting: Setting, run: Runner) -> list[tuple[str, Pair.Config]]:
    """The pairing of the comparison in the first cell of each variant."""
    first: dict[str, Pair.Config] = {}
    for cell, chosen in joint.studies(setting, run, *VARIANTS):
        pairs = chosen.pairs("sbp-nn-lm")
        if cell.variant not in first and isinstance(pairs, Pair.Config):
            first[cell.variant] = pairs
    return list(first.items())


def _similarities(setting: Setting, run: Runner) -> list[tuple[str, Any]]:
    found = _first_cells(setting, run)
    done = run([Similarity.Config(pairs=pairs, label=f"similarity; {pairs.label}") for _, pairs in found])
    return [(variant, finished) for (variant, _), finished in zip(found, done, strict=True)]


def similarity(setting: Setting, run: Runner) -> pd.DataFrame:
    """A histogram of cosines: one row per variant, pairs (random, nearest, true) and bin: low, high, density, count of pairs in all."""
    rows = []
    for variant, done in _similarities(setting, run):
        for pairs, score in done.tensors("scores").items():
            density, _ = np.histogram(score.numpy(), bins=EDGES, density=True)
            part = pd.DataFrame({"low": EDGES[:-1], "high": EDGES[1:], "density": density})
            rows.append(part.assign(variant=variant, pairs=pairs, count=len(score)))
    return pd.concat(rows, ignore_index=True)[["variant", "pairs", "low", "high", "density", "count"]]


def thresholds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, relation and threshold: exceedance, alpha, found, precision, recall, and chance (of a random pair)."""
    rows = []
    for variant, done in _similarities(setting, run):
        chance = done.result["chance"]
        rows += [{"variant": variant, **row, "chance": chance[row["relation"]]} for row in done.result["rows"]]
    return pd.DataFrame(rows)


def paired(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant: alpha of the comparison's own pairing, how many pairs each rule left out, and the share of pairs that have
    one concept (``precision``) and one genre (``genre``), beside those of random pairs."""
    found = _first_cells(setting, run)
    done = run([pairs for _, pairs in found])
    rows = []
    for (variant, pairs), finished in zip(found, done, strict=True):
        documents = pairs.corpus.build().documents("train")
        first, second = (finished.tensors("pairs")[name].numpy() for name in ("first", "second"))
        rows.append({"variant": variant, "alpha": finished.result["alpha"], **finished.result["pairs"]})
        genres = documents.tokens[documents.offsets[:-1]]  # a body begins with its genre
        for name, labels in (("precision", documents.labels), ("genre", genres)):
            shares = {name: float((labels[first] == labels[second]).mean()), f"{name}, random": same_label(labels)}
            rows[-1] |= shares
    return pd.DataFrame(rows)


# -------------------------------------------------------------- near duplicates


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


def near_duplicates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per pair of the near-dup world: kind (copy with 0, 1 or 2 edits, or a neighbour that is no copy), edits, jaccard."""
    profile = PROFILES[setting.profile]
    cfg = KnownCopies.Config(
        corpus=world(setting, "near-dup", profile.worlds[0]), k=profile.neighbours, label="near duplicates"
    )
    table = pd.DataFrame(run([cfg])[0].result["rows"])
    words = {-1: "neighbour, no copy", 0: "copy, no edit", 1: "copy, 1 edit", 2: "copy, 2 edits"}
    return table.assign(kind=table["edits"].map(words))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "similarity": similarity, "thresholds": thresholds, "paired": paired, "near_duplicates": near_duplicates,
}  # fmt: skip
