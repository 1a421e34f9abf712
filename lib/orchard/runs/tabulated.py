"""A table that a function of no arguments makes, as a run: for what takes seconds and depends on nothing but code and files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from orchard.config import REQUIRED
from orchard.runs.run import Run, Runner, Workspace


class Tabulated(Run):
    """The rows of a table. The module of the function is part of the identity, as that of every function in a config."""

    class Config(Run.Config):
        table: Callable[[], pd.DataFrame] = REQUIRED  # a function at the top of its module
        read: list[str] = []  # SHA-256 of the files that it reads

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """The rows."""
        return {"rows": self.cfg.table().to_dict("records")}


def tabulation(table: Callable[[], pd.DataFrame], label: str, read: Sequence[Path] = ()) -> Tabulated.Config:
    """The run of a function at the top of its module, which reads these files."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in read]
    return Tabulated.Config(table=table, read=digests, label=label)


def tabulated(run: Runner, *wanted: Tabulated.Config) -> pd.DataFrame:
    """The tables of these runs, one below the other, from the store where they were made before."""
    return pd.DataFrame([row for done in run(wanted) for row in done.result["rows"]])
