"""Search: the k best other documents of each document by inner product, exactly or through FAISS.

    near(i) = the k largest <e_i, e_j> over j != i

    exact    every document against every other one, in blocks of bounded memory: 2 n^2 d FLOPs
    FAISS    k-means sorts the n documents into C cells; a document looks into the P cells whose centres are best for it, so that
             about n P / C others are compared with it: 2 n C d + 2 n (n P / C) d FLOPs, and 2 d C n' T for T rounds of k-means on n'

An inverted file and not a graph: all documents are asked once and the index is thrown away, so that building a graph (HNSW) costs more
than the search it saves. How many cells must be looked into depends on the vectors, so P is doubled until the recall of a sample of
documents, compared with exact search, is what was asked; the recall that is reported is that of a second sample. Vectors without any
structure (random ones on the sphere) need most of the cells: from an eighth of them on exact search is the faster one, and is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Integer

from orchard.config import Configurable
from orchard.errors import BadInput

BLOCK = 2**24  # scores held at once: 64 MiB in float32
ROUNDING = 1e-6  # of a score of unit vectors, between two ways to add it up
WORTH_IT = 1 / 8  # of the cells: from there on products in blocks are faster than lists
PER_CELL = 39  # documents that k-means wants for each centre


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of every document, best first, and how they were found."""

    near: Int64[np.ndarray, "documents k"]
    score: Float32[np.ndarray, "documents k"]
    report: dict[str, Any] = field(default_factory=dict)


class ExactSearch(Configurable):
    """All inner products, block by block; on a GPU if the run is on one."""

    class Config(Configurable.Config):
        """Of every search."""

    def neighbours(
        self, vectors: Float32[np.ndarray, "documents dim"], k: int, device: str = "cpu", threads: int = 1
    ) -> Neighbours:
        """The k best others of every row. ``k`` must be smaller than the number of documents."""
        near, score = exact_neighbours(vectors, k, device=device)
        return Neighbours(near, score, {"search": "exact", "recall": 1.0})


class FaissSearch(ExactSearch):
    """An inverted file of FAISS, with its recall measured on every use.

    One seed, one thread, the same neighbours. More threads share out the documents asked, and the sums of k-means may then differ in
    their last bits: runs use one, benchmarks may use more.

    Report: ``search`` ("exact" where it had to be), ``cells``, ``probes`` (cells looked into), ``recall`` at k on documents that
    ``probes`` was not chosen on, ``wanted``.
    """

    class Config(ExactSearch.Config):
        cells: int | None = None  # None: 4 sqrt(documents), fewer if cells would get fewer than 39 documents
        probes: int = 8  # at first
        recall: float = 0.95  # at k, below which probes is doubled
        sample: int = 500  # documents asked exactly to choose probes, and as many again to measure
        rounds: int = 10  # of k-means
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: FaissSearch.Config) -> None:
        if not 0 < cfg.recall <= 1 or min(cfg.probes, cfg.sample) < 1:
            raise BadInput(
                f"FaissSearch.Config has recall {cfg.recall:g}, probes {cfg.probes} and sample {cfg.sample}: "
                "recall lies above 0 and at most at 1, the others are at least 1"
            )
        self.cfg = cfg

    def neighbours(
        self, vectors: Float32[np.ndarray, "documents dim"], k: int, device: str = "cpu", threads: int = 1
    ) -> Neighbours:
        faiss = _faiss()
        faiss.omp_set_num_threads(threads)
        cfg, count = self.cfg, len(vectors)
        cells = min(cfg.cells or max(1, min(round(4 * count**0.5), count // PER_CELL)), count)
        dim = vectors.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.niter = cfg.seed + 1, cfg.rounds
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, PER_CELL
        rows = np.ascontiguousarray(vectors)
        index.train(rows)
        index.add(rows)
        order = np.random.default_rng([cfg.seed, 9]).permutation(count)
        chosen, fresh = order[: cfg.sample], order[cfg.sample : 2 * cfg.sample]
        if not len(fresh):
            fresh = chosen  # the sample is the whole corpus: nothing is estimated
        best = exact_neighbours(vectors, k, chosen)[1]
        index.nprobe = min(cfg.probes, cells)
        while recall(_ask(index, rows[chosen], chosen, k)[1], best) < cfg.recall:
            if 2 * index.nprobe > cells * WORTH_IT:
                near, score = exact_neighbours(vectors, k, device=device)
                return Neighbours(near, score, {"search": "exact", "cells": cells, "recall": 1.0, "wanted": cfg.recall})
            index.nprobe *= 2
        near, score = _ask(index, rows, np.arange(count), k)
        found = recall(score[fresh], exact_neighbours(vectors, k, fresh)[1])
        report = {"search": "faiss", "cells": cells, "probes": int(index.nprobe), "recall": found, "wanted": cfg.recall}
        return Neighbours(near, score, report)


def exact_neighbours(
    vectors: Float32[np.ndarray, "documents dim"],
    k: int,
    asked: Integer[np.ndarray, "asked"] | None = None,
    device: str = "cpu",
) -> tuple[Int64[np.ndarray, "asked k"], Float32[np.ndarray, "asked k"]]:
    """The k best other documents of each (of the ``asked`` ones) by inner product, best first, and their scores."""
    rows = torch.from_numpy(vectors).to(device)
    numbers = torch.arange(len(rows)) if asked is None else torch.from_numpy(np.asarray(asked, dtype=np.int64))
    near, score = [torch.empty(0, k, dtype=torch.int64)], [torch.empty(0, k)]
    for part in numbers.to(device).split(max(1, BLOCK // max(len(rows), 1))):
        scores = rows[part] @ rows.T
        scores[torch.arange(len(part), device=device), part] = -torch.inf
        best = scores.topk(k, dim=1)
        near.append(best.indices.cpu())
        score.append(best.values.cpu())
    return torch.cat(near).numpy(), torch.cat(score).numpy()


def _ask(
    index: Any, rows: Float32[np.ndarray, "asked dim"], numbers: Integer[np.ndarray, "asked"], k: int
) -> tuple[Int64[np.ndarray, "asked k"], Float32[np.ndarray, "asked k"]]:
    """What the index finds for documents of its own, themselves left out; a place that it cannot fill is -1, minus infinity."""
    score, near = index.search(rows, k + 1)
    itself = near == numbers[:, None]
    itself[~itself.any(axis=1), -1] = True  # among copies of itself it may not have come up
    near, score = near[~itself].reshape(-1, k), score[~itself].reshape(-1, k)
    return near.astype(np.int64), np.where(near < 0, -np.inf, score).astype(np.float32)


def recall(found: Float32[np.ndarray, "asked k"], best: Float32[np.ndarray, "asked k"]) -> float:
    """The share of neighbours found that are among the k best: by score, because copies of a document are equally near."""
    return float((found >= best.min(axis=1, keepdims=True) - ROUNDING).mean())


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise BadInput(
            "search with FAISS needs faiss-cpu, which is not installed: pip install 'orchard[sbp]', or use ExactSearch"
        ) from None
    return faiss
