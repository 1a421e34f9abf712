"""Claim K11, what must hold by definition; and the paper's own numbers. A value is by how much something is violated, 0 where it holds.

counts           steps and tokens of every arm of a cell = those of repetition, exactly
pair information 0 <= I(d1; d2) <= H(c) <= ln C, beyond three standard errors
Bayes            no model's mean loss is below that of the exact law, beyond three standard errors
enumeration      in a world so small that all documents can be listed, probabilities sum to one and I is within its bounds
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchard.data.published import published as published_numbers
from orchard.papers.sbp.experiments import comparison
from orchard.papers.sbp.experiments.bounds import information
from orchard.papers.sbp.runs.checks import Enumeration, row, violation
from orchard.papers.sbp.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting, tabulated, tabulation

ERRORS = 3.0  # standard errors


def equal_counts(ledger: pd.DataFrame) -> pd.DataFrame:
    """From `comparison.ledger`: the difference in steps and in tokens between each arm and the repetition of its cell."""
    rows = []
    for cell, part in ledger.groupby(["variant", "world", "seed"], sort=False):
        reference = part[part["arm"] == "repetition"].iloc[0]
        for what in ("steps", "tokens"):
            for arm, count in zip(part["arm"], part[what], strict=True):
                rows.append(row(what, cell, arm, abs(float(count - reference[what]))))
    return pd.DataFrame(rows)


def above_bayes(documents: pd.DataFrame) -> pd.DataFrame:
    """From `comparison.documents`: how far the mean excess of each arm, at its best and last checkpoint, lies below 0."""
    rows = []
    for (*cell, arm), part in documents.groupby(["variant", "world", "seed", "arm"], sort=False):
        for checkpoint in ("best", "last"):
            excess = part[checkpoint].to_numpy(dtype=np.float64)
            error = float(excess.std(ddof=1) / np.sqrt(len(excess)))
            rows.append(row("Bayes", cell, f"{arm}, {checkpoint}", _below(float(excess.mean()), error, 0.0)))
    return pd.DataFrame(rows)


def within_entropy(table: pd.DataFrame) -> pd.DataFrame:
    """From `bounds.information`: how far I(d1; d2) lies below 0, or above the entropy of the concepts, and that above ln C."""
    rows = []
    columns = ["variant", "world", "gain", "error", "entropy", "concepts"]
    for variant, world, told, error, entropy, concepts in table.loc[table["precision"] == 1.0, columns].to_numpy():
        cell = (variant, world, 0)
        rows += [
            row("pair information", cell, "0 <= I", _below(told, error, 0.0)),
            row("pair information", cell, "I <= H(c)", _below(-told, error, -entropy)),
            row("pair information", cell, "H(c) <= ln C", _below(-entropy, 0.0, -float(np.log(concepts)))),
        ]
    return pd.DataFrame(rows)


def _below(value: float, error: float, least: float) -> float:
    """By how much ``value`` is below ``least``, three standard errors allowed; NaN stays NaN."""
    return violation(least - value - ERRORS * error)


def invariants(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, seed, unit, value."""
    listed = pd.DataFrame(run([Enumeration.Config(label="enumeration")])[0].result["rows"])
    told = within_entropy(information(setting, run))
    compared = [equal_counts(comparison.ledger(setting, run)), above_bayes(comparison.documents(setting, run))]
    return pd.concat([listed, told, *compared], ignore_index=True)[["part", "seed", "unit", "value"]]


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return published_numbers("sbp")
