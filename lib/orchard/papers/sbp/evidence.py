"""From the tables of the experiments to the evidence of each claim: rows with part, seed, unit and value.

The rules lie beside the experiments that they judge.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.papers.sbp import (
    ablations,
    concepts,
    costs,
    invariants,
    joint,
    partners,
    quality,
    sizes,
)

Tables = Callable[[str], pd.DataFrame]

EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {
    **joint.EVIDENCE,
    **invariants.EVIDENCE,
    **quality.EVIDENCE,
    **partners.EVIDENCE,
    **concepts.EVIDENCE,
    **sizes.EVIDENCE,
    **ablations.EVIDENCE,
    **costs.EVIDENCE,
}
