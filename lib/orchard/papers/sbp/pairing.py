"""Stage 1, pair: documents of D that are near one another but not the same (specification, 3.1 step 1 and 3.4).

    D_ST = {(d1, d2) : <e(d1), e(d2)> > alpha, d1 != d2, d2 among the k nearest of d1, Jaccard_5(d1, d2) <= 0.6}
    alpha = the score that a share `exceedance` of random pairs of D exceeds

The paper's alpha could not be read and belonged to one embedder; the exceedance belongs to none. Both directions of a pair are kept,
and no document may be the first or the second of more than k pairs: hubs would otherwise dominate what the synthesizer writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.data import Corpus, Documents, check_enough
from orchard.papers.sbp.embedding import Embedder
from orchard.papers.sbp.shingles import jaccard
from orchard.runs import Run, Workspace

RANDOM_PAIRS = 200_000


class Pair(Run):
    """Pair the documents of D, and those of the validation split among themselves with the same threshold.

    Result: ``alpha``; ``pairs`` and what was left out and why (``below``, ``near_duplicates``, ``capped``), for D and held-out.
    Files: ``pairs.safetensors`` and ``held_out.safetensors``: ``first``, ``second`` [pairs], ``score`` [pairs];
    ``random.safetensors``: ``score`` of random pairs of D, ``nearest`` [documents, k] of all candidates.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        embedder: Embedder.Config = REQUIRED
        k: int = 8
        exceedance: float = 1e-3
        near_duplicate: float = 0.6  # Jaccard of 5-grams above which a pair is the same document twice
        held_out: int = 500  # documents of the validation split
        seed: int = 0

    preload = "orchard.papers.sbp.embedding"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Embed, search, filter, cap. Raises BadInput where no pair is left, and says which rule left none."""
        cfg = self.cfg
        corpus: Corpus = cfg.corpus.build()
        splits = {"train": corpus.documents("train"), "held_out": corpus.documents("validation").head(cfg.held_out)}
        check_enough(splits["train"], cfg.k + 1, f"pairing with k = {cfg.k} neighbours")
        vectors = cfg.embedder.build().embed(corpus, splits, work)
        random = np.random.default_rng([cfg.seed, 4])
        scores = random_scores(vectors["train"], random)
        alpha = float(np.quantile(scores, 1 - cfg.exceedance))
        result: dict[str, Any] = {"alpha": alpha}
        for split, documents in splits.items():
            near, score = exact_neighbours(vectors[split], min(cfg.k, len(documents) - 1))
            found, counts = kept_pairs(documents, near, score, alpha, cfg.k, cfg.near_duplicate)
            if split == "train":
                _check_some(counts, alpha, cfg)
                tensors = {"score": torch.from_numpy(scores[:20_000].copy()), "nearest": torch.from_numpy(score)}
                save_file(tensors, work.folder / "random.safetensors")
            name = "pairs" if split == "train" else split
            save_file(
                {key: torch.from_numpy(value) for key, value in found.items()}, work.folder / f"{name}.safetensors"
            )
            result[name] = counts
        return result


def random_scores(
    vectors: Float32[np.ndarray, "documents dim"], random: np.random.Generator
) -> Float32[np.ndarray, "_"]:
    """Scores of random pairs of two documents."""
    first = random.integers(len(vectors), size=RANDOM_PAIRS)
    second = (first + random.integers(1, len(vectors), size=RANDOM_PAIRS)) % len(vectors)
    halves = zip(np.array_split(first, 20), np.array_split(second, 20), strict=True)
    parts = [np.einsum("nd,nd->n", vectors[a], vectors[b]) for a, b in halves]
    return np.concatenate(parts)


def exact_neighbours(
    vectors: Float32[np.ndarray, "documents dim"], k: int, at_once: int = 1024
) -> tuple[Int64[np.ndarray, "documents k"], Float32[np.ndarray, "documents k"]]:
    """The k best other documents of each by inner product, best first, and their scores."""
    near, score = [], []
    rows = torch.from_numpy(vectors)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once] @ rows.T
        part[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        best = part.topk(k, dim=1)
        near.append(best.indices)
        score.append(best.values)
    return torch.cat(near).numpy(), torch.cat(score).numpy()


def kept_pairs(
    documents: Documents,
    near: Int64[np.ndarray, "documents k"],
    score: Float32[np.ndarray, "documents k"],
    alpha: float,
    cap: int,
    near_duplicate: float,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The pairs that stay, best score first, and how many each rule left out."""
    first, second = np.repeat(np.arange(len(near)), near.shape[1]), near.reshape(-1)
    value = score.reshape(-1)
    counts = {"candidates": len(value)}
    keep = value > alpha
    counts["below"] = int((~keep).sum())
    first, second, value = first[keep], second[keep], value[keep]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    both, place = np.unique(np.stack([lower, upper]), axis=1, return_index=True)
    value = value[place]
    copies = jaccard(documents, documents, both[0], both[1]) > near_duplicate
    counts["near_duplicates"] = int(copies.sum())
    both, value = both[:, ~copies], value[~copies]
    first, second, value = (
        np.concatenate([both[0], both[1]]),
        np.concatenate([both[1], both[0]]),
        np.concatenate([value, value]),
    )
    order = np.lexsort((second, first, -value))
    first, second, value = first[order], second[order], value[order]
    keep = within_degree(first, cap) & within_degree(second, cap)
    counts["capped"], counts["pairs"] = int((~keep).sum()), int(keep.sum())
    return {"first": first[keep], "second": second[keep], "score": value[keep]}, counts


