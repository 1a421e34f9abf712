"""Stage 1, pair: documents of D that are near one another but not the same.

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
from orchard.papers.sbp.duplicates import NearDuplicates
from orchard.papers.sbp.embedding import Embedder
from orchard.papers.sbp.search import ExactSearch, Neighbours, Search
from orchard.papers.sbp.shingles import jaccard
from orchard.runs import Run, Workspace
from orchard.train import choose

RANDOM_PAIRS = 200_000
SAME = 1e-6  # largest difference of coordinates between vectors that are the same


class Pair(Run):
    """Pair the documents of D, and those of the validation split among themselves with the same threshold.

    Result: ``alpha``; ``pairs`` and what was left out and why (``below``, ``near_duplicates``, ``capped``), for D and held-out;
    ``search`` with its recall; ``copies``, the documents of D that were left out as near-duplicates of an earlier one.
    Files: ``pairs.safetensors`` and ``held_out.safetensors``: ``first``, ``second`` [pairs], ``score`` [pairs];
    ``random.safetensors``: ``score`` of random pairs of D, ``near`` (numbers) and ``nearest`` (scores) [searched, k] of all candidates,
    ``searched``: their numbers in D; ``degrees.safetensors``: see :func:`degrees`.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        embedder: Embedder.Config = REQUIRED
        search: Search.Config = ExactSearch.Config()
        k: int = 8
        exceedance: float = 1e-3
        near_duplicate: float = 0.6  # Jaccard of 5-grams above which a pair is the same document twice
        copies: NearDuplicates.Config | None = (
            None  # how near-duplicates of earlier documents are found and left out of D before
        )
        held_out: int = 500  # documents of the validation split
        seed: int = 0

    preload = "orchard.papers.sbp.embedding"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Embed, search, filter, cap. Raises BadInput where no pair is left, and says which rule left none."""
        cfg = self.cfg
        if not 0 < cfg.exceedance < 1 or cfg.k < 1:
            raise BadInput(
                f"Pair.Config has exceedance {cfg.exceedance:g} and k = {cfg.k}: the first lies between 0 and 1, k is at least 1"
            )
        corpus: Corpus = cfg.corpus.build()
        splits = {"train": corpus.documents("train"), "held_out": corpus.documents("validation").head(cfg.held_out)}
        check_enough(splits["train"], cfg.k + 1, f"pairing with k = {cfg.k} neighbours")
        check_enough(splits["held_out"], 2, "pairing held-out documents")
        for split, documents in splits.items():
            check_whole(documents, split)
        kept = np.arange(len(splits["train"]))
        if cfg.copies is not None:
            kept = np.flatnonzero(cfg.copies.build().groups(splits["train"]) == kept)
            check_enough(
                splits["train"].take(kept), cfg.k + 1, f"pairing with k = {cfg.k} after near-duplicates are left out"
            )
        vectors = cfg.embedder.build().embed(corpus, splits, work)
        check_vectors(vectors, splits, cfg.embedder.owner.__name__)
        vectors["train"] = vectors["train"][kept]
        random = np.random.default_rng([cfg.seed, 4])
        scores = random_scores(vectors["train"], random)
        alpha = threshold(scores, cfg.exceedance)
        search: Search = cfg.search.build()
        result: dict[str, Any] = {"alpha": alpha, "copies": len(splits["train"]) - len(kept)}
        for split, documents in splits.items():
            k = min(cfg.k, len(vectors[split]) - 1)
            found = search.neighbours(vectors[split], k, choose(work.device).device, work.threads)
            numbers = kept if split == "train" else np.arange(len(documents))
            pairs, counts = kept_pairs(documents, numbers, found, alpha, cfg.k, cfg.near_duplicate)
            check_some(counts, alpha, cfg, split)
            if split == "train":
                result["search"] = found.report
                if found.report["recall"] < found.report.get("wanted", 0.0):
                    work.log(
                        f"warning: the search found {found.report['recall']:.1%} of the {k} nearest documents, "
                        f"{found.report['wanted']:.0%} were wanted: raise FaissSearch.Config.sample or probes, or use ExactSearch"
                    )
                near = np.where(found.near < 0, -1, numbers[found.near])
                _save(work, "random", score=scores, near=near, nearest=found.score, searched=numbers)
                _save(work, "degrees", **degrees(near, found.score, alpha, pairs, len(documents)))
            name = "pairs" if split == "train" else split
            _save(work, name, first=pairs["first"], second=pairs["second"], score=pairs["score"])
            result[name] = counts
        return result


def _save(work: Workspace, name: str, **tensors: np.ndarray) -> None:
    save_file(
        {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()},
        work.folder / f"{name}.safetensors",
    )


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
    first, second, value = (
        np.concatenate([both[0], both[1]]),
        np.concatenate([both[1], both[0]]),
        np.concatenate([value, value]),
    )
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


def check_whole(documents: Documents, split: str) -> None:
    """Raise BadInput if a document has no token: it has no place among others."""
    empty = np.flatnonzero(documents.lengths == 0)
    if len(empty):
        name = f" ({documents.names[empty[0]]})" if documents.names else ""
        raise BadInput(
            f"{len(empty)} of the {len(documents)} documents ({split}) are empty, the first is number {empty[0]}{name}: "
            "leave empty documents out of the corpus"
        )


def check_vectors(
    vectors: dict[str, Float32[np.ndarray, "_ dim"]], splits: dict[str, Documents], embedder: str
) -> None:
    """Raise BadInput if vectors are not finite, or all the same for D."""
    for split, rows in vectors.items():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise BadInput(
                f"{embedder} gives numbers that are not finite for {len(bad)} of {len(rows)} documents ({split}), the first is number "
                f"{bad[0]}: its model is damaged or overflows, give another one"
            )
    rows, documents = vectors["train"], splits["train"]
    if np.abs(rows - rows[0]).max() < SAME:
        body = documents[0]
        if all(np.array_equal(documents[i], body) for i in range(1, len(documents))):
            raise BadInput(
                f"all {len(documents)} documents are the same, so that none is a partner of another: give different ones"
            )
        raise BadInput(
            f"{embedder} gives all {len(documents)} documents the same vector: it does not tell them apart, give another embedder"
        )


def check_some(counts: dict[str, int], alpha: float, cfg: Pair.Config, split: str) -> None:
    """Raise BadInput if no pair is left, with the rule that left none."""
    if counts["pairs"]:
        return
    if counts["below"] == counts["candidates"]:
        raise BadInput(
            f"no pair of documents ({split}) scores above alpha = {alpha:.4f}, which at most {cfg.exceedance:g} of random pairs exceed: "
            "raise exceedance, give more documents, or an embedder that tells the documents apart"
        )
    raise BadInput(
        f"no pair of documents ({split}) is left: {counts['near_duplicates']} of those above the threshold are the same document twice "
        f"(Jaccard above {cfg.near_duplicate:g}): the corpus repeats itself, remove its duplicates first"
    )
