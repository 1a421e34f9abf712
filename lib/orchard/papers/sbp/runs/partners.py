"""How likely held-out documents are after a partner: true, random and exact ones in a world, neighbours in real text.

    -log p(d2 | d1)        nats per second document, of a synthesizer or of the exact law

Both documents are held out. In a world they are of the test split, which nothing was fitted or stopped on. A random partner is any other
document.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Corpus, Documents, labels_of
from orchard.papers.sbp.runs.pair import drawn
from orchard.papers.sbp.runs.pretrain import document_nll, pair_nll
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer, pairs_of, precision
from orchard.runs import Run, Workspace
from orchard.train import choose


class ExactPartners(Run):
    """The exact law. Result: ``entropy``, H(c) in nats. Files: ``nll.safetensors``: ``true``, ``random``, ``alone``."""

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        documents: int = REQUIRED  # at most: only those of the test split whose concept another one shares
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        corpus: Any = self.cfg.corpus.build()
        second, true, random = partners(corpus.documents("test"), self.cfg.documents, self.cfg.seed)
        world = corpus.world
        nll = {name: -world.log_conditional(second, first) for name, first in (("true", true), ("random", random))}
        save_file({**nll, "alone": -world.log_marginal(second)}, work.folder / "nll.safetensors")
        return {"entropy": float(world.entropy())}


class TunedPartners(Run):
    """A synthesizer. Result: ``precision``, the share of its pairs that share their concept (None: it was tuned on no pairs).

    Files: ``nll.safetensors``: ``true``, ``random``; without pairs both are -log p(d2).
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        documents: int = REQUIRED  # as of `ExactPartners`
        seed: int = 0

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        tuned = self.cfg.tuned
        corpus = tuned.pretrained.mix.corpus.build()
        second, true, random = partners(corpus.documents("test"), self.cfg.documents, self.cfg.seed)
        model = load_synthesizer(work.result_of(tuned), tuned).to(choose(work.device).device)
        if tuned.pairs is None:
            found = [document_nll(model, second, corpus.symbols)] * 2
        else:
            found = [pair_nll(model, first, second, corpus.symbols) for first in (true, random)]
        save_file({"true": found[0], "random": found[1].copy()}, work.folder / "nll.safetensors")
        return {"precision": None if tuned.pairs is None else precision(work.result_of(tuned.pairs), corpus)}


def partners(documents: Documents, count: int, seed: int) -> tuple[Documents, Documents, Documents]:
    """``count`` documents that share their label with another, a true partner of each, and a random one.

    Raises BadInput where no two documents share a label, or nobody knows."""
    labels = labels_of(documents, "true partners need labels")
    shared = np.flatnonzero(np.bincount(labels)[labels] > 1)
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
        after, before = documents.take(second), {"neighbour": first, "random": anyone}
        nll = {name: pair_nll(model, documents.take(one), after, symbols) for name, one in before.items()}
        nll |= {"alone": document_nll(model, after, symbols), "second": second}
        save_file(nll, work.folder / "nll.safetensors")
        return {"pairs": len(first)}
