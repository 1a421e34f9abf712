"""Claim K11: what must hold by definition. A value is by how much something is violated, 0 where it holds.

counts           steps and tokens of every arm of a cell = those of repetition, exactly
pair information 0 <= I(d1; d2) <= H(c) <= ln C, beyond three standard errors
Bayes            no model's mean loss is below that of the exact law, beyond three standard errors
enumeration      in a world so small that all documents can be listed, probabilities sum to one and I is within its bounds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from orchard.papers.sbp import joint
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.information import information
from orchard.papers.sbp.laws import EVERY, SPECIAL, World
from orchard.papers.sbp.world import VARIANTS, laws
from orchard.runs import Run, Runner, Setting, Workspace

ERRORS = 3.0  # standard errors
ROUNDING = 1e-9  # nats or probability: what sums of float64 may be off by
Tables = Callable[[str], pd.DataFrame]
Row = dict[str, Any]  # part, seed, unit, value


def equal_counts(ledger: pd.DataFrame) -> pd.DataFrame:
    """From `joint.ledger`: the difference in steps and in tokens between each arm and the repetition of its cell."""
    rows = []
    for cell, part in ledger.groupby(["variant", "world", "seed"], sort=False):
        reference = part[part["arm"] == "repetition"].iloc[0]
        for what in ("steps", "tokens"):
            for arm, count in zip(part["arm"], part[what], strict=True):
                rows.append(_row(what, cell, arm, abs(float(count - reference[what]))))
    return pd.DataFrame(rows)


def above_bayes(documents: pd.DataFrame) -> pd.DataFrame:
    """From `joint.documents`: how far the mean excess of each arm, at its best and last checkpoint, lies below 0."""
    rows = []
    for (*cell, arm), part in documents.groupby(["variant", "world", "seed", "arm"], sort=False):
        for checkpoint in ("best", "last"):
            excess = part[checkpoint].to_numpy(dtype=np.float64)
            error = float(excess.std(ddof=1) / np.sqrt(len(excess)))
            rows.append(_row("Bayes", cell, f"{arm}, {checkpoint}", _below(float(excess.mean()), error, 0.0)))
    return pd.DataFrame(rows)


def within_entropy(table: pd.DataFrame) -> pd.DataFrame:
    """From `information.information`: how far I(d1; d2) lies below 0, or above the entropy of the concepts, and that above ln C."""
    rows = []
    columns = ["variant", "world", "gain", "error", "entropy", "concepts"]
    for variant, world, told, error, entropy, concepts in table.loc[table["precision"] == 1.0, columns].to_numpy():
        cell = (variant, world, 0)
        rows += [
            _row("pair information", cell, "0 <= I", _below(told, error, 0.0)),
            _row("pair information", cell, "I <= H(c)", _below(-told, error, -entropy)),
            _row("pair information", cell, "H(c) <= ln C", _below(-entropy, 0.0, -float(np.log(concepts)))),
        ]
    return pd.DataFrame(rows)


def _row(part: str, cell: Any, unit: str, value: float) -> Row:
    variant, world, seed = cell
    return {"part": part, "seed": 1000 * int(world) + int(seed), "unit": f"{variant}, {unit}", "value": value}


def _below(value: float, error: float, least: float) -> float:
    """By how much ``value`` is below ``least``, three standard errors allowed; NaN stays NaN."""
    return _violation(least - value - ERRORS * error)


def _violation(amount: float) -> float:
    return 0.0 if amount <= ROUNDING else float(amount)


# ---------------------------------------------------------------- enumeration


def tiny_laws(variant: str) -> World:
    """Four concepts, four words of two or one statement of four: a few dozen documents have a probability."""
    words = 4 if variant == "facts" else 2
    return laws(variant, 4, words, EVERY, 2, 2, 0.5, 0.1, 0.0, 2, 0.5, 2, 2, 0)


def every_document(world: World) -> Documents:
    """All sequences of a body's length that begin with a genre and hold no genre and no special token after it, whatever the
    grammar says: those that it cannot make must have no probability."""
    genres = range(SPECIAL, world.starts[1])
    others = range(world.starts[1], world.symbols.vocab_size)
    return Documents.of([[genre, *rest] for genre in genres for rest in product(others, repeat=world.length - 1)])


def enumeration(world: World, name: str) -> Iterator[Row]:
    """Sums over all documents, and the information between two documents, exactly."""
    documents = every_document(world)
    marginal = world.log_marginal(documents)
    documents, marginal = documents.take(np.flatnonzero(np.isfinite(marginal))), marginal[np.isfinite(marginal)]
    posterior = world.posterior(documents)
    count = len(documents)
    first, second = np.divmod(np.arange(count * count), count)
    conditional = world.log_conditional(documents.take(second), documents.take(first)).reshape(count, count)
    told = float(np.exp(marginal) @ (np.exp(conditional) * (conditional - marginal)).sum(axis=1))
    gaps = {
        "sum of P(d)": abs(np.exp(marginal).sum() - 1),
        "sums of P(c | d)": np.abs(posterior.sum(axis=1) - 1).max(),
        "sums of P(d2 | d1)": np.abs(np.exp(conditional).sum(axis=1) - 1).max(),
        "sum over d1 of P(d1) P(d2 | d1)": np.abs(np.exp(marginal) @ np.exp(conditional) - np.exp(marginal)).max(),
        "0 <= I": -told,
        "I <= H(c)": told - world.entropy(),
    }
    for unit, gap in gaps.items():
        yield _row("enumeration", (name, 0, 0), unit, _violation(float(gap)))


class Enumeration(Run):
    """`enumeration` of the tiny world of every variant; a run, so that it is done once."""

    class Config(Run.Config):
        pass

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Rows part, seed, unit, value."""
        return {"rows": [row for variant in VARIANTS for row in enumeration(tiny_laws(variant), variant)]}


def invariants(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, seed, unit, value."""
    listed = pd.DataFrame(run([Enumeration.Config(label="enumeration")])[0].result["rows"])
    told = within_entropy(information(setting, run))
    compared = [equal_counts(joint.ledger(setting, run)), above_bayes(joint.documents(setting, run))]
    return pd.concat([listed, told, *compared], ignore_index=True)[["part", "seed", "unit", "value"]]


def k11(tables: Tables) -> pd.DataFrame:
    """K11: the rows themselves."""
    return tables("invariants")


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"invariants": invariants}
EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {"K11": k11}
