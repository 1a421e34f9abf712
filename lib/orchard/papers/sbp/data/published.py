"""The paper's numbers, with the provenance of each."""

from __future__ import annotations

import pandas as pd

from orchard.paths import root


def published() -> pd.DataFrame:
    """Main table, quality of synthetic text, budgets: table, scale, arm, metric, value, tag."""
    return pd.read_csv(root() / "papers" / "sbp" / "published.csv")
