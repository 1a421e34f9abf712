"""Prompts, markers and answers, case by case."""

from __future__ import annotations

import pytest

from orchard.papers.llava_reasoner.method.prompts import (
    KINDS,
    LETTER,
    ONE_WORD,
    SHORT_ANSWER,
    Templates,
    answer,
    has_marker,
    marked_answer,
    marker_rate,
    rationale,
    target,
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("red 3 ; blue 5 ; 3 + 5 = 8 ### answer : 8", "8"),
        ("The bars show 3 and 5.\n### Answer: 8", "8"),
        ("### ANSWER:8", "8"),
        ("###answer : 12 %", "12 %"),
        ("### answer : 7 ; no ### answer : 8", "8"),  # the last one
        ("### Answer: light blue\nThat is all.", "light blue"),  # its line
        ("### Answer:\n  A", "A"),
        ("### answer :", None),
        ("### answer : 7 ### answer :", None),
        ("the answer : 8", None),
        ("8", None),
        ("", None),
    ],
)
def test_what_follows_the_last_marker(response: str, expected: str | None) -> None:
    assert marked_answer(response) == expected
    assert answer(response, "cot") == expected


def test_under_the_direct_prompt_the_whole_response_is_the_answer() -> None:
    assert answer(" 8 ", "direct") == "8"
    assert answer("3 + 5 = 8 ### answer : 8", "direct") == "3 + 5 = 8 ### answer : 8"
    assert answer("  ", "direct") is None


def test_what_is_taught_is_read_again() -> None:
    written = target("red 3 ; blue 5", "8")
    assert written == "red 3 ; blue 5 ### answer : 8"
    assert (rationale(written), marked_answer(written)) == ("red 3 ; blue 5", "8")
    assert target("", "8") == "### answer : 8"
    assert rationale("no marker here ") == "no marker here"
    assert rationale("a ### answer : b ### answer : c") == "a ### answer : b"


def test_marker_rate() -> None:
    assert marker_rate(["### answer : 1", "1", "### Answer:", "answer : 1"]) == 0.5
    assert has_marker("### Answer:")  # a marker, though no answer
    with pytest.raises(ValueError, match="no responses"):
        marker_rate([])


def test_both_prompts_hold_the_question_and_differ() -> None:
    for templates in (SHORT_ANSWER, LETTER, ONE_WORD):
        prompts = [templates.prompt("how many {x} bars ?", kind) for kind in KINDS]
        assert all("how many {x} bars ?" in prompt for prompt in prompts)  # braces of a question are text
        assert prompts[0] != prompts[1]
    assert ONE_WORD.prompt("sum red blue", "cot") == "sum red blue cot"


def test_a_template_without_a_question() -> None:
    with pytest.raises(ValueError, match=r"the cot template 'why' has no \{question\}"):
        Templates(direct="{question}", cot="why")
