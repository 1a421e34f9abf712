"""Learning rates, chosen alike for every family before anything is compared: the best on validation questions, at the first seed."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from orchard.papers.ifpruning.arms import FAMILIES, Study
from orchard.papers.ifpruning.profiles import PROFILES, Cell, Rates, cells
from orchard.runs import Runner, Setting


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per family and pair of rates: family, decoder, selector (learning rates), validation_accuracy. Empty for a grid of one."""
    grid = PROFILES[setting.profile].rates
    cell = cells(setting)[0]
    wanted = []
    for pair in grid if len(grid) > 1 else ():
        profile = replace(cell.profile, rates=(pair,), own_rates={})
        wanted += [(name, pair, Study(replace(cell, profile=profile)).arm(name)) for name in FAMILIES]
    rows = [
        {"family": name, "decoder": pair.decoder, "selector": pair.selector, "validation_accuracy": done.result["validation_accuracy"]}
        for (name, pair, _), done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["family", "decoder", "selector", "validation_accuracy"])


def studies(setting: Setting, run: Runner, **variant: float | int) -> list[tuple[Cell, Study]]:
    """The cells of a setting with their studies, at the best rates of every family."""
    table = rates(setting, run)
    tuned = {
        str(name): Rates(float(best["decoder"]), float(best["selector"]))
        for name, best in table.sort_values("validation_accuracy").groupby("family").last().iterrows()
    }
    return [(cell, Study(cell, tuned)) for cell in cells(setting, **variant)]
