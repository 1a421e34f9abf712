"""P1: the paper's numbers against one another, by hand."""

from __future__ import annotations

import pytest

from orchard.data.published import published
from orchard.errors import BadInput
from orchard.papers.manzano.data import published as paper

TAGS = {
    "[paper]", "[paper, panel inferred]", "[paper, reproduced by the authors]", "[recall]", "[dit-air]",
}  # fmt: skip


def test_every_number_has_its_place_unit_and_provenance() -> None:
    numbers = published("manzano")
    assert list(numbers.columns) == ["table", "part", "row", "column", "value", "unit", "tag"]
    assert not numbers.isna().any(axis=None)
    assert not numbers.duplicated(["table", "part", "row", "column"]).any()
    assert set(numbers["tag"]) == TAGS
    counts = numbers["table"].value_counts()
    assert counts[["Table 1", "Figure 5", "Table 2", "Table 3"]].to_list() == [18, 12, 137, 105]
    assert (numbers["tag"] == "[paper, reproduced by the authors]").sum() == 6 + 8 + 9


def test_p1_overall_scores_follow_from_their_parts_but_not_for_3b() -> None:
    geneval, wise = paper.geneval_means(), paper.wise_means()
    assert geneval["follows"]["Manzano-30B"] == pytest.approx((1.00 + 0.91 + 0.83 + 0.87 + 0.84 + 0.65) / 6)
    assert geneval["follows"]["Manzano-3B"] == pytest.approx(0.8183, abs=1e-4)
    assert geneval["colors_needed"]["Manzano-3B"] == pytest.approx(0.90)
    by_hand = 0.4 * 0.42 + 0.167 * 0.51 + 0.133 * 0.59 + 0.1 * (0.45 + 0.51 + 0.32)
    assert wise["follows"]["Manzano-3B"] == pytest.approx(by_hand)
    assert "X-Omni-7B" not in wise.index  # not measured
    assert list(geneval.index[~geneval["agrees"]]) == ["Manzano-3B"]
    assert list(wise.index[~wise["agrees"]]) == ["Bagel-14B-A7B"]


def test_differences_of_table_1_are_those_of_the_specification() -> None:
    found = paper.strategies()
    assert found.loc["Pure-discrete"].to_list() == [1.6, 4.3, 11.0, 0.0, -1.0, 0.0]
    assert found.loc["Dual-encoder"].to_list() == [1.1, 2.9, 1.3, 12.0, 13.6, 18.0]


def test_contradictions_are_named() -> None:
    found = paper.contradictions().set_index("what")
    wrong = found[~found["agrees"]]
    assert list(wrong.index) == [
        "GenEval of Manzano-3B", "WISE of Bagel-14B-A7B", "hybrid is ahead of pure-discrete on all tasks",
        "unified against single-task, 3B",
    ]  # fmt: skip
    assert "DPG -1.0" in wrong.loc["hybrid is ahead of pure-discrete on all tasks", "against"]
    assert wrong.loc["unified against single-task, 3B", "against"] == "not below: DPG -1.6"


def test_tables_are_as_printed_and_unknown_ones_are_refused() -> None:
    assert paper.table("Table 1").loc["Hybrid"].to_list() == [64.9, 66.5, 73.3, 77, 79.9, 35]
    assert paper.table("Table 2").loc["Manzano-3B", "DocVQA"] == 93.5
    assert paper.table("Table 2").isna().sum().sum() == 13 * 12 - 137
    assert paper.table("Figure 6", "language model").loc["300M to 3B"].to_list() == [14.2, 18.8, 10.9, 11.0, 1.48, 12.0]
    with pytest.raises(BadInput, match="no table 'Table 4'; did you mean"):
        paper.table("Table 4")
    with pytest.raises(BadInput, match="no part 'DPG'"):
        paper.table("Table 3", "DPG")
