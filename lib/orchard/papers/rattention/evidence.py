"""From the tables of the experiments to the evidence of each claim: rows with part, seed, unit and value.

A claim that is missing here is one whose experiment is not part of this series yet; its verdict says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from orchard.papers.rattention import efficiency, long_context
from orchard.stats import paired_bootstrap

Tables = Callable[[str], pd.DataFrame]


def exact(claim: str, tables: Tables) -> pd.DataFrame:
    """Rows of the deterministic checks that belong to a claim."""
    table = tables("exact_checks")
    return table[table["claim"] == claim].drop(columns="claim")


def bits(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Bits per byte of each unit, for every value of ``by``, from rows of nats and bytes."""
    sums = table.groupby([by, "seed", "unit"], sort=False)[["nats", "bytes"]].sum()
    return (sums["nats"] / np.log(2) / sums["bytes"].where(sums["bytes"] > 0)).rename("value").reset_index()


def difference(table: pd.DataFrame, by: str, first: str, second: str, part: str) -> pd.DataFrame:
    """Paired differences ``first`` - ``second`` in bits per byte, unit by unit; units without a byte in the stratum are left out."""
    values = bits(table, by).pivot(index=["seed", "unit"], columns=by, values="value")
    paired = (values[first] - values[second]).dropna().rename("value").reset_index()
    return paired.assign(part=part)[["part", "seed", "unit", "value"]]


def interval(units: pd.DataFrame, by: str, first: str, second: str) -> dict[str, float]:
    """Mean paired difference ``first`` - ``second`` in bits per byte with its 95 % interval: effect, low, high."""
    paired = difference(units, by, first, second, first)
    found = paired_bootstrap(paired["value"].to_numpy(), paired["seed"].to_numpy())
    return {"effect": found.estimate, "low": found.low, "high": found.high}


def far(table: pd.DataFrame, window: int) -> pd.DataFrame:
    """Rows of the strata that lie wholly beyond a window: copying predicts the token, from further back than the window reaches."""
    lows = table["stratum"].str.extract(r"^(\d+)–")[0].astype(float)
    return table[lows > window]


def sweep_far(baseline: str, tables: Tables) -> pd.DataFrame:
    """``baseline``@w against rattn@w on the far stratum, for every window w <= T/4 that has both."""
    units, sweep = tables("window_sweep_units"), tables("window_sweep")
    length = int(units.loc[units["stratum"].str.contains("–"), "stratum"].str.split("–").str[1].astype(int).max())
    arms = set(sweep["arm"])
    windows = [
        int(w)
        for w in sorted(sweep["window"].dropna().unique())
        if w <= length // 4 and {f"{baseline}@{w:g}", f"rattn@{w:g}"} <= arms
    ]
    parts = [difference(far(units, w), "arm", f"{baseline}@{w}", f"rattn@{w}", f"w = {w}") for w in windows]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["part", "seed", "unit", "value"])


def against_full(tables: Tables) -> pd.DataFrame:
    """rattn@T/8 against full attention with rotary positions, on all text."""
    units = tables("window_sweep_units")
    length = int(units.loc[units["stratum"].str.contains("–"), "stratum"].str.split("–").str[1].astype(int).max())
    name = f"rattn@{length // 8}"
    return difference(units, "arm", name, "full_rope", f"{name} − full_rope")


def ablated(variants: tuple[str, ...], tables: Tables) -> pd.DataFrame:
    """The base against variants, on all text; a part each, named by the variant."""
    units = tables("ablation_units")
    return pd.concat([difference(units, "variant", "base", v, v) for v in variants])


EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {
    **{claim: partial(exact, claim) for claim in ("C1", "C2", "C3", "C4", "C4b", "C5", "C6", "C16", "C17")},
    "C7": partial(sweep_far, "swa"),
    "C7b": partial(sweep_far, "swa_mem"),
    "C8": against_full,
    "C12": partial(ablated, ("identity",)),
    "C13": partial(ablated, ("−SWA", "−norm", "head split")),
    **long_context.EVIDENCE,
    "C14": efficiency.step_ratios,
    "C15": efficiency.tile_gain,
}
