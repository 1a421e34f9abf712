"""Questions about charts: answers and chains by hand, the law of what is asked, the closed vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data import questions as qs
from orchard.papers.llava_reasoner.data.chart_world import ChartWorld, Records
from orchard.papers.llava_reasoner.data.questions import TASKS, Asked, Questions

BARS = [("red", 3), ("green", 7), ("blue", 5), ("yellow", 1)]
LISTING = "red 3 ; green 7 ; blue 5 ; yellow 1"


def one(bars: list[tuple[str, int]], question: Asked) -> tuple[Records, Questions]:
    colours = [tuple(qs.COLOURS).index(colour) for colour, _ in bars]
    records = Records(np.array([colours], dtype=np.int8), np.array([[value for _, value in bars]], dtype=np.int8))
    numbers = (TASKS.index(question.task), *question[1:])
    return records, Questions(*(np.array([number], dtype=np.int8) for number in numbers))


@pytest.mark.parametrize(
    ("question", "prompt", "steps", "answer"),
    [
        (Asked("lookup", 2, -1, -1), "lookup blue ?", "blue 5", "5"),
        (Asked("tallest", -1, -1, -1), "tallest ?", "7 = green", "green"),
        (Asked("count_above", -1, -1, 3), "count_above 3 ?", "green 7 , blue 5 = 2", "2"),
        (Asked("count_above", -1, -1, 7), "count_above 7 ?", "none = 0", "0"),
        (Asked("sum", 0, 2, -1), "sum red blue ?", "red 3 + blue 5 = 8", "8"),
        (Asked("diff", 0, 2, -1), "diff red blue ?", "blue 5 - red 3 = 2", "2"),
        (Asked("range_plus", 0, -1, -1), "range_plus red ?", "green 7 - yellow 1 = 6 ; 6 + red 3 = 9", "9"),
        (Asked("know", 0, 0, -1), "know double red : red ?", "red 3 + red 3 = 6", "6"),
        (Asked("know", 0, 1, -1), "know double green : red ?", "red 3", "3"),
    ],
)
def test_questions_answers_and_chains_by_hand(question: Asked, prompt: str, steps: str, answer: str) -> None:
    records, asked = one(BARS, question)
    assert asked.row(0) == question
    for template in ("direct", "cot"):
        assert qs.prompt(BARS, question, template) == f"{template} {prompt}"
    for listed, opening in ((True, f"{LISTING} ; "), (False, "")):
        answers, chains = qs.gold(records, asked, listed)
        assert answers == [answer]
        assert chains == [f"{opening}{steps} ### answer : {answer}"]
        assert qs.decode(qs.encode(chains[0])) == chains[0]
    qs.encode(qs.prompt(BARS, question, "cot"))


def test_of_equal_bars_the_leftmost_counts() -> None:
    bars = [("red", 4), ("green", 4), ("blue", 2), ("yellow", 2)]
    assert qs.gold(*one(bars, Asked("tallest", -1, -1, -1)))[0] == ["red"]
    assert qs.gold(*one(bars, Asked("range_plus", 1, -1, -1)), listed=False)[1][0].startswith("red 4 - blue 2 = 2 ; ")
    assert "red 4 - green 4 = 0" in qs.gold(*one(bars, Asked("diff", 0, 1, -1)))[1][0]


def test_slips_are_added_or_taken_off_and_what_follows_goes_on_from_them() -> None:
    records, asked = one(BARS, Asked("range_plus", 0, -1, -1))
    assert qs.results(records.value, asked, np.array([[1, 0]])).tolist() == [[7, 10]]
    assert qs.results(records.value, asked, np.array([[-1, -1]])).tolist() == [[5, 7]]
    records, asked = one(BARS, Asked("count_above", -1, -1, 8))
    assert qs.results(records.value, asked, np.array([[0, -1]])).tolist() == [[0, 1]]  # never below zero


def test_named_and_needed_bars() -> None:
    cases = {
        Asked("lookup", 2, -1, -1): ([2], [2]), Asked("tallest", -1, -1, -1): ([1], [0, 1, 2, 3]),
        Asked("count_above", -1, -1, 4): ([1, 2], [0, 1, 2, 3]), Asked("sum", 0, 3, -1): ([0, 3], [0, 3]),
        Asked("range_plus", 2, -1, -1): ([1, 2, 3], [0, 1, 2, 3]), Asked("know", 1, 2, -1): ([1], [1]),
    }  # fmt: skip
    for question, wanted in cases.items():
        records, asked = one(BARS, question)
        masks = qs.named(records.value, asked), qs.needed(records.value, asked)
        assert tuple(np.flatnonzero(mask[0]).tolist() for mask in masks) == wanted


def test_questions_follow_their_law_and_the_first_do_not_depend_on_the_others() -> None:
    world = ChartWorld.Config(train=7000, bars=5, fewest=3).build()
    records = world.charts("train").records
    asked = qs.questions(world, records, 0, TASKS)
    few = qs.questions(world, records.take(np.arange(100)), 0, TASKS)
    assert all(np.array_equal(vars(few)[name], vars(asked)[name][:100]) for name in vars(few))
    assert not np.array_equal(asked.bar, qs.questions(world, records, 1, TASKS).bar)
    assert np.bincount(asked.task).tolist() == [1000] * 7
    count = (records.value > 0).sum(1)
    assert (asked.bar < count).all()
    assert (asked.other < count).all()
    two = np.isin(asked.task, (qs.SUM, qs.DIFF))
    assert (asked.bar != asked.other)[two].all()
    assert np.abs(np.bincount(asked.bar[two & (count == 4)]) / (two & (count == 4)).sum() - 1 / 4).max() < 0.06
    know = asked.task == qs.KNOW
    assert abs((asked.bar == asked.other)[know].mean() - 0.5) < 0.06
    thresholds = asked.threshold[asked.task == qs.COUNT_ABOVE]
    assert np.abs(np.bincount(thresholds, minlength=9)[1:] / len(thresholds) - 1 / 8).max() < 0.05
    assert (asked.threshold[asked.task != qs.COUNT_ABOVE] == -1).all()


def test_a_chain_has_at_most_thirty_words_with_four_bars() -> None:
    world = ChartWorld.Config(train=350).build()
    records = world.charts("train").records
    chains = qs.gold(records, qs.questions(world, records, 0, TASKS))[1]
    assert max(len(chain.split()) for chain in chains) == 30
    assert qs.listing(records.bars(0)) == " ; ".join(chains[0].split(" ; ")[:4])


def test_texts_without_a_picture_are_true() -> None:
    world = ChartWorld.Config().build()
    for prompt, answer in qs.text_only(world, 60, 0, "recall"):
        words = prompt.split()
        assert words[words.index(words[-2]) + 1] == answer  # behind the colour that is asked
    for prompt, answer in qs.text_only(world, 60, 0, "arithmetic"):
        numbers = [int(word) for word in prompt.split() if word.isdigit()]
        assert int(answer) == (numbers[0] - numbers[1] if " - " in prompt else sum(numbers)) >= 0
        qs.encode(f"{prompt} {answer}")
    assert qs.text_only(world, 5, 0, "recall") == qs.text_only(world, 60, 0, "recall")[:5]


def test_bad_input_is_told() -> None:
    world = ChartWorld.Config(test=10).build()
    records = world.charts("test").records
    with pytest.raises(BadInput, match="no task 'lokup'; did you mean 'lookup'"):
        qs.questions(world, records, 0, ["lokup"])
    with pytest.raises(BadInput, match="no task is given"):
        qs.questions(world, records, 0, [])
    with pytest.raises(BadInput, match="no template 'chain'"):
        qs.prompt(BARS, Asked("tallest", -1, -1, -1), "chain")
    with pytest.raises(BadInput, match="has no word 'gren'; did you mean 'green'"):
        qs.encode("gren 3")
    with pytest.raises(BadInput, match="no kind of text 'recal'"):
        qs.text_only(world, 1, 0, "recal")
