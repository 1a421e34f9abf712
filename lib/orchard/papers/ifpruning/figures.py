"""Ifpruning: a table in, a figure out."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from orchard import plot


def entropy_by_length(table: pd.DataFrame) -> Figure:
    """Entropy against the length of the sample, with a band over seeds."""
    return plot.sweep(
        table, x="length", y="entropy", x_label="length of the sample (bytes)", y_label="entropy (bits/byte)"
    )
