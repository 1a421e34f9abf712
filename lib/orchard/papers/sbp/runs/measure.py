"""Measurements of every document of a synthetic corpus: of its surface, and of the exact law of the world.

    log P(d)      the exact law           P(same concept | d1, d2) = sum_c P(c | d1) P(c | d2)
    repetition, copying of the seed, novelty against all of D, near-duplicates among the first K documents

No model runs here. What is good and what is bad is decided in `experiments.quality`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.data.laws import logsumexp
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.ngrams import N, duplicates, jaccard, longest_span, nearest_jaccard, novel_rate
from orchard.papers.sbp.method.rules import Rules, repetition
from orchard.papers.sbp.runs.pair import drawn
from orchard.papers.sbp.runs.synthesise import sampled_documents
from orchard.runs import Run, Workspace

NOVEL = (2, 3, 4, 5)  # n of the n-grams
NEAREST = 2  # n of the distance to the nearest training document


class Measure(Run):
    """Measure every document of a synthetic corpus, or real ones as the anchor.

    Result: ``repetition_bound``, ``documents``.
    Files: ``measured.safetensors``, for every document: ``kept``, ``length``, ``seed`` (a real document's is a true partner), ``log_p``,
    ``same`` (P(same concept), NaN without a seed), ``copying``, ``repetition``, ``duplicate_raw`` and ``duplicate_kept`` (-1: not among
    the first K), ``nearest_5``, ``nearest_2``, ``span``, ``novel_2`` ... ``novel_5``; of real ones ``same_random`` and
    ``copying_random``. ``laws.safetensors``: ``raw`` and ``kept`` [concepts], the mean posterior of possible documents.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        sampled: Run.Config | None = None  # None: the last documents of the pool, which are not in D
        rules: Rules.Config = Rules.Config()
        documents: int = REQUIRED  # at most
        duplicates_at: int = REQUIRED
        seed: int = 0

    preload = "orchard.papers.sbp.runs.synthesise"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """All measurements are of surface or of the exact law: no model runs."""
        cfg = self.cfg
        corpus: Any = cfg.corpus.build()
        real, pool = corpus.documents("train"), corpus.documents("pool")
        count = min(cfg.documents, len(pool) // 3)
        rules: Rules = cfg.rules.build(real=real, corpus=corpus)
        if cfg.sampled is None:
            documents = pool.take(np.arange(len(pool) - count, len(pool)))
            random = np.random.default_rng([cfg.seed, 11])
            first, seeds = documents, drawn(documents, 1.0, 1, random)[1]
            others = drawn(documents, 0.0, 1, random)[1]
            kept = np.ones(len(documents), dtype=bool)
        else:
            made, seeds, _, ended = sampled_documents(work.result_of(cfg.sampled))
            documents, first, seeds = made.head(cfg.documents), real, seeds[: cfg.documents]
            kept = rules.judge(documents, ended[: cfg.documents], seeds) == 0
        measured = surface(documents, real, first, seeds)
        log_p, posterior = exact(corpus.world, documents)
        measured |= {"kept": kept, "log_p": log_p, "seed": seeds}
        seed_posterior = posterior if cfg.sampled is None else np.zeros((len(first), posterior.shape[1]))
        if cfg.sampled is not None:
            used = np.unique(seeds[seeds >= 0])
            seed_posterior[used] = corpus.world.posterior(first.take(used))
        measured["same"] = same_concept(posterior, seed_posterior, seeds)
        if cfg.sampled is None:  # the other anchor: pairs of anybody
            measured["same_random"] = same_concept(posterior, seed_posterior, others)
            measured["copying_random"] = jaccard(documents, documents, np.arange(count), others)
        for state, chosen in (("raw", np.arange(len(documents))), ("kept", np.flatnonzero(kept))):
            chosen = chosen[: cfg.duplicates_at]
            flags = np.full(len(documents), -1)
            flags[chosen] = duplicates(documents.take(chosen))
            measured[f"duplicate_{state}"] = flags
        possible = np.isfinite(posterior).all(axis=1)
        laws = {"raw": mean_law(posterior[possible]), "kept": mean_law(posterior[possible & kept])}
        for name, tensors in (("measured", measured), ("laws", laws)):
            save_file(tensors, work.folder / f"{name}.safetensors")
        return {"repetition_bound": rules.bound, "documents": len(documents)}


def exact(
    world: Any, documents: Documents
) -> tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents concepts"]]:
    """log P(d) and P(c | d) from one evaluation of the law."""
    joint = world.log_given_concept(documents) + np.log(world.prior)
    log_p = logsumexp(joint)
    with np.errstate(invalid="ignore"):
        return log_p, np.exp(joint - log_p[:, None])


def surface(documents: Documents, real: Documents, first: Documents, seeds: np.ndarray) -> dict[str, np.ndarray]:
    """What needs no law: length, repetition, copying of the seed ``first[seeds]``, and novelty against all of D."""
    copying = np.full(len(documents), np.nan)
    seeded = np.flatnonzero(seeds >= 0)
    copying[seeded] = jaccard(documents, first, seeded, seeds[seeded])
    return {
        "length": documents.lengths, "repetition": repetition(documents), "copying": copying,
        "nearest_5": nearest_jaccard(documents, real, N), "nearest_2": nearest_jaccard(documents, real, NEAREST),
        "span": longest_span(documents, real), **{f"novel_{n}": novel_rate(documents, real, n) for n in NOVEL},
    }  # fmt: skip


def same_concept(
    second: Float64[np.ndarray, "documents concepts"], first: Float64[np.ndarray, "seeds concepts"], seeds: np.ndarray
) -> Float64[np.ndarray, "documents"]:
    """P(c1 = c2 | d1, d2) of documents drawn apart; 0 for an impossible document, NaN for one without a seed."""
    found = np.full(len(second), np.nan)
    seeded = np.flatnonzero(seeds >= 0)
    for part in np.array_split(seeded, max(1, len(seeded) // 4096)):
        found[part] = np.nan_to_num(np.einsum("nc,nc->n", second[part], first[seeds[part]]))
    return found


def mean_law(posterior: Float64[np.ndarray, "documents concepts"]) -> Float64[np.ndarray, "concepts"]:
    """The mean posterior; NaN where there is no document."""
    return posterior.mean(axis=0) if len(posterior) else np.full(posterior.shape[1], np.nan)
