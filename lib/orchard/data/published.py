"""The numbers that a paper published: ``papers/<slug>/published.csv``, one row a number, each with its provenance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from orchard.data.cache import DataError
from orchard.paths import root


def published_file(slug: str) -> Path:
    """Where the numbers of a paper stand; a run that depends on them names this file."""
    return root() / "papers" / slug / "published.csv"


def published(slug: str) -> pd.DataFrame:
    """The numbers of a paper: columns ``table``, what the paper's tables have, ``value``, and ``tag``, the provenance.

    Raises DataError where there is no such file.
    """
    path = published_file(slug)
    if not path.is_file():
        raise DataError(f"{path} does not exist: it holds the paper's tables; take it from the repository")
    return pd.read_csv(path)
