"""Replay: the first wrong word by hand, against how an error was made, and against all right chains there are."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data.chart_world import ChartWorld
from orchard.papers.llava_reasoner.data.questions import (
    COUNT_ABOVE,
    RANGE_PLUS,
    TASKS,
    Asked,
    gold,
    listing,
    questions,
    results,
)
from orchard.papers.llava_reasoner.data.replay import endings, replay, solved
from orchard.papers.llava_reasoner.data.teacher import HASTY, Teacher

BARS = [("red", 3), ("green", 7), ("blue", 5), ("yellow", 1)]
LISTING = "red 3 ; green 7 ; blue 5 ; yellow 1"
SUM, DIFF, COUNT = Asked("sum", 0, 2, -1), Asked("diff", 0, 2, -1), Asked("count_above", -1, -1, 3)
RANGE, TALLEST, LOOKUP = Asked("range_plus", 0, -1, -1), Asked("tallest", -1, -1, -1), Asked("lookup", 2, -1, -1)


@pytest.mark.parametrize(
    ("question", "chain", "first_wrong", "expected"),
    [
        (SUM, f"{LISTING} ; red 3 + blue 5 = 8 ### answer : 8", None, ()),
        (SUM, "red 3 + blue 5 = 8 ### answer : 8", None, ()),
        (SUM, "blue 5 + red 3 = 8 ### answer : 8", None, ()),  # operands in either order
        (SUM, "yellow 1 ; red 3 + blue 5 = 8 ### answer : 8", None, ()),  # any true statements first
        (SUM, "red 3 + blue 5 = 9 ### answer : 9", 6, ("8",)),
        (SUM, "red 3 + blue 5 = 8 ### answer : 9", 10, ("8",)),
        (SUM, "red 4 + blue 5 = 9 ### answer : 9", 1, ("3",)),
        (SUM, "red 3 + green 7 = 10 ### answer : 10", 3, ("blue",)),  # true, but not what was asked
        (SUM, "green 7 + red 3 = 10 ### answer : 10", 2, (";",)),
        (SUM, "red 3 + blue 5 = 8", 7, ("###",)),  # stops too early
        (SUM, "red 3 + blue 5 = 8 ### answer : 8 8", 11, ("<eos>",)),
        (SUM, "", 0, ("blue", "green", "red", "yellow")),
        (SUM, "purple 3", 0, ("blue", "green", "red", "yellow")),
        (SUM, "red 3 ### answer : 3", 2, ("+", ";")),
        (DIFF, "blue 5 - red 3 = 2 ### answer : 2", None, ()),
        (DIFF, "red 3 - blue 5 = 2 ### answer : 2", 2, (";",)),
        (COUNT, "blue 5 , green 7 = 2 ### answer : 2", None, ()),
        (COUNT, "green 7 = 1 ### answer : 1", 2, (",", ";")),  # one bar is left out
        (COUNT, "green 7 , blue 5 , red 3 = 3 ### answer : 3", 5, ("=",)),  # one too many
        (RANGE, "green 7 - yellow 1 = 6 ; red 3 + 6 = 9 ### answer : 9", None, ()),
        (RANGE, "green 7 - yellow 1 = 5 ; 5 + red 3 = 8 ### answer : 8", 6, ("6",)),
        (RANGE, "blue 5 - yellow 1 = 4 ; 4 + red 3 = 7 ### answer : 7", 2, (";",)),
        (TALLEST, f"{LISTING} ; 7 = green ### answer : green", None, ()),
        (TALLEST, f"{LISTING} ; 7 = blue ### answer : blue", 14, ("green",)),
        (LOOKUP, "red 3 ; green 6 ; blue 5 ; yellow 1 ; blue 5 ### answer : 5", 4, ("7",)),
        (Asked("know", 0, 0, -1), "red 3 ### answer : 3", 2, ("+", ";")),
        (Asked("know", 0, 1, -1), "red 3 ### answer : 3", None, ()),
    ],
)
def test_the_first_wrong_word_by_hand(
    question: Asked, chain: str, first_wrong: int | None, expected: tuple[str, ...]
) -> None:
    found = replay(chain, BARS, question)
    assert (found.first_wrong, found.expected) == (first_wrong, expected)


def test_bars_that_are_equally_high_may_be_named_in_any_choice() -> None:
    bars = [("red", 4), ("green", 4), ("blue", 2), ("yellow", 2)]
    for high in ("red", "green"):
        for low in ("blue", "yellow"):
            chain = f"{high} 4 - {low} 2 = 2 ; 2 + green 4 = 6 ### answer : 6"
            assert replay(chain, bars, Asked("range_plus", 1, -1, -1)).first_wrong is None
    assert replay("green 4 - red 4 = 0 ### answer : 0", bars, Asked("diff", 0, 1, -1)).first_wrong is None


def test_luck_answers_and_listings_are_told_apart() -> None:
    lucky = replay("red 3 ; green 6 ; blue 5 ; yellow 1 ; blue 5 ### answer : 5", BARS, LOOKUP)
    assert lucky.lucky
    assert lucky.answer_right
    assert lucky.listed
    plain = replay("blue 5 ### answer : 5", BARS, LOOKUP)
    assert not plain.listed
    assert not plain.lucky
    silent = replay(f"{LISTING} ; blue 5", BARS, LOOKUP)
    assert silent.answer is None
    assert not silent.answer_right
    assert not replay("green 7 ; red 3 ; blue 5 ; yellow 1", BARS, LOOKUP).listed  # another order
    assert replay(LISTING, BARS, LOOKUP).listed
    assert not replay(
        "red 3 , green 7 , blue 5 , yellow 1 = 4 ### answer : 4", BARS, Asked("count_above", -1, -1, 0)
    ).listed
    with pytest.raises(BadInput, match="names bar 2 of a record of 2 bars"):
        replay("blue 5", BARS[:2], LOOKUP)


def test_the_first_wrong_word_is_where_the_teacher_erred() -> None:
    world = ChartWorld.Config(train=1400, seed=2).build()
    records = world.charts("train").records
    asked = questions(world, records, 0, TASKS)
    chains = Teacher.Config(misread=0.4, miscalculate=0.2).build().write(world, records, asked)
    texts, checked = chains.texts(records, asked), 0
    for i, text in enumerate(texts):
        bars, words = records.bars(i), text.split()
        found = replay(text, bars, asked.row(i))
        if chains.style[i] == HASTY and chains.misread[i] >= 0:
            continue  # what a misreading does to a chain without a listing depends on the task: by hand above
        if chains.misread[i] >= 0:
            wanted = 3 * int(chains.misread[i]) + 1
        elif chains.slips[i, 0]:
            wanted = words.index("=") + 1
        elif chains.slips[i, 1]:
            wanted = len(words) - 5  # the word before the marker of four words
        else:
            assert found.first_wrong is None
            continue
        checked += 1
        assert found.first_wrong == wanted
        assert words[wanted] not in found.expected
    assert checked > 300


def test_any_changed_word_of_a_right_chain_is_found_unless_the_chain_stays_right() -> None:
    world = ChartWorld.Config(train=140, seed=4).build()
    records = world.charts("train").records
    asked, random = questions(world, records, 0, TASKS), np.random.default_rng(0)
    for i, chain in enumerate(gold(records, asked)[1]):
        bars, words = records.bars(i), chain.split()
        ends = endings(bars, asked.row(i))
        opening = [*listing(bars).split(), ";"]
        assert (*words[len(opening) :], "<eos>") in ends
        place = int(random.integers(len(words)))
        changed = [*words[:place], "text", *words[place + 1 :]]
        assert replay(" ".join(changed), bars, asked.row(i)).first_wrong == place
        assert replay(" ".join(words[:place]), bars, asked.row(i)).first_wrong == place
        assert words[place] in replay(" ".join(words[:place]), bars, asked.row(i)).expected


def test_one_question_is_solved_as_all_are() -> None:
    world = ChartWorld.Config(train=700, bars=5, fewest=3).build()
    records = world.charts("train").records
    asked = questions(world, records, 1, TASKS)
    plain = [solved(records.bars(i), asked.row(i)) for i in range(len(records))]
    assert np.array_equal(plain, results(records.value, asked))
    assert {COUNT_ABOVE, RANGE_PLUS} <= set(asked.task.tolist())