def within_degree(ends: Int64[np.ndarray, "pairs"], cap: int) -> Bool[np.ndarray, "pairs"]:
    """Whether a pair is among the first ``cap`` of its document, in the order given."""
    order = np.argsort(ends, kind="stable")
    ordered = ends[order]
    rank = np.arange(len(ends)) - np.searchsorted(ordered, ordered)
    found = np.empty(len(ends), dtype=bool)
    found[order] = rank < cap
    return found


def precision_curve(
    first: Integer[np.ndarray, "pairs"],
    second: Integer[np.ndarray, "pairs"],
    score: Float[np.ndarray, "pairs"],
    labels: Integer[np.ndarray, "documents"],
    points: int = 200,
) -> pd.DataFrame:
    """How many pairs are true at every threshold: columns score, pairs, precision, recall, from the strictest threshold on.

    A row is about the pairs that score at least ``score``, and equal scores come in together. A pair is true if its documents have the
    same label. Recall is over all ordered pairs of different documents with the same label, candidates or not; NaN if there are none.
    At most about ``points`` rows, evenly spaced in pairs.
    """
    order = np.argsort(-score, kind="stable")
    ordered, true = score[order], np.cumsum(labels[first[order]] == labels[second[order]])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.empty(0, np.int64)
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(np.int64))]
    sizes = np.unique(labels, return_counts=True)[1]
    possible = int((sizes * (sizes - 1)).sum())
    recall = true[ends] / possible if possible else np.full(len(ends), np.nan)
    return pd.DataFrame(
        {"score": ordered[ends], "pairs": ends + 1, "precision": true[ends] / (ends + 1), "recall": recall}
    )


def _check_some(counts: dict[str, int], alpha: float, cfg: Pair.Config) -> None:
    if counts["pairs"]:
        return
    if counts["below"] == counts["candidates"]:
        raise BadInput(
            f"no pair scores above alpha = {alpha:.4f}, which {cfg.exceedance:g} of random pairs exceed: "
            "raise exceedance, or give an embedder that tells the documents apart"
        )
    raise BadInput(
        f"no pair is left: {counts['near_duplicates']} of {counts['candidates'] - counts['below']} above the threshold are the same "
        f"document twice (Jaccard above {cfg.near_duplicate:g}): the corpus repeats itself, remove its duplicates first"
    )
