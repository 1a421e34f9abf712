"""Pairs from outcomes: window, cap, duplicates, chains without an answer, pairs that are alike, random labels."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchard.papers.llava_reasoner.method import Rule, pairs_from_outcomes
from orchard.papers.llava_reasoner.method.pairs import (
    Outcome,
    Pair,
    accuracies,
    alike,
    in_window,
    length,
    mean_lengths,
    random_labels,
)


def seeded() -> random.Random:
    return random.Random(3)


def rows(right: int, wrong: int, unread: int = 0) -> tuple[list[list[int]], list[Outcome]]:
    """Chains that all differ, and their outcomes."""
    outcomes: list[Outcome] = [True] * right + [False] * wrong + [None] * unread
    return [[i, i] for i in range(len(outcomes))], outcomes


def test_the_window_has_both_of_its_ends() -> None:
    outcomes = [rows(right, 20 - right)[1] for right in range(21)]
    assert in_window(outcomes) == list(range(5, 18))  # 5 / 20 = 0.25, 17 / 20 = 0.85
    assert in_window(outcomes, Rule(window=(0.0, 1.0))) == list(range(21))
    assert accuracies([[True, False, None, True]]) == [0.5]  # no answer is a wrong one


def test_at_most_three_pairs_of_a_question_right_before_wrong() -> None:
    sampled = [rows(4, 4), rows(1, 19), rows(1, 1)]
    pairs = pairs_from_outcomes([r for r, _ in sampled], [o for _, o in sampled], seeded())
    assert Counter(pair.question for pair in pairs) == {0: 3, 2: 1}  # the second lies below the window
    for pair in pairs:
        responses, outcomes = sampled[pair.question]
        assert outcomes[responses.index(list(pair.chosen))] is True
        assert outcomes[responses.index(list(pair.rejected))] is False
    assert len({(tuple(p.chosen), tuple(p.rejected)) for p in pairs if p.question == 0}) == 3


def test_the_cap_is_a_setting_and_the_draw_is_uniform() -> None:
    responses, outcomes = rows(2, 3)
    assert len(pairs_from_outcomes([responses], [outcomes], seeded(), Rule(most=8))) == 6  # all there are
    source = seeded()
    drawn = Counter(
        (pair.chosen[0], pair.rejected[0])
        for _ in range(1200)
        for pair in pairs_from_outcomes([responses], [outcomes], source, Rule(most=1))
    )
    assert len(drawn) == 6
    assert all(150 < count < 250 for count in drawn.values())  # 200 each, 3.9 standard deviations


def test_the_same_source_gives_the_same_pairs() -> None:
    sampled = [rows(5, 5, 2), rows(4, 8)]
    once, again = (pairs_from_outcomes([r for r, _ in sampled], [o for _, o in sampled], seeded()) for _ in range(2))
    assert once == again


def test_a_chain_that_was_drawn_twice_counts_in_the_accuracy_and_once_in_the_pairs() -> None:
    responses = ["a", "a", "a", "b", "b", "c"]
    outcomes: list[Outcome] = [True, True, True, False, False, False]
    pairs = pairs_from_outcomes([responses], [outcomes], seeded())
    assert sorted((pair.chosen, pair.rejected) for pair in pairs) == [("a", "b"), ("a", "c")]
    outcomes[5] = True  # 4 of 6 are right; of the distinct ones 2 of 3
    assert accuracies([outcomes]) == [4 / 6]


def test_at_most_one_pair_rejects_a_chain_without_an_answer() -> None:
    responses, outcomes = rows(4, 1, 7)
    for seed in range(10):
        pairs = pairs_from_outcomes([responses], [outcomes], random.Random(seed))
        assert len(pairs) == 3
        assert sum(pair.unparsable for pair in pairs) <= 1
    only = rows(4, 0, 8)
    pairs = pairs_from_outcomes([only[0]], [only[1]], seeded())
    assert [pair.unparsable for pair in pairs] == [True]
    assert pairs_from_outcomes([only[0]], [only[1]], seeded(), Rule(most_unparsable=0)) == []


def test_pairs_of_one_style_and_length() -> None:
    responses = ["list red 3", "list red 3 blue 5 and 8", "hasty 7", "list red 4"]
    outcomes: list[Outcome] = [True, True, False, False]
    match = alike(lambda chain: str(chain).split()[0])
    pairs = pairs_from_outcomes([responses], [outcomes], seeded(), match=match)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("list red 3", "list red 4")]
    assert alike(len, tolerance=0)([1, 2], [3, 4])
    assert not alike(lambda chain: 0, tolerance=0)([1, 2], [3])
    assert alike(lambda chain: 0)([1, 2], [3, 4, 5, 6])
    assert not alike(lambda chain: 0)([1, 2], [3, 4, 5, 6, 7])


def test_random_labels_keep_the_chains_and_swap_half() -> None:
    pairs = [Pair(i, [i], [-i]) for i in range(1, 1001)]
    mixed = random_labels(pairs, seeded())
    swapped = sum(pair.chosen[0] < 0 for pair in mixed)
    assert 420 < swapped < 580  # 5 standard deviations
    for before, after in zip(pairs, mixed, strict=True):
        assert {after.chosen[0], after.rejected[0]} == {before.chosen[0], before.rejected[0]}
        assert after.question == before.question


def test_lengths() -> None:
    assert (length("red  3 ;"), length([1, 2])) == (3, 2)
    assert mean_lengths([Pair(0, "a b c", "a"), Pair(1, "a", "a b")]) == (2.0, 1.5)


def test_errors() -> None:
    for window in ((0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
            Rule(window=window)
    for wrong in ({"most": 0}, {"most_unparsable": -1}):
        with pytest.raises(ValueError, match="at least 1 pair"):
            Rule(**wrong)
    with pytest.raises(ValueError, match="question 0 has 2 chains and 1 outcomes"):
        pairs_from_outcomes([["a", "b"]], [[True]], seeded())
    with pytest.raises(ValueError, match="1 questions with chains and 0 with outcomes"):
        pairs_from_outcomes([["a"]], [], seeded())
    with pytest.raises(ValueError, match="question 1 has no chains"):
        accuracies([[True], []])
    with pytest.raises(ValueError, match="tolerance is -1"):
        alike(len, tolerance=-1)
    with pytest.raises(ValueError, match="no pairs"):
        mean_lengths([])
