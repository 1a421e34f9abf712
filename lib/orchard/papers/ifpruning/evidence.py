"""Ifpruning: from the tables of the experiments to the evidence of each claim (part, seed, unit, value)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

Tables = Callable[[str], pd.DataFrame]


def below_uniform(tables: Tables) -> pd.DataFrame:
    """C1: entropy of every sample."""
    table = tables("entropy_by_length").rename(columns={"length": "unit", "entropy": "value"})
    return table.assign(part="all lengths")[["part", "seed", "unit", "value"]]


EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {"C1": below_uniform}
