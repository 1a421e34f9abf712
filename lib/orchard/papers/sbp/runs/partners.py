"""How likely held-out documents are after a partner: true, random and exact ones in a world, neighbours in real text.

    -log p(d2 | d1)        nats per second document, of a synthesizer or of the exact law

Both documents are held out. In a world they are of the test split, which nothing was fitted or stopped on. A random partner is any other
document.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.runs.pair import drawn
from orchard.papers.sbp.runs.pretrain import document_nll, pair_nll
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer, pairs_of, precision
from orchard.runs import Run, Workspace
from orchard.train import choose


class _Partners(Run):
    """Held-out documents, each with a true and a random partner."""

    class Config(Run.Config):
        documents: int = REQUIRED  # at most: only those of the test split whose concept another one shares
        seed: int = 0

    cfg: Any

    def save(self, work: Workspace, **nll: Float64[np.ndarray, "documents"]) -> None:
        """``nll.safetensors``: nats per document."""
        save_file(nll, work.folder / "nll.safetensors")


class ExactPartners(_Partners):
    """The exact law. Result: ``entropy``, H(c) in nats. Files: ``nll.safetensors``: ``true``, ``random``, ``alone``."""

    class Config(_Partners.Config):
        corpus: Corpus.Config = REQUIRED

    def compute(self, work: Workspace) -> dict[str, Any]:
        corpus = self.cfg.corpus.build()
        second, true, random = partners(corpus.documents("test"), self.cfg.documents, self.cfg.seed)
        world = corpus.world
        self.save(
            work, alone=-world.log_marginal(second), true=-world.log_conditional(second, true),
            random=-world.log_conditional(second, random),
        )  # fmt: skip
        return {"entropy": float(world.entropy())}


class TunedPartners(_Partners):
    """A synthesizer. Result: ``precision``, the share of its pairs that share their concept (None: it was tuned on no pairs).

    Files: ``nll.safetensors``: ``true``, ``random``; without pairs both are -log p(d2).
    """

    class Config(_Partners.Config):
        tuned: Tune.Config = REQUIRED

    preload = "orchard.papers.sbp.runs.tune"

    def compute(self, work: Workspace) -> dict[str, Any]:
        tuned: Tune.Config = self.cfg.tuned
        corpus = tuned.pretrained.mix.corpus.build()
        second, true, random = partners(corpus.documents("test"), self.cfg.documents, self.cfg.seed)
        model = load_synthesizer(work.result_of(tuned), tuned).to(choose(work.device).device)
        if tuned.pairs is None:
            alone = document_nll(model, second, corpus.symbols)
            self.save(work, true=alone, random=alone.copy())
            return {"precision": None}
        self.save(
            work,
            true=pair_nll(model, true, second, corpus.symbols),
            random=pair_nll(model, random, second, corpus.symbols),
        )
        return {"precision": precision(work.result_of(tuned.pairs), corpus)}


def partners(documents: Documents, count: int, seed: int) -> tuple[Documents, Documents, Documents]:
    """``count`` documents that share their label with another, a true partner of each, and a random one.

    Raises BadInput where no two documents share a label, or nobody knows."""
    if documents.labels is None:
        raise BadInput("true partners need labels, and nobody knows which documents of this corpus belong together")
    shared = np.flatnonzero(np.bincount(documents.labels)[documents.labels] > 1)
    if not len(shared):
        raise BadInput(f"none of {len(documents)} held-out documents shares its concept with another: hold out more")
    random = np.random.default_rng([seed, 12])
    second = np.sort(random.permutation(shared)[:count])
    true, other = (_partner(documents, truth, random)[second] for truth in (1.0, 0.0))
    return documents.take(second), documents.take(true), documents.take(other)


def _partner(documents: Documents, truth: float, random: np.random.Generator) -> Int64[np.ndarray, "documents"]:
    return drawn(documents, truth, 1, random)[1]


class PartnerGap(Run):
    """How likely a held-out document is after a neighbour, after a random document, and after nothing.

    Result: ``pairs``. Files: ``nll.safetensors``: ``neighbour``, ``random``, ``alone`` [pairs], nats of the second document; ``second``.
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        pairs: Run.Config = REQUIRED  # whose held-out pairs are scored
        seed: int = 0

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        built = cfg.tuned.pretrained.mix.corpus.build()
        documents, symbols = built.documents("validation"), built.symbols
        first, second = pairs_of(work.result_of(cfg.pairs), "held_out")
        count = int(max(first.max(initial=0), second.max(initial=0))) + 1
        anyone = (second + np.random.default_rng([cfg.seed, 9]).integers(1, count, size=len(second))) % count
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned)
        after = documents.take(second)
        nll = {
            "neighbour": pair_nll(model, documents.take(first), after, symbols),
            "random": pair_nll(model, documents.take(anyone), after, symbols),
            "alone": document_nll(model, after, symbols),
            "second": second,
        }
        save_file(nll, work.folder / "nll.safetensors")
        return {"pairs": len(first)}
