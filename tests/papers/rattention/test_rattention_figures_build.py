"""What 01_build draws: which branch reads which token."""

from __future__ import annotations

import pytest

from orchard.papers.rattention.figures.build import coverage, coverage_table

PAST = {"linear attention": 4}  # of the ten tokens that query 9 may see, with a window of 6


@pytest.mark.parametrize(
    ("delay", "seen"),
    [
        (6, {"sliding window": 6, **PAST}),
        (0, {"both": 6, **PAST}),
        (3, {"sliding window": 3, "both": 3, **PAST}),
        (8, {"sliding window": 6, "neither": 2, "linear attention": 2}),
    ],
)
def test_picture_of_what_is_read(delay, seen):
    table = coverage_table(10, 5, delay)
    assert table[table["query"] == 9]["branch"].value_counts().to_dict() == seen
    assert (table["branch"] == "not visible").sum() == 45


def test_without_a_delay_the_branches_share_out_the_past():
    table = coverage_table(10, 5)
    assert table.equals(coverage_table(10, 5, 6))
    assert {text.get_text() for text in coverage(10, 5).legends[0].get_texts()} == {
        "sliding window",
        "linear attention",
        "not visible",
    }
