"""From tables to the evidence of claims: rows with ``part``, ``seed``, ``unit`` and ``value``, one row per measurement.

A part is a window, a model size, a variant; a unit is an evaluation document, a task, a repetition; the value is what the claim compares
with its threshold. Arms are paired: a difference is taken unit by unit, and a unit that one of them lacks is left out.

A value that was measured and is not a number stays: a claim must not be decided by the rest. What was not to be measured is no row.

    EVIDENCE = {
        "C1": exact("checks", claim="C1"),
        "C8": lambda tables: paired(tables("units"), "arm", "ours", "full", units=["unit"], value="bits", part="ours - full"),
    }
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy.typing as npt
import pandas as pd

from orchard.stats import Interval, paired_bootstrap

COLUMNS = ["part", "seed", "unit", "value"]
Tables = Callable[[str], pd.DataFrame]
"""Gives the table of an experiment by its name."""
Evidence = Callable[[Tables], pd.DataFrame]
"""What decides a claim: from the tables to rows with ``COLUMNS``."""


def rows(part: Any, seed: Any, unit: Any, value: npt.ArrayLike) -> pd.DataFrame:
    """Evidence from a column of values; the other three are columns too, or one name for all rows. NaN stays."""
    columns = {"part": part, "seed": seed, "unit": unit, "value": value}
    plain = {
        name: column.to_numpy() if isinstance(column, pd.Series | pd.Index) else column
        for name, column in columns.items()
    }
    return pd.DataFrame(plain, columns=COLUMNS)


def of(values: pd.Series, part: str | None = None, unit: str | None = None, seed: int | None = None) -> pd.DataFrame:
    """Evidence from a series whose index has the levels ``seed``, ``part`` and, under any names, what makes a unit.

    A level that is missing is given as an argument, which also wins over one that is there. Several levels of a unit are joined by
    commas. NaN stays.
    """
    arguments: dict[str, Any] = {"part": part, "unit": unit, "seed": seed}
    given = {name: value for name, value in arguments.items() if value is not None}
    frame = values.rename("value").reset_index()
    levels = [name for name in frame.columns if name not in ("part", "seed", "value")]
    if "unit" not in given and levels:
        cells = frame[levels].itertuples(index=False)
        given["unit"] = frame[levels[0]] if len(levels) == 1 else [", ".join(map(str, cell)) for cell in cells]
    found = frame.assign(**given)
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise ValueError(f"evidence needs {', '.join(missing)}: name a level of the index so, or give {missing[0]}=...")
    return found[COLUMNS]


def difference(first: pd.Series, second: pd.Series, part: str | None = None) -> pd.DataFrame:
    """``first`` - ``second``, row by row of their common index (seed, part if not given, what makes a unit); NaN stays."""
    gap = first - second
    return of(gap[gap.index.isin(first.index) & gap.index.isin(second.index)], part)


def paired(
    table: pd.DataFrame, by: str, first: str, second: str, *, units: Sequence[str], value: str, part: str | None = None
) -> pd.DataFrame:
    """Paired differences of two arms of a tidy table: ``value`` where column ``by`` is ``first``, minus where it is ``second``.

    Args:
        units: columns that make a unit, beside ``seed``; ``part`` among them if the table has several. Further rows of one unit (draws,
            sizes) are averaged before the difference is taken.
        part: the name of the only part.

    An arm that was not measured gives no rows; a unit with NaN among its rows has NaN.
    """
    keys, own = ["seed", *units], table[table[by].isin([first, second])]
    means = own.groupby([by, *keys], sort=False, observed=True)[value].mean(skipna=False)
    arms = means.index.get_level_values(by)
    if not {first, second} <= set(arms):
        return together([])
    ours, theirs = (means[arms == name].droplevel(by) for name in (first, second))
    ours = ours[ours.index.isin(theirs.index)]
    return difference(ours, theirs.reindex(ours.index), part)


def exact(experiment: str, *parts: str, claim: str | None = None) -> Evidence:
    """Evidence that stands in a table as it is: rows of these parts (none named: of all), and of this claim where the table has a column
    ``claim``."""

    def evidence(tables: Tables) -> pd.DataFrame:
        table = tables(experiment)
        if claim is not None:
            table = table[table["claim"] == claim]
        if parts:
            table = table[table["part"].isin(parts)]
        return table[COLUMNS].reset_index(drop=True)

    return evidence


def together(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Evidence of several parts, one below the other; an empty table with the right columns where there is none."""
    found = [table[COLUMNS] for table in tables if len(table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


def interval(evidence: pd.DataFrame) -> Interval:
    """The mean value with its 95 % interval: seeds are resampled, and units within each seed. NaN where there are no rows."""
    if evidence.empty:
        return Interval(float("nan"), float("nan"), float("nan"), 0.95, "not measured")
    return paired_bootstrap(evidence["value"].to_numpy(dtype=float), evidence["seed"].to_numpy())
