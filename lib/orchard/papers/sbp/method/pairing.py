"""Stage 1, pair: documents of D that are near one another but not the same.

    D_ST = {(d1, d2) : <e(d1), e(d2)> > alpha, d1 != d2, d2 among the k nearest of d1, Jaccard_5(d1, d2) <= 0.6}
    alpha = the score that a share `exceedance` of random pairs of D exceeds

The paper's alpha could not be read and belonged to one embedder; the exceedance belongs to none. Both directions of a pair are kept,
and no document may be the first or the second of more than k pairs: hubs would otherwise dominate what the synthesizer writes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int64

from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.ngrams import jaccard
from orchard.papers.sbp.method.search import Neighbours

RANDOM_PAIRS = 200_000


def random_scores(
    vectors: Float32[np.ndarray, "documents dim"], random: np.random.Generator
) -> Float32[np.ndarray, "pairs"]:
    """Scores of random pairs of two documents; of all pairs in random order, where there are fewer than would be drawn."""
    count = len(vectors)
    if count * (count - 1) // 2 <= RANDOM_PAIRS:
        first, second = random.permutation(np.stack(np.triu_indices(count, 1)), axis=1)
    else:
        first = random.integers(count, size=RANDOM_PAIRS)
        second = (first + random.integers(1, count, size=RANDOM_PAIRS)) % count
    halves = zip(np.array_split(first, 20), np.array_split(second, 20), strict=True)
    parts = [np.einsum("nd,nd->n", vectors[a], vectors[b]) for a, b in halves]
    return np.concatenate(parts)


def threshold(scores: Float32[np.ndarray, "pairs"], exceedance: float) -> float:
    """alpha: the smallest score that at most a share ``exceedance`` of the scores lies above. Equal scores stay on one side."""
    return float(np.quantile(scores, 1 - exceedance, method="higher"))


def kept_pairs(
    documents: Documents,
    numbers: Int64[np.ndarray, "searched"],
    found: Neighbours,
    alpha: float,
    cap: int,
    near_duplicate: float,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The pairs that stay, best score first, and how many each rule left out. ``numbers`` of the documents that were searched.

    The first three arrays are the pairs that stay; ``first_before`` and ``second_before`` those before the caps.
    """
    near, score = found.near, found.score
    first, second = np.repeat(np.arange(len(near)), near.shape[1]), near.reshape(-1)
    value = score.reshape(-1)
    counts = {"candidates": len(value)}
    keep = value > alpha
    counts["below"] = int((~keep).sum())
    first, second, value = numbers[first[keep]], numbers[second[keep]], value[keep]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    key, place = np.unique(lower * len(documents) + upper, return_index=True)  # numbers of two documents in one
    both, value = np.stack(np.divmod(key, max(len(documents), 1))), value[place]
    copies = jaccard(documents, documents, both[0], both[1]) > near_duplicate
    counts["near_duplicates"] = int(copies.sum())
    both, value = both[:, ~copies], value[~copies]
    (first, second), value = np.concatenate([both, both[::-1]], axis=1), np.tile(value, 2)
    order = np.lexsort((second, first, -value))
    first, second, value = first[order], second[order], value[order]
    keep = within_degree(first, cap) & within_degree(second, cap)
    counts["capped"], counts["pairs"] = int((~keep).sum()), int(keep.sum())
    return {
        "first": first[keep], "second": second[keep], "score": value[keep], "first_before": first, "second_before": second,
    }, counts  # fmt: skip


def degrees(
    near: Int64[np.ndarray, "searched k"],
    score: Float32[np.ndarray, "searched k"],
    alpha: float,
    pairs: dict[str, np.ndarray],
    documents: int,
) -> dict[str, Int64[np.ndarray, "documents"]]:
    """How often each document of D is an end of a pair, at three stages.

    ``nearest_in``: it is among the k nearest of so many others, above alpha: what makes a hub. ``both``: with both directions kept and
    near-duplicates gone it is the first of so many pairs, and the second of as many. ``out`` and ``in``: the same within the caps; they
    are equal, because the caps count the two directions of a pair in the same order.
    """
    ends = {
        "nearest_in": near[score > alpha], "both": pairs["first_before"], "out": pairs["first"], "in": pairs["second"]
    }  # fmt: skip
    return {name: np.bincount(end, minlength=documents) for name, end in ends.items()}


def within_degree(ends: Int64[np.ndarray, "pairs"], cap: int) -> Bool[np.ndarray, "pairs"]:
    """Whether a pair is among the first ``cap`` of its document, in the order given."""
    order = np.argsort(ends, kind="stable")
    ordered = ends[order]
    rank = np.arange(len(ends)) - np.searchsorted(ordered, ordered)
    found = np.empty(len(ends), dtype=bool)
    found[order] = rank < cap
    return found
