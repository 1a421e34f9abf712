"""What N documents can tell, without any neural network: the line between a model and Bayes.

    labels known    Phi'[c, w] = (n_cw + k) / (n_c + k W)            the concept of every document of D is given
    EM              the same with expected counts: n_cw = sum_d P'(c | d) n_dw, the best of four by the likelihood of D
    excess          mean over test documents of log P(d) - log P'(d), in nats

where n counts the words of D. k is a property of the world and is fitted to no document: the Dirichlet law with concentration k on
each word has the mean 1/W of the world's own laws, and their mean of sum_w Phi[c, w]^2,

    s = mean_c sum_w Phi[c, w]^2 = (k + 1) / (k W + 1)        so        k = (1 - s) / (s W - 1).

Without background words k is kappa, up to the draw of the world. Concepts that have one and the same law (`indep`) are counted
together: whoever knows the family of the world knows that. In `hier` neither estimate uses that subtopics share words, so that
EM, which may merge them, can be the lower one. P(c), genres, function tokens and templates are taken as known.

What a pair can tell, from the exact laws. Pairs share their concept with probability rho; the best that a synthesizer can do without
knowing which pairs do is

    q(d2 | d1) = rho P(d2 | d1) + (1 - rho) P(d2)                      rho = 1: Bayes    rho = 0: P(d2), random pairs

    gain(rho)  = E[log q(d2 | d1) - log P(d2)]  over true pairs        gain(1) = I(d1; d2) <= H(c) <= ln C

in nats per document. What a joint model gains beyond that is better estimation of P(d), not conditioning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from orchard.config import REQUIRED
from orchard.papers.sbp.data.laws import World, word_counts
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.documents import Documents, labels_of
from orchard.runs import Run, Workspace
from orchard.train import choose

RESTARTS = 4
ITERATIONS = 100  # of EM, at most
GAIN = 1e-4  # nats per document: EM stops when an iteration gains less


def concentration(laws: World) -> float:
    """k: see above."""
    s, size = float((laws.words**2).sum(axis=1).mean()), laws.words.shape[1]
    return (1 - s) / (s * size - 1)


def one_law(laws: World) -> bool:
    """Whether all concepts have the same law."""
    return bool((laws.words == laws.words[0]).all())


def known_labels(laws: World, documents: Documents) -> Float64[np.ndarray, "concepts words"]:
    """The posterior mean of Phi from documents whose labels are their concepts."""
    parsed = laws.parse(documents)
    counts = np.zeros(laws.words.shape)
    rows = np.repeat(labels_of(documents, "concepts are given")[parsed.rows], laws.content)
    np.add.at(counts, (rows, parsed.words.reshape(-1)), 1.0)
    if one_law(laws):
        counts[:] = counts.sum(axis=0)
    return smoothed(torch.from_numpy(counts), concentration(laws)).numpy()


def smoothed(counts: Tensor, k: float) -> Tensor:
    """(n_cw + k) / (n_c + k W)."""
    return (counts + k) / (counts.sum(dim=1, keepdim=True) + k * counts.shape[1])


@torch.no_grad()
def em(
    laws: World, documents: Documents, restarts: int = RESTARTS, seed: int = 0, device: str = "cpu"
) -> tuple[Float64[np.ndarray, "concepts words"], Float64[np.ndarray, "concepts"], list[float]]:
    """Phi and P(c) by expectation maximisation, and log P'(D) per document of every restart; the best one is returned.

    A restart begins with one random document per concept (the laws that smoothing makes of it), or as many as there are.
    """
    counts = torch.from_numpy(word_counts(laws.parse(documents).words, laws.words.shape[1]).toarray()).to(device)
    concepts, k = (1 if one_law(laws) else len(laws.prior)), concentration(laws)
    best: tuple[float, Tensor, Tensor] | None = None
    likelihoods = []
    for restart in range(restarts):
        random = np.random.default_rng([seed, 10, restart])
        chosen = random.choice(len(counts), size=concepts, replace=concepts > len(counts))
        phi, prior = smoothed(counts[torch.from_numpy(chosen).to(device)], k), torch.full((concepts,), 1 / concepts)
        phi, prior, likelihood = _climb(counts, phi, prior.to(counts), k)
        likelihoods.append(likelihood)
        if best is None or likelihood > best[0]:
            best = likelihood, phi, prior
    assert best is not None
    return best[1].cpu().numpy(), best[2].cpu().numpy(), likelihoods


def _climb(counts: Tensor, phi: Tensor, prior: Tensor, k: float) -> tuple[Tensor, Tensor, float]:
    """Iterations from one start. The weights of concepts have a uniform law on them: (n_c + 1) / (N + C)."""
    before, likelihood = -float("inf"), -float("inf")
    for _ in range(ITERATIONS):
        joint = counts @ phi.log().T + prior.log()
        total = torch.logsumexp(joint, dim=1, keepdim=True)
        likelihood = float(total.mean())
        if likelihood - before < GAIN:
            break
        before = likelihood
        share = (joint - total).exp()
        phi = smoothed(share.T @ counts, k)
        prior = (share.sum(dim=0) + 1) / (len(counts) + len(prior))
    return phi, prior, likelihood


def excess(laws: World, estimated: World, documents: Documents) -> Float64[np.ndarray, "documents"]:
    """log P(d) - log P'(d): nats that the estimate lacks, document by document."""
    return laws.log_marginal(documents) - estimated.log_marginal(documents)


