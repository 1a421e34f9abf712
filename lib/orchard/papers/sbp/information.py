"""What a pair can tell, from the exact laws. Pairs share their concept with probability rho; the best that a
synthesizer can do without knowing which pairs do is

    q(d2 | d1) = rho P(d2 | d1) + (1 - rho) P(d2)                      rho = 1: Bayes    rho = 0: P(d2), random pairs

    gain(rho)  = E[log q(d2 | d1) - log P(d2)]  over true pairs        gain(1) = I(d1; d2) <= H(c) <= ln C

in nats per document. What a joint model gains beyond that is better estimation of P(d), not conditioning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.config import REQUIRED
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.laws import World
from orchard.papers.sbp.profiles import PROFILES, world
from orchard.papers.sbp.world import VARIANTS, ConceptWorld
from orchard.runs import Run, Runner, Setting, Workspace

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


def information(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world and precision of the pairs: gain and its standard error (nats per document), entropy H(c), concepts."""
    wanted = [(variant, number) for variant in VARIANTS for number in PROFILES[setting.profile].worlds]
    cfgs = [
        Information.Config(corpus=world(setting, *which), label=f"what a pair can tell; {which[0]}, world {which[1]}")
        for which in wanted
    ]
    rows = []
    for (variant, number), done in zip(wanted, run(cfgs), strict=True):
        whole = {"entropy": done.result["entropy"], "concepts": done.result["concepts"]}
        rows += [{"variant": variant, "world": number, **row, **whole} for row in done.result["rows"]]
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"information": information}
