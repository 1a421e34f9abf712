"""Evidence: rows, series, paired differences with their units, intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from orchard import evidence
from orchard.stats import paired_bootstrap

UNITS = pd.DataFrame([
    {"arm": arm, "seed": seed, "world": world, "document": document, "draw": draw, "bits": bits}
    for arm, bits in (("ours", 1.0), ("theirs", 3.0)) for seed in (0, 1) for world in (0, 1) for document in (0, 1, 2)
    for draw, bits in ((0, bits + document), (1, bits + document + 2 * seed))
])  # fmt: skip


def test_rows_take_columns_and_names() -> None:
    index = pd.Index(["a", "b"])
    found = evidence.rows("T = 8", 0, index, pd.Series([1.0, 3.0], index=[7, 9]))
    assert found.to_dict("list") == {"part": ["T = 8"] * 2, "seed": [0, 0], "unit": ["a", "b"], "value": [1.0, 3.0]}


def test_a_value_that_is_not_a_number_is_not_decided_by_the_rest() -> None:
    """Of two seeds one failed; of two draws of a unit one did."""
    values = pd.Series([1.0, math.nan], index=pd.Index([0, 1], name="seed"))
    both = values.rename_axis("unit").to_frame("value").assign(seed=0).set_index("seed", append=True)["value"]
    units = UNITS.assign(
        bits=UNITS["bits"].where((UNITS["document"] != 2) | (UNITS["draw"] != 0) | (UNITS["seed"] != 0))
    )
    for found, failed in (
        (evidence.rows("a", values.index, "u", values), 1),
        (evidence.of(values, "a", "u"), 1),
        (evidence.difference(both, both + 1, "a"), 1),
        (evidence.paired(units, "arm", "ours", "theirs", units=["world", "document"], value="bits", part="a"), 2),
    ):
        assert found["value"].isna().sum() == failed
        assert math.isnan(evidence.interval(found).low)


def test_a_series_says_by_its_index_what_its_values_are() -> None:
    index = pd.MultiIndex.from_tuples([(0, "x", 3), (1, "y", 4)], names=["seed", "task", "layer"])
    values = pd.Series([0.5, 0.25], index=index)
    found = evidence.of(values, part="all")
    assert found.columns.to_list() == evidence.COLUMNS
    assert found["unit"].to_list() == ["x, 3", "y, 4"]
    assert evidence.of(values.iloc[:0], part="all").columns.to_list() == evidence.COLUMNS
    assert evidence.of(values.droplevel("layer"), part="all")["unit"].to_list() == ["x", "y"]
    assert evidence.of(values.droplevel("layer"), part="all", unit="cell")["unit"].to_list() == ["cell", "cell"]
    by_part = values.rename_axis(["seed", "part", "unit"])
    assert evidence.of(by_part)["part"].to_list() == ["x", "y"]
    with pytest.raises(ValueError, match="needs part"):
        evidence.of(values)


def test_differences_are_paired_and_a_unit_without_partner_is_left_out() -> None:
    found = evidence.paired(UNITS, "arm", "ours", "theirs", units=["world", "document"], value="bits", part="a")
    assert len(found) == 12  # of two draws the mean
    assert set(found["value"]) == {-2.0}
    assert found["unit"].iloc[1] == "0, 1"
    fewer = UNITS[(UNITS["arm"] == "ours") | (UNITS["document"] != 2)]
    assert (
        len(evidence.paired(fewer, "arm", "ours", "theirs", units=["world", "document"], value="bits", part="a")) == 8
    )
    none = evidence.paired(UNITS, "arm", "ours", "nobody's", units=["world", "document"], value="bits", part="a")
    assert none.empty
    assert none.columns.to_list() == evidence.COLUMNS
    first, second = (
        UNITS[UNITS["arm"] == arm].groupby(["seed", "world", "document"])["bits"].mean() for arm in ("ours", "theirs")
    )
    alone = evidence.difference(first, second.iloc[:-1], "a")
    assert len(alone) == 11
    parts = evidence.paired(
        UNITS.rename(columns={"world": "part"}), "arm", "ours", "theirs", units=["part", "document"], value="bits"
    )
    assert sorted(set(parts["part"])) == [0, 1]
    assert set(parts["unit"]) == {0, 1, 2}


def test_exact_evidence_is_the_table_itself() -> None:
    table = pd.DataFrame(
        {
            "claim": ["C1", "C1", "C2"],
            "part": ["a", "b", "a"],
            "seed": 0,
            "unit": "u",
            "value": [1.0, 2.0, 3.0],
            "more": 1,
        }
    )
    tables = {"checks": table}.__getitem__
    assert evidence.exact("checks")(tables)["value"].to_list() == [1.0, 2.0, 3.0]
    assert evidence.exact("checks", claim="C1")(tables)["value"].to_list() == [1.0, 2.0]
    assert evidence.exact("checks", "a", claim="C1")(tables)["value"].to_list() == [1.0]
    assert evidence.exact("checks", "b")(tables).columns.to_list() == evidence.COLUMNS


def test_parts_together_and_nothing_at_all() -> None:
    one = evidence.rows("a", 0, [1, 2], np.array([1.0, 2.0]))
    both = evidence.together([one, evidence.together([]), one.assign(part="b", more=1)])
    assert both["part"].to_list() == ["a", "a", "b", "b"]
    assert both.columns.to_list() == evidence.COLUMNS
    assert evidence.together([]).columns.to_list() == evidence.COLUMNS


def test_the_interval_is_the_paired_bootstrap() -> None:
    found = evidence.rows("a", [0, 0, 1, 1], [0, 1, 0, 1], [1.0, 2.0, 3.0, 5.0])
    assert evidence.interval(found) == paired_bootstrap([1.0, 2.0, 3.0, 5.0], [0, 0, 1, 1])
    assert evidence.interval(evidence.together([])).note == "not measured"
