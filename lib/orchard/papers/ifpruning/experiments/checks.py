"""Exact claims: SoftTopK and pruned decoders against references (V1 to V3), the published sizes (V4), the paper's own numbers (V5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from orchard.data.published import published, published_file
from orchard.evidence import Tables, exact, rows
from orchard.papers.ifpruning.data import published as paper
from orchard.papers.ifpruning.runs.checks import iteration_table, pruning_table, softtopk_table
from orchard.papers.ifpruning.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting, tabulated, tabulation


def _tabled(setting: Setting, run: Runner, table: Callable[[], pd.DataFrame], label: str) -> pd.DataFrame:
    """The rows of a function, as a run: the same at every profile."""
    return tabulated(run, tabulation(table, label))


softtopk_checks = partial(_tabled, table=softtopk_table, label="SoftTopK against solvers")
pruning_checks = partial(_tabled, table=pruning_table, label="pruned against masked decoders")
iterations = partial(_tabled, table=iteration_table, label="sum of the iterative form")


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes", [published_file("ifpruning")]))


def paper_numbers(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return published("ifpruning")


def paper_latency(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`derived_latency`."""
    return paper.derived_latency()


v1 = exact("softtopk_checks", "coordinate descent", "SLSQP")
v1b = exact("softtopk_checks", "coordinate descent")
v2 = exact("pruning_checks", "masked decoder", "stock Llama")
v3 = exact("softtopk_checks", "sum", "gates", "Jacobian")


def v4(tables: Tables) -> pd.DataFrame:
    """V4: distance of the number of parameters on the meta device from the stated one, in per cent of it, every published size."""
    counted = tables("paper_shapes").set_index("model")["parameters"]
    numbers = tables("published")
    numbers = numbers[(numbers["table"] == "Table 4") & (numbers["column"] == "non-embedding parameters")]
    stated = numbers.set_index("row")["value"]
    distance = 100 * (counted.loc[stated.index] / stated - 1).abs()
    return rows("Table 4", 0, distance.index, distance)


def v5(tables: Tables) -> pd.DataFrame:
    """V5: distance of every derived percentage from the one derived by hand, in percentage points."""
    derived = tables("published_latency").query("unit == '%'")
    distance = (derived["value"] - derived["stated"]).abs()
    return rows("Tables 3 and A.5", 0, derived["quantity"] + ", " + derived["model"], distance)
