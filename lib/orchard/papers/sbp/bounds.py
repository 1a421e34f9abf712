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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from orchard.config import REQUIRED
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.laws import World, word_counts
from orchard.papers.sbp.profiles import PROFILES, world
from orchard.papers.sbp.world import ConceptWorld
from orchard.runs import Run, Runner, Setting, Workspace
from orchard.train import choose

RESTARTS = 4
ITERATIONS = 100  # of EM, at most
GAIN = 1e-4  # nats per document: EM stops when an iteration gains less


@dataclass(frozen=True)
class Size:
    """Documents of D per concept."""

    per_concept: tuple[int, ...]


SIZES = {"smoke": Size((2, 4, 8, 16, 64)), "gpu": Size((2, 4, 8, 16, 32)), "paper": Size(())}


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
    assert documents.labels is not None
    concepts, size = laws.words.shape
    counts = np.zeros((concepts, size))
    rows = np.repeat(documents.labels[parsed.rows], laws.content)
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


def known_labels_excess(corpus_cfg: ConceptWorld.Config, held_out: int | None = None) -> float:
    """Nats per test document above Bayes when the concept of every document of D is known."""
    corpus: ConceptWorld = corpus_cfg.build()
    found = replace(corpus.world, words=known_labels(corpus.world, corpus.documents("train")))
    return float(excess(corpus.world, found, _test(corpus, held_out)).mean())


def em_excess(
    corpus_cfg: ConceptWorld.Config, held_out: int | None = None, seed: int = 0, device: str = "cpu"
) -> float:
    """Nats per test document above Bayes when the concepts are learned from D by EM."""
    corpus: ConceptWorld = corpus_cfg.build()
    phi, prior, _ = em(corpus.world, corpus.documents("train"), seed=seed, device=device)
    return float(excess(corpus.world, replace(corpus.world, words=phi, prior=prior), _test(corpus, held_out)).mean())


def _test(corpus: ConceptWorld, held_out: int | None) -> Documents:
    documents = corpus.documents("test")
    return documents if held_out is None else documents.head(held_out)


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
        documents = corpus.documents("train")
        device = "cuda" if choose(work.device).device == "cuda" else "cpu"  # others have no float64
        return {
            "bayes": float(-corpus.world.log_marginal(_test(corpus, cfg.held_out)).mean()),
            "labels": known_labels_excess(cfg.corpus, cfg.held_out),
            "em": em_excess(cfg.corpus, cfg.held_out, cfg.seed, device),
            "documents": len(documents), "per_concept": len(documents) / len(corpus.world.prior),
            "tokens": int((documents.lengths + 1).sum()),
        }  # fmt: skip


def bounds_of(corpus_cfg: ConceptWorld.Config, held_out: int, name: str) -> Bounds.Config:
    """The run that gives both bounds of a corpus."""
    return Bounds.Config(corpus=corpus_cfg, held_out=held_out, label=f"what documents can tell; {name}")


def bounds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world, size of D and bound: variant, world, seed (of the world), documents, per_concept, tokens, bound
    (``labels`` or ``em``), excess (nats per test document above Bayes), bayes."""
    profile = PROFILES[setting.profile]
    wanted = []
    for variant in profile.variants:
        for number in profile.worlds:
            for each in SIZES[setting.profile].per_concept:
                count = each * profile.concepts
                cfg = world(setting, variant, number, count)
                wanted.append(
                    (variant, number, bounds_of(cfg, profile.held_out, f"{variant}, world {number}, {count} documents"))
                )
    rows = []
    for (variant, number, _), done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True):
        facts = {key: done.result[key] for key in ("documents", "per_concept", "tokens", "bayes")}
        for bound in ("labels", "em"):
            rows.append(
                {
                    "variant": variant,
                    "world": number,
                    "seed": number,
                    **facts,
                    "bound": bound,
                    "excess": done.result[bound],
                }
            )
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"bounds": bounds}
