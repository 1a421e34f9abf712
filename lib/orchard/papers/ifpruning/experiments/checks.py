"""Exact claims: SoftTopK and pruned decoders against references (V1 to V3), the published sizes (V4), the paper's own numbers (V5)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.papers.ifpruning.data import published as paper
from orchard.papers.ifpruning.experiments.comparison import Tables
from orchard.papers.ifpruning.runs.checks import iteration_table, pruning_table, softtopk_table
from orchard.papers.ifpruning.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting, tabulated, tabulation


def softtopk_checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, unit, value, seed; the same at every profile."""
    return tabulated(run, tabulation(softtopk_table, "SoftTopK against solvers"))


def pruning_checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, unit, value, seed; the same at every profile."""
    return tabulated(run, tabulation(pruning_table, "pruned against masked decoders"))


def iterations(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`iteration_table`."""
    return tabulated(run, tabulation(iteration_table, "sum of the iterative form"))


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes", [paper.path()]))


def paper_numbers(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return paper.published()


def paper_latency(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`derived_latency`."""
    return paper.derived_latency()


def _parts(experiment: str, *parts: str) -> Callable[[Tables], pd.DataFrame]:
    def evidence(tables: Tables) -> pd.DataFrame:
        table = tables(experiment)
        return table[table["part"].isin(parts)]

    return evidence


v1 = _parts("softtopk_checks", "coordinate descent", "SLSQP")
v1b = _parts("softtopk_checks", "coordinate descent")
v2 = _parts("pruning_checks", "masked decoder", "stock Llama")
v3 = _parts("softtopk_checks", "sum", "gates", "Jacobian")


def v4(tables: Tables) -> pd.DataFrame:
    """V4: distance of the number of parameters on the meta device from the stated one, in per cent of it, every published size."""
    counted = tables("paper_shapes").set_index("model")["parameters"]
    rows = tables("published")
    rows = rows[(rows["table"] == "Table 4") & (rows["column"] == "non-embedding parameters")]
    stated = rows.set_index("row")["value"]
    distance = 100 * (counted.loc[stated.index] / stated - 1).abs()
    return pd.DataFrame({"part": "Table 4", "seed": 0, "unit": distance.index, "value": distance.to_numpy()})


def v5(tables: Tables) -> pd.DataFrame:
    """V5: distance of every derived percentage from the one derived by hand, in percentage points."""
    rows = tables("published_latency")
    rows = rows[rows["unit"] == "%"]
    distance = (rows["value"] - rows["stated"]).abs()
    return pd.DataFrame(
        {"part": "Tables 3 and A.5", "seed": 0, "unit": rows["quantity"] + ", " + rows["model"], "value": distance}
    )
