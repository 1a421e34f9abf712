"""What holds by definition and what the paper prints, as tables."""

from __future__ import annotations

import pandas as pd

from orchard.data import published as numbers
from orchard.papers.rattention.runs import checks, shapes
from orchard.runs import Runner, Setting, tabulated, tabulation


def exact_checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Deterministic checks of the method and closed forms, independent of profile and data: claim, part, seed, unit, value."""
    own = tabulation(checks.exact_checks, "exact checks", [numbers.published_file("rattention")])
    return tabulated(run, own, tabulation(checks.kernel_checks, "exact checks of the kernels"))


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per published size and arm: parameters, FLOPs per token, cache, training FLOPs."""
    return tabulated(run, tabulation(shapes.paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return numbers.published("rattention")
