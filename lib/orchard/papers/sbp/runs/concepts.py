"""The concepts that samples from each seed document imply, against the posterior of the seed.

    q(c) = (sum over possible samples d2 of P(c | d2) + a P(c)) / (samples + a)        a = 1: the prior counts as one sample
    KL(P(c | d1) || q) = sum_c P(c | d1) log (P(c | d1) / q(c))        nats

A sample that the world cannot make is one of no concept. q gives that outcome the rest of its mass, the posterior of a seed gives it
none, so that garbage costs log(samples / possible samples) nats. The prior keeps the divergence finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.data.laws import Inversion
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.runs.synthesise import Draws, sampled_documents, seed_numbers
from orchard.runs import Run, Workspace

SMOOTHING = 1.0  # samples that the prior counts as


class ConceptLaw(Run):
    """The concepts that samples from each seed imply.

    Result: ``documents``.
    Files: ``laws.safetensors``: ``kl`` [seeds] (nats), ``possible`` [seeds] (share of the samples), ``posterior`` and ``implied``
    [seeds, concepts], P(c | d1) and q.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        sampled: Draws.Config | None = None  # None: the exact law is sampled
        split: str = "test"
        seeds: int = REQUIRED
        each: int = REQUIRED
        seed: int = 0

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: Any = cfg.corpus.build()
        world, documents = corpus.world, corpus.documents(cfg.split)
        first = documents.take(seed_numbers(documents, cfg.seeds, cfg.seed))
        posterior = world.posterior(first)
        if cfg.sampled is None:
            random = np.random.default_rng([cfg.seed, 13])
            concepts = Inversion(posterior).draw(np.repeat(np.arange(len(first)), cfg.each), 1, random)[:, 0]
            made = Documents.of(world.sample(concepts, random))
        else:
            made = sampled_documents(work.result_of(cfg.sampled))[0]
        of_samples = world.posterior(made).reshape(len(first), cfg.each, -1)
        implied, possible = implied_law(of_samples, world.prior)
        tensors = {
            "kl": divergence(posterior, implied), "possible": possible, "posterior": posterior, "implied": implied
        }  # fmt: skip
        save_file(tensors, work.folder / "laws.safetensors")
        return {"documents": len(made)}


def implied_law(
    posterior: Float64[np.ndarray, "seeds each concepts"], prior: Float64[np.ndarray, "concepts"]
) -> tuple[Float64[np.ndarray, "seeds concepts"], Float64[np.ndarray, "seeds"]]:
    """q for each seed, and the share of samples that are possible: those whose posterior is no NaN."""
    possible = np.isfinite(posterior).all(axis=2)
    sums = np.where(possible[:, :, None], posterior, 0.0).sum(axis=1)
    return (sums + SMOOTHING * prior) / (possible.shape[1] + SMOOTHING), possible.mean(axis=1)


def divergence(
    p: Float64[np.ndarray, "laws concepts"], q: Float64[np.ndarray, "laws concepts"]
) -> Float64[np.ndarray, "laws"]:
    """KL(p || q) in nats; where p is 0 nothing is added."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return (p * np.log(ratio)).sum(axis=1)
