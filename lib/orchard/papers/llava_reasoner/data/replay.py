"""A chain replayed against its record: the first word that no right chain has there, exactly.

    right chain = any true statements about bars, ``colour value ;``, then the steps of the task, then ``### answer :`` and the answer

The steps may name the operands of a sum, the bars above a threshold, and bars that are equally high or low in any order or choice; each is
one of a few *endings*. All prefixes of right chains are followed at once (a nondeterministic automaton): a word is wrong where none goes
on. A chain that stops too early is wrong at its end, one that goes on behind its answer at the first word too many. This is a process label
for evaluation: nothing is trained on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data.marking import extract
from orchard.papers.llava_reasoner.data.questions import MARKER, Asked, answer_word, steps

Bars = Sequence[tuple[str, int]]
STOP = "<eos>"  # the right word behind an answer


@dataclass(frozen=True)
class Replay:
    """What a chain is worth. ``first_wrong`` is the place of a word, from 0 (the number of words: it stops too early), None: all is right;
    ``expected`` the words that were right there, sorted."""

    first_wrong: int | None
    expected: tuple[str, ...]
    answer: str | None  # behind the last marker; None: no marker, or nothing behind it
    answer_right: bool
    listed: bool  # opens with all bars from left to right, as they are believed

    @property
    def lucky(self) -> bool:
        """The right answer for a wrong reason."""
        return self.answer_right and self.first_wrong is not None


def solved(bars: Bars, question: Asked) -> tuple[int, int]:
    """The result before the last one, and the answer (of tallest a bar), of one question: `questions.results` in plain steps."""
    task, bar, other, threshold = question
    values = [value for _, value in bars]
    before = max(values) - min(values) if task == "range_plus" else 0
    if task == "tallest":
        return 0, values.index(max(values))
    if task == "count_above":
        return 0, sum(value > threshold for value in values)
    if task == "sum":
        return 0, values[bar] + values[other]
    if task == "diff":
        return 0, abs(values[bar] - values[other])
    doubled = task == "know" and bar == other
    return before, before + values[bar] + values[bar] * doubled


def endings(bars: Bars, question: Asked) -> set[tuple[str, ...]]:
    """All right endings of a chain, from its first step to its answer, in words."""
    task, bar, other, threshold = question
    before, answer = solved(bars, question)
    tail = f"{MARKER} {answer_word(bars, question, answer)}"
    found = {steps(bars, question, before, answer)}
    words = [f"{colour} {value}" for colour, value in bars]
    if task == "count_above":
        above = [word for word, (_, value) in zip(words, bars, strict=True) if value > threshold]
        found |= {f"{' , '.join(order)} = {answer}" for order in itertools.permutations(above) if order}
    elif task == "sum":
        found.add(f"{words[other]} + {words[bar]} = {answer}")
    elif task == "diff" and answer == 0:
        found.add(f"{words[other]} - {words[bar]} = {answer}")
    elif task == "range_plus":
        values = [value for _, value in bars]
        ends = [[w for w, (_, v) in zip(words, bars, strict=True) if v == end] for end in (max(values), min(values))]
        differences = [f"{high} - {low} = {before}" for high, low in itertools.product(*ends)]
        sums = f"{before} + {words[bar]} = {answer}", f"{words[bar]} + {before} = {answer}"
        found |= {f"{difference} ; {total}" for difference, total in itertools.product(differences, sums)}
    return {(*f"{ending} {tail}".split(), STOP) for ending in found}


def replay(chain: str, bars: Bars, question: Asked) -> Replay:
    """A chain in words against the bars of its record, as `Records.bars` gives them.

    Raises BadInput where the question names a bar that the record does not have."""
    if max(question.bar, question.other) >= len(bars):
        raise BadInput(
            f"replay: the question names bar {max(question.bar, question.other)} of a record of {len(bars)} bars; "
            "give the record it was asked of"
        )
    statements = [(colour, str(value), ";") for colour, value in bars]
    ends = sorted(endings(bars, question))
    start = [(path, 0) for path in (*statements, *ends)]  # (path, place): the words that are right next
    alive, wrong, expected = start, None, ()
    words = chain.split()
    for place, word in enumerate((*words, STOP)):
        following = [(path, at + 1) for path, at in alive if path[at] == word]
        if not following:
            wrong, expected = place, tuple(sorted({path[at] for path, at in alive}))
            break
        stated = any(at == len(path) and path[-1] == ";" for path, at in following)
        alive = [(path, at) for path, at in following if at < len(path)] + (start if stated else [])
    answer = extract(chain)
    right = answer == answer_word(bars, question, solved(bars, question)[1])
    return Replay(wrong, expected, answer, right, listed(chain, bars))


def listed(chain: str, bars: Bars) -> bool:
    """Whether a chain opens with all bars from left to right, whatever values it gives them."""
    words = chain.split()[: 3 * len(bars)]
    if len(words) == 3 * len(bars) - 1:
        words.append(";")  # a caption: nothing follows
    colours, values, separators = words[0::3], words[1::3], words[2::3]
    opened = colours == [colour for colour, _ in bars] and separators == [";"] * len(bars)
    return opened and all(value.isdigit() for value in values)
