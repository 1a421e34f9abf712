"""Stage 1, pair, as a run: documents of D with their neighbours (`Pair`), or with partners that no embedder chose (`DrawnPairs`).

Drawn pairs are random, true, or a mixture of both. A synthesizer tuned on random pairs converges to P(d2): it is the control for whether
pairs tell anything. True pairs share the label of their corpus and are the upper end; a share rho of them gives the dose-response in
pair precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Corpus, Documents, check_enough, labels_of
from orchard.papers.sbp.method.embedding import Embedder
from orchard.papers.sbp.method.ngrams import NearDuplicates
from orchard.papers.sbp.method.pairing import degrees, kept_pairs, random_scores, threshold
from orchard.papers.sbp.method.search import ExactSearch
from orchard.runs import Run, Workspace
from orchard.train import choose

SAME = 1e-6  # largest difference of coordinates between vectors that are the same


class Pair(Run):
    """Pair the documents of D, and those of the validation split among themselves with the same threshold.

    Result: ``alpha``; ``pairs`` and what was left out and why (``below``, ``near_duplicates``, ``capped``), for D and held-out;
    ``search`` with its recall; ``copies``, the documents of D that were left out as near-duplicates of an earlier one.
    Files: ``pairs.safetensors`` and ``held_out.safetensors``: ``first``, ``second``, ``score`` [pairs]; ``degrees.safetensors``: see
    :func:`degrees`.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        embedder: Embedder.Config = REQUIRED
        search: ExactSearch.Config = ExactSearch.Config()
        k: int = 8
        exceedance: float = 1e-3
        near_duplicate: float = 0.6  # Jaccard of 5-grams above which a pair is the same document twice
        copies: NearDuplicates.Config | None = None  # how those of earlier documents are found and left out of D before
        held_out: int = 500  # documents of the validation split
        seed: int = 0

    preload = "orchard.papers.sbp.runs.embedding"
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
            what = f"pairing with k = {cfg.k} after near-duplicates are left out"
            check_enough(splits["train"].take(kept), cfg.k + 1, what)
        vectors = cfg.embedder.build().embed(corpus, splits, work)
        check_vectors(vectors, splits, cfg.embedder.owner.__name__)
        vectors["train"] = vectors["train"][kept]
        random = np.random.default_rng([cfg.seed, 4])
        alpha = threshold(random_scores(vectors["train"], random), cfg.exceedance)
        search: ExactSearch = cfg.search.build()
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
                counted = degrees(near, found.score, alpha, pairs, len(documents))
                save_file(counted, work.folder / "degrees.safetensors")
            name = "pairs" if split == "train" else split
            save_file({end: pairs[end] for end in ("first", "second", "score")}, work.folder / f"{name}.safetensors")
            result[name] = counts
        return result


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
        all_of_them = f"all {len(documents)} documents"
        if all(np.array_equal(body, documents[0]) for body in documents):
            raise BadInput(f"{all_of_them} are the same, so that none is a partner of another: give different ones")
        raise BadInput(
            f"{embedder} gives {all_of_them} the same vector: it does not tell them apart, give another embedder"
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


class DrawnPairs(Run):
    """``k`` partners for every document of D and of the validation split: true with probability ``truth``, else anyone.

    Result and files as those of `Pair`, without scores.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        truth: float = 0.0  # share of pairs whose documents have the same label
        k: int = 8
        held_out: int = 500
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw. Raises BadInput where truth is asked of a corpus that knows none."""
        cfg = self.cfg
        corpus: Corpus = cfg.corpus.build()
        splits = {"pairs": corpus.documents("train"), "held_out": corpus.documents("validation").head(cfg.held_out)}
        check_enough(splits["pairs"], cfg.k + 1, f"drawing k = {cfg.k} partners")
        check_enough(splits["held_out"], 2, "drawing pairs of held-out documents")
        if cfg.truth > 0:
            labels_of(splits["pairs"], f"DrawnPairs.Config.truth is {cfg.truth:g}")
        result = {}
        for number, (name, documents) in enumerate(splits.items()):
            first, second = drawn(documents, cfg.truth, cfg.k, np.random.default_rng([cfg.seed, 5, number]))
            save_file({"first": first, "second": second}, work.folder / f"{name}.safetensors")
            result[name] = {"pairs": len(first)}
        return result


def drawn(documents: Documents, truth: float, k: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and second document of every pair; a document that is alone with its label gets random partners."""
    count = len(documents)
    first = np.repeat(np.arange(count), k)
    second = (first + random.integers(1, count, size=len(first))) % count
    if truth > 0 and documents.labels is not None:
        labels = documents.labels
        order = np.argsort(labels, kind="stable")
        start, end = (np.searchsorted(labels[order], labels, side=side) for side in ("left", "right"))
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        size = (end - start)[first]
        step = 1 + (random.random(len(first)) * (size - 1)).astype(np.int64)
        partner = order[start[first] + (place[first] - start[first] + step) % size]
        use = (random.random(len(first)) < truth) & (size > 1)
        second = np.where(use, partner, second)
    return first, second
