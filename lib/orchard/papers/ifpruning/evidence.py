"""From the tables of the experiments to the evidence of each claim (part, seed, unit, value)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.papers.ifpruning import ablations, comparison, invariants, latency, published, shapes, sources

EVIDENCE: dict[str, Callable[[Callable[[str], pd.DataFrame]], pd.DataFrame]] = {
    **published.EVIDENCE,
    **shapes.EVIDENCE,
    **comparison.EVIDENCE,
    **invariants.EVIDENCE,
    **latency.EVIDENCE,
    **ablations.EVIDENCE,
    **sources.EVIDENCE,
}
