"""S5: the paper's numbers against one another, by hand."""

from __future__ import annotations

import pytest

from orchard.data.published import published
from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data import published as paper


def test_every_number_has_its_place_unit_and_provenance() -> None:
    numbers = published("llava_reasoner")
    assert list(numbers.columns) == ["table", "part", "row", "column", "value", "unit", "tag"]
    assert not numbers.isna().any(axis=None)
    assert not numbers.duplicated(["table", "part", "row", "column"]).any()
    assert set(numbers["tag"]) == {"[paper]", "[review-page]"}
    assert set(numbers["unit"]) == {"%", "thousand"}
    assert numbers["value"].between(0, 200).all()
    assert numbers["table"].value_counts()[["Table 2", "DPO table", "RFT", "C.1"]].to_list() == [72, 36, 60, 48]


def test_s5_twelve_averages_follow_from_their_sets() -> None:
    rows = paper.averages()
    assert len(rows) == 12
    assert rows["agrees"].all()
    assert rows["difference"].abs().max() <= 0.05 + 1e-9
    first = rows.query("prompt == 'direct' and model == 'format'").iloc[0]
    assert first["follows"] == pytest.approx((85.8 + 70.2 + 75.7 + 37.7 + 68.2 + 71.5 + 75.4 + 39.3) / 8)


def test_gains_are_those_of_the_claims() -> None:
    gains = paper.gains().set_index(["claim", "prompt"])
    assert gains.loc[("L1", "direct"), "average"] == 5.6
    assert gains.loc[("L1", "CoT"), "average"] == 2.9
    assert gains.loc[("L2", "CoT"), "average"] == 10.5
    assert gains.loc[("L4", "CoT"), "average"] == 11.7
    assert gains.loc[("L7", "CoT"), "average"] == 0.2
    ours = gains.loc[("L6", "CoT")].drop(["model", "over", "average"])
    assert (ours.astype(float) > 0).sum() == 7
    assert ours["ScienceQA"] == -0.1


def test_a_stated_total_that_is_not_the_sum_of_its_parts_is_told() -> None:
    totals = paper.totals().set_index("data")
    assert totals.loc["distilled", "follows"] == pytest.approx(191.6)
    assert totals["agrees"].to_dict() == {"distilled": False, "pairs": True}


def test_tables_that_there_are_not_are_refused() -> None:
    with pytest.raises(BadInput, match="no table 'Table 9'"):
        paper.table("Table 9")
    with pytest.raises(BadInput, match="no part 'cot'; did you mean 'CoT'"):
        paper.table("Table 2", "cot")
