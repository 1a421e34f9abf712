"""One model for both tasks against one for each (M4): as many sequences of a task, as many steps, the same tokenizer and rates tuned for
each. The conflict is what the joint model lacks."""

from __future__ import annotations

import pandas as pd

from orchard.evidence import Tables, paired, together
from orchard.papers.manzano.experiments.strategies import DRAWN, strategies
from orchard.runs import Runner, Setting

METRICS = ("general", "text-rich", DRAWN)
NAMES = {"hybrid": "unified", "und_only": "single", "gen_only": "single", "quarter": "quarter"}


def single_task(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per item: seed, metric, arm (unified, single, quarter: unified with a quarter of the steps), unit, value."""
    return compared(strategies(setting, run))


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The same from the table of strategies."""
    own = table[table["arm"].isin(NAMES) & table["metric"].isin(METRICS)]
    return own.assign(arm=own["arm"].map(NAMES))[["seed", "metric", "arm", "unit", "value"]].reset_index(drop=True)


def not_worse(tables: Tables, first: str = "unified") -> pd.DataFrame:
    """M4: unified minus single-task, a metric a part."""
    table = tables("single_task")
    return together(
        paired(table[table["metric"] == metric], "arm", first, "single", units=["unit"], value="value", part=metric)
        for metric in METRICS
    )
