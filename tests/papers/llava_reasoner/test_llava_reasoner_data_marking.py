"""S4: answers behind the marker, relaxed accuracy, ANLS and option letters, by hand after the conventions of lmms-eval and VLMEvalKit."""

from __future__ import annotations

import pytest

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data import marking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("red 3 + blue 5 = 8 ### answer : 8", "8"),
        ("It rises.\n\n### Answer: 12.5%", "12.5%"),
        ("### Answer: 3 ... no.\n### Answer: 4", "4"),  # the last one counts
        ("###answer:B\nBecause it is round.", "B"),  # the first line
        ("the answer is 8", None),
        ("### answer :", None),
        ("### answer :  \n ", None),
    ],
)
def test_the_answer_is_what_stands_behind_the_last_marker(text: str, answer: str | None) -> None:
    assert marking.extract(text) == answer


@pytest.mark.parametrize(
    ("prediction", "target", "right"),
    [
        ("8", "8", True),
        ("105", "100", True),  # 5 % off
        ("95", "100", True),
        ("106", "100", False),
        ("8.4", "8", False),  # in floating point a little more than 5 %
        ("-10.4", "-10", True),
        ("10", "-10", False),
        ("5%", "0.05", True),  # a percentage is a share
        ("5%", "5", False),
        ("5.2%", "5%", True),
        ("0", "0", True),  # a target of zero is compared as text
        ("0.0", "0", False),
        ("0.001", "0", False),
        ("Green", "green", True),
        ("dark green", "green", False),
        ("1,000", "1000", False),  # no number: compared as text
        ("twelve", "12", False),
        ("nan", "12", False),
    ],
)
def test_relaxed_accuracy(prediction: str, target: str, right: bool) -> None:
    assert marking.relaxed(prediction, target) is right


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("apple", ["apple"], 1.0),
        ("Apple  pie", ["apple pie"], 1.0),
        ("aple", ["apple"], 1 - 1 / 5),
        ("appel", ["apple", "appeal"], 1 - 1 / 6),  # the best reference: one letter of six, two of five
        ("abcd", ["abxy"], 0.5),  # a half still counts
        ("abc", ["axy"], 0.0),
        ("ab  cx", ["ab cd"], 1 - 1 / 6),  # the distance of cleaned texts over the length of the given ones
        ("", ["a"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls(prediction: str, references: list[str], score: float) -> None:
    assert marking.anls(prediction, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C).", "C"),
        ("The answer is D.", "D"),
        ("B or C", None),
        ("A", "A"),
        ("A dog on the lawn", None),  # an article, perhaps
        ("a cat", "B"),  # the text of an option
        ("cat and dog", None),
        ("nothing", None),
    ],
)
def test_option_letters(text: str, letter: str | None) -> None:
    assert marking.option(text, {"A": "bird", "B": "cat", "C": "dog", "D": "fish"}) == letter


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("", "", 0), ("kitten", "sitting", 3), ("abc", "", 3), ("ab", "ba", 2)]
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert marking.edit_distance(first, second) == marking.edit_distance(second, first) == distance


def test_a_chain_is_marked_behind_its_marker_and_a_direct_answer_as_a_whole() -> None:
    assert marking.mark("relaxed", "3 + 5 = 8 ### answer : 8", "8") == 1.0
    assert marking.mark("relaxed", "3 + 5 = 8", "8") == 0.0  # no marker is wrong, whatever else is said
    assert marking.mark("relaxed", " 8 ", "8", marker=False) == 1.0
    assert marking.mark("anls", "### answer : aple", "apple") == pytest.approx(0.8)
    assert marking.mark("option", "### Answer: (B)", "b") == 1.0
    assert marking.mark("exact", "### answer : Dark  Green", "dark green") == 1.0
    with pytest.raises(BadInput, match="no rule 'relax'; did you mean 'relaxed'"):
        marking.mark("relax", "8", "8")
    with pytest.raises(BadInput, match="no reference for the answer '8'"):
        marking.anls("8", [])
