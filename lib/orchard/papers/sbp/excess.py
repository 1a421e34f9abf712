"""What a training scores above Bayes: -log p(d) + log P(d), nats per test document, at its best and at its last checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from orchard.papers.sbp.arms import Study
from orchard.papers.sbp.joint import bayes_nll
from orchard.papers.sbp.profiles import Cell
from orchard.runs import Finished


def document_excess(chosen: Study, done: Finished) -> pd.DataFrame:
    """One row per test document: document, ``last`` and ``best`` (nats above Bayes; best on validation documents)."""
    scores = done.tensors("eval")
    test = scores["test"].double().numpy() - bayes_nll(chosen, scores["test"].shape[1], "test")
    best = int(scores["validation"].double().mean(dim=1).argmin())
    return pd.DataFrame({"document": np.arange(test.shape[1]), "last": test[-1], "best": test[best]})


def mean_excess(chosen: Study, done: Finished) -> dict[str, float]:
    """The means of :func:`document_excess`: ``last`` and ``best``."""
    table = document_excess(chosen, done)
    return {name: float(table[name].mean()) for name in ("last", "best")}


def of_cell(cell: Cell) -> dict[str, Any]:
    """The columns that name a cell."""
    return {"variant": cell.variant, "world": cell.world, "seed": cell.seed}
