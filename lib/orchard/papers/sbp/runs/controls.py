"""Synthetic documents that no tuned decoder wrote: the controls of the comparison.

    paraphrase        d1 with a share of its tokens dropped and a share replaced by tokens of D
    exact posterior   c ~ P(c | d1), d2 ~ P(. | c): the synthesizer that Bayes would be. It leaks the world, it is an upper end

Both write the file that `synthesise.Synthesise` writes, and go through the same filter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.data.laws import Inversion
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.documents import Corpus, Documents, check_enough
from orchard.runs import Run, Workspace

SPARE = 1.5  # times the tokens needed are made: the rules may reject some


class _Control(Run):
    """Seeds are drawn from D; a subclass says what follows a seed."""

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        tokens: int = REQUIRED  # kept tokens that are needed, eos included
        seed: int = 0

    cfg: Any

    def write(
        self, corpus: Any, real: Documents, seeds: Int64[np.ndarray, "documents"], random: np.random.Generator
    ) -> Documents:
        """One document for every seed."""
        raise NotImplementedError

    def compute(self, work: Workspace) -> dict[str, Any]:
        corpus = self.cfg.corpus.build()
        real = corpus.documents("train")
        check_enough(real, 1, type(self).__name__)
        random = np.random.default_rng([self.cfg.seed, 8])
        count = int(SPARE * self.cfg.tokens / (real.lengths.mean() + 1)) + 1
        seeds = random.integers(len(real), size=count)
        made = self.write(corpus, real, seeds, random)
        tensors = {
            "tokens": made.tokens, "offsets": made.offsets, "seed": seeds, "batch": np.zeros(count, np.int64),
            "ended": np.ones(count, bool), "sampling_seed": np.array([self.cfg.seed]),
        }  # fmt: skip
        save_file(tensors, work.folder / "synthetic.safetensors")
        tokens = int((made.lengths + 1).sum())
        return {"documents": count, "batches": 1, "tokens": tokens, "prompt_tokens": 0, "flops": 0.0}


class Paraphrase(_Control):
    """Drop and replace tokens of the seed. Replacements are tokens of D, as often as they occur there."""

    class Config(_Control.Config):
        dropped: float = 0.1
        replaced: float = 0.3

    def write(
        self, corpus: Corpus, real: Documents, seeds: Int64[np.ndarray, "documents"], random: np.random.Generator
    ) -> Documents:
        copied = real.take(seeds)
        fate = random.random(len(copied.tokens))
        instead = random.choice(real.tokens, size=len(copied.tokens))
        tokens = np.where(fate < self.cfg.dropped + self.cfg.replaced, instead, copied.tokens)
        kept = fate >= self.cfg.dropped
        owner = np.repeat(np.arange(len(copied)), copied.lengths)[kept]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(copied)))])
        return Documents(tokens[kept].astype(np.int32), offsets)


class ExactPosterior(_Control):
    """Sample from the world's own P(d2 | d1). ConceptWorld alone."""

    def write(
        self, corpus: Corpus, real: Documents, seeds: Int64[np.ndarray, "documents"], random: np.random.Generator
    ) -> Documents:
        if not isinstance(corpus, ConceptWorld):
            raise BadInput(
                f"ExactPosterior samples from the law of a ConceptWorld, and this is a {type(corpus).__name__}: nobody knows its law"
            )
        concepts = Inversion(corpus.world.posterior(real)).draw(seeds, 1, random)[:, 0]
        return Documents.of(corpus.world.sample(concepts, random))