class Bounds(Run):
    """Both bounds for one corpus. Result: ``bayes`` (nats per test document), ``labels`` and ``em`` (excess over it), ``documents``,
    ``per_concept``, ``tokens`` of D."""

    class Config(Run.Config):
        corpus: ConceptWorld.Config = REQUIRED
        held_out: int = 500
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: ConceptWorld = cfg.corpus.build()
        world, documents, test = corpus.world, corpus.documents("train"), corpus.documents("test").head(cfg.held_out)
        device = "cuda" if choose(work.device).device == "cuda" else "cpu"  # others have no float64
        known = replace(world, words=known_labels(world, documents))
        phi, prior, _ = em(world, documents, seed=cfg.seed, device=device)
        learned = replace(world, words=phi, prior=prior)
        return {
            "bayes": float(-world.log_marginal(test).mean()), "labels": float(excess(world, known, test).mean()),
            "em": float(excess(world, learned, test).mean()), "documents": len(documents),
            "per_concept": len(documents) / len(world.prior), "tokens": int((documents.lengths + 1).sum()),
        }  # fmt: skip


PRECISIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
PAIRS = 2000


def true_pairs(laws: World, count: int, random: np.random.Generator) -> tuple[Documents, Documents]:
    """Pairs of documents that share their concept and nothing else."""
    concepts = laws.draw_concepts(count, random)
    first, second = (Documents.of(laws.sample(concepts, random), concepts) for _ in range(2))
    return first, second


def log_ratio(laws: World, count: int, seed: int) -> Float64[np.ndarray, "pairs"]:
    """log P(d2 | d1) - log P(d2) of ``count`` true pairs; the mean estimates I(d1; d2)."""
    first, second = true_pairs(laws, count, np.random.default_rng([seed, 11]))
    return laws.log_conditional(second, first) - laws.log_marginal(second)


def gain(ratio: Float64[np.ndarray, "pairs"], precision: float) -> Float64[np.ndarray, "pairs"]:
    """log q(d2 | d1) - log P(d2) of true pairs, where q takes a share ``precision`` of pairs for true."""
    return np.log(precision * np.exp(ratio) + (1 - precision))


class Information(Run):
    """The gain of the best synthesizer by the precision of its pairs. Result: ``rows`` with precision, gain, error (one standard
    error of the mean); ``entropy`` H(c); ``concepts``."""

    class Config(Run.Config):
        corpus: ConceptWorld.Config = REQUIRED
        pairs: int = PAIRS
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        laws = self.cfg.corpus.build().world
        ratio = log_ratio(laws, self.cfg.pairs, self.cfg.seed)
        rows = []
        for precision in PRECISIONS:
            found = gain(ratio, precision)
            error = float(found.std(ddof=1) / np.sqrt(len(found)))
            rows.append({"precision": precision, "gain": float(found.mean()), "error": error})
        return {"rows": rows, "entropy": laws.entropy(), "concepts": len(laws.prior)}
