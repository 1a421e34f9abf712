"""When synthesis pays, by formula."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.papers.sbp.method.costs import REPEATS, break_even, extra_passes, pays_from, worth


def test_a_pass_is_worth_itself_and_many_are_worth_no_more_than_the_bound() -> None:
    assert worth(np.array([0.5, 1.0])).tolist() == [0.5, 1.0]
    assert worth(np.array([2.0]), 10.0)[0] == pytest.approx(1 + 10 * (1 - np.exp(-0.1)))
    assert worth(np.array([1e6]), 10.0)[0] == pytest.approx(11.0)


def test_costs_in_passes() -> None:
    passes = extra_passes(np.array([10.0]), share=0.5, kept=0.5, tuning=2.0, charged=False)
    assert passes[0] == pytest.approx(1 / 3 + 2 + 2 / 3 * 0.5 * 10 / 0.5)
    assert extra_passes(np.array([10.0]), 0.5, 0.5, 2.0, True)[0] == pytest.approx(passes[0] + 10)


def test_where_it_pays() -> None:
    assert np.isnan(pays_from(break_even(synthetic_worth=0.0)))
    free = break_even(share=0.5, synthetic_worth=1.0, tuning=0.0)
    assert pays_from(free, "repetition") == 2.0  # at one repeat half of D is read once, and a half is as good as fresh
    points = [pays_from(break_even(synthetic_worth=w)) for w in (0.2, 0.5, 1.0)]
    assert points == sorted(points, reverse=True)
    assert 1 < points[-1] <= points[0] <= REPEATS
    assert pays_from(break_even(charged=True)) >= pays_from(break_even())
