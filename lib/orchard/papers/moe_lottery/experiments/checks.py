"""What holds exactly, as tables: the paper's own numbers, the published shapes, and the equalities of claim M15."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.data.published import published as published_numbers
from orchard.evidence import Evidence, exact
from orchard.papers.moe_lottery.runs.checks import Invariants, Layouts
from orchard.papers.moe_lottery.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting, tabulated, tabulation


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return published_numbers("moe_lottery")


def invariants(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, seed, unit, value; the same at every profile."""
    done = run([Invariants.Config(seed=0, label="invariants"), Layouts.Config(seed=0, label="layouts of checkpoints")])
    rows = [row for found in done for row in found.result["rows"]]
    return pd.DataFrame(rows)[["part", "seed", "unit", "value"]]


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "published": published, "paper_shapes": published_shapes, "invariants": invariants,
}  # fmt: skip
EVIDENCE: dict[str, Evidence] = {"M15": exact("invariants")}
