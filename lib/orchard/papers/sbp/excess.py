"""What a training scores above Bayes: -log p(d) + log P(d), nats per test document.

The exact law of the world is subtracted document by document. The best checkpoint is chosen on validation documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.papers.sbp.arms import Study
from orchard.runs import Finished

_BAYES: dict[tuple[str, int], np.ndarray] = {}


def document_excess(chosen: Study, done: Finished) -> pd.DataFrame:
    """One row per test document: document, ``last`` and ``best`` (nats above Bayes, at the last and at the best checkpoint)."""
    test = excess(chosen, done)
    best = int(done.tensors("eval")["validation"].double().mean(dim=1).argmin())
    return pd.DataFrame({"document": np.arange(test.shape[1]), "last": test[-1], "best": test[best]})


def mean_excess(chosen: Study, done: Finished) -> dict[str, float]:
    """The means of :func:`document_excess`: ``last`` and ``best``."""
    table = document_excess(chosen, done)
    return {name: float(table[name].mean()) for name in ("last", "best")}


def excess_curve(chosen: Study, done: Finished) -> pd.DataFrame:
    """One row per evaluation: step, excess (nats per test document above Bayes)."""
    return pd.DataFrame({"step": done.tensors("eval")["step"].numpy(), "excess": excess(chosen, done).mean(axis=1)})


def excess(chosen: Study, done: Finished) -> Float64[np.ndarray, "evaluations documents"]:
    """Nats of every test document above Bayes, at every evaluation."""
    scores = done.tensors("eval")["test"].double().numpy()
    return scores - bayes_nll(chosen, scores.shape[1])


def bayes_nll(chosen: Study, count: int) -> Float64[np.ndarray, "documents"]:
    """-log P(d) of the first test documents of a cell; kept, since every arm of every table is measured from it."""
    key = (chosen.corpus.fingerprint(), count)
    if key not in _BAYES:
        corpus: Any = chosen.corpus.build()
        _BAYES[key] = -corpus.world.log_marginal(corpus.documents("test").head(count))
    return _BAYES[key]
