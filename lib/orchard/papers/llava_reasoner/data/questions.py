"""Seven tasks about charts, their direct answers and their chains, in a closed vocabulary of whole words.

    task         stands for           answer                                       steps of a chain, behind the listing
    lookup       TextVQA, DocVQA      v of a bar                                   red 3
    tallest      AI2D                 colour of the tallest bar                    7 = green
    count_above  A-OKVQA              number of bars above a threshold             green 7 , blue 5 = 2          none = 0
    sum          ChartQA              v + w of two bars                            red 3 + blue 5 = 8
    diff         ChartQA              |v - w| of two bars, the larger one first    blue 5 - red 3 = 2
    range_plus   MathVista            highest - lowest + v                         green 7 - yellow 1 = 6 ; 6 + red 3 = 9
    know         ScienceQA            v, doubled where the rule names this bar     red 3 + red 3 = 6             red 3

Of equal bars the leftmost one counts. A chain opens with a listing from left to right, ``red 3 ; green 7 ; ...``, and ends in
``### answer : 8``: the last word before this marker is the answer too. Questions are arrays; words are made of one row at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, SupportsInt

import numpy as np
from jaxtyping import Bool, Int, Int8, Int64

from orchard.errors import BadInput, closest
from orchard.papers.llava_reasoner.data.chart_world import COLOURS, HIGHEST, ChartWorld, Records, Rows

TASKS = ("lookup", "tallest", "count_above", "sum", "diff", "range_plus", "know")
LOOKUP, TALLEST, COUNT_ABOVE, SUM, DIFF, RANGE_PLUS, KNOW = range(len(TASKS))
TEMPLATES = ("direct", "cot")  # the prompts of the two kinds of answer
MARKER = "### answer :"
PAD, BOS, EOS, IMAGE = range(4)
NUMBERS = tuple(map(str, range(2 * HIGHEST + 2)))  # a result may be off by one
WORDS = (
    "<pad>", "<bos>", "<eos>", "<image>", *TEMPLATES, *TASKS, *COLOURS, *NUMBERS, ";", ",", "+", "-", "=", "?", ":", "###",
    "answer", "none", "double", "text",
)  # fmt: skip
IDS = {word: i for i, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """The ids of the words of a text. Raises BadInput for a word that is not in the vocabulary."""
    for word in text.split():
        if word not in IDS:
            raise BadInput(f"the vocabulary of ChartWorld has no word {word!r}; {closest(word, WORDS)}")
    return [IDS[word] for word in text.split()]


def decode(ids: Iterable[SupportsInt]) -> str:
    """The words of ids, without padding."""
    return " ".join(WORDS[i] for i in map(int, ids) if i != PAD)


class Asked(NamedTuple):
    """One question: the numbers of its bars, -1 where it names none, and its threshold."""

    task: str
    bar: int
    other: int
    threshold: int


@dataclass(frozen=True)
class Questions(Rows):
    """One question of each chart; ``other`` of know is the bar that the rule doubles, and may be ``bar`` itself."""

    task: Int8[np.ndarray, "questions"]  # into TASKS
    bar: Int8[np.ndarray, "questions"]
    other: Int8[np.ndarray, "questions"]
    threshold: Int8[np.ndarray, "questions"]

    def row(self, row: int | np.integer) -> Asked:
        """One question."""
        return Asked(TASKS[self.task[row]], int(self.bar[row]), int(self.other[row]), int(self.threshold[row]))


def questions(world: ChartWorld, records: Records, seed: int, tasks: Sequence[str] = TASKS[:KNOW]) -> Questions:
    """One question of each record, the tasks in turn, all bars and thresholds as often. Those of the first records do not
    depend on the others.

    Raises BadInput for no task, or an unknown one."""
    numbers = np.array([task_number(task) for task in tasks], dtype=np.int8)
    if not len(numbers):
        raise BadInput(f"questions: no task is given; give some of {', '.join(TASKS)}")
    task = numbers[np.arange(len(records)) % len(numbers)]
    u = np.random.default_rng([seed, 10]).random((len(records), 3))
    count = (records.value > 0).sum(1)
    bar = (u[:, 0] * count).astype(np.int8)
    other = ((bar + 1 + (u[:, 1] * (count - 1)).astype(np.int8)) % count).astype(np.int8)
    other = np.where((task == KNOW) & (u[:, 2] < 0.5), bar, other)
    threshold = 1 + (u[:, 2] * (world.cfg.highest - 1)).astype(np.int8)
    names = ~np.isin(task, (TALLEST, COUNT_ABOVE))
    two = np.isin(task, (SUM, DIFF, KNOW))
    columns = np.where(names, bar, -1), np.where(two, other, -1), np.where(task == COUNT_ABOVE, threshold, -1)
    return Questions(task, *(column.astype(np.int8) for column in columns))


def task_number(task: str) -> int:
    """The number of a task in TASKS. Raises BadInput for an unknown one."""
    if task not in TASKS:
        raise BadInput(f"there is no task {task!r}; {closest(task, TASKS)}")
    return TASKS.index(task)


# ---------------------------------------------------------------------- answers, as arrays


def results(
    value: Int[np.ndarray, "questions bars"], asked: Questions, slips: Int[np.ndarray, "questions 2"] | None = None
) -> Int64[np.ndarray, "questions 2"]:
    """The result before the last one (range_plus alone, else 0) and the answer: a number, of tallest a bar.

    ``slips`` are added to the two results, or taken off where the result would be negative; what follows continues from there."""
    rows, value = np.arange(len(value)), value.astype(np.int64)
    first, second = np.zeros((2, len(value)), dtype=np.int64) if slips is None else slips.T.astype(np.int64)
    lowest = np.where(value > 0, value, 2 * HIGHEST).min(1)
    v, w = value[rows, asked.bar], value[rows, asked.other]
    before = np.where(asked.task == RANGE_PLUS, slipped(value.max(1) - lowest, first), 0)
    above = ((value > asked.threshold[:, None]) & (value > 0)).sum(1)
    doubled = np.where(asked.bar == asked.other, 2 * v, v)
    answers = np.stack([v, value.argmax(1), above, v + w, np.abs(v - w), before + v, doubled])
    return np.stack([before, slipped(answers[asked.task, rows], second)], axis=1)


def slipped(result: np.ndarray, slip: np.ndarray | int) -> np.ndarray:
    """A result and its slip, never below zero."""
    return np.where(result + slip < 0, result - slip, result + slip)


def computed(asked: Questions) -> Bool[np.ndarray, "questions 2"]:
    """Which of the two results of a question are computed, and not read."""
    last = np.isin(asked.task, (COUNT_ABOVE, SUM, DIFF, RANGE_PLUS)) | (
        (asked.task == KNOW) & (asked.bar == asked.other)
    )
    return np.stack([asked.task == RANGE_PLUS, last], axis=1)


def needed(value: Int[np.ndarray, "questions bars"], asked: Questions) -> Bool[np.ndarray, "questions bars"]:
    """The bars that the answer can depend on: those that the question names, or all."""
    place, every = np.arange(value.shape[1]), np.isin(asked.task, (TALLEST, COUNT_ABOVE, RANGE_PLUS))[:, None]
    both = np.isin(asked.task, (SUM, DIFF))[:, None] & (place == asked.other[:, None])
    return (every & (value > 0)) | (~every & ((place == asked.bar[:, None]) | both))


def named(value: Int[np.ndarray, "questions bars"], asked: Questions) -> Bool[np.ndarray, "questions bars"]:
    """The bars that the steps of a chain name."""
    rows, place = np.arange(len(value)), np.arange(value.shape[1])
    found = (place == asked.bar[:, None]) | (place == asked.other[:, None])
    found[asked.task == COUNT_ABOVE] = (value > np.maximum(asked.threshold, 0)[:, None])[asked.task == COUNT_ABOVE]
    highest = np.isin(asked.task, (TALLEST, RANGE_PLUS))
    found[rows[highest], value.argmax(1)[highest]] = True
    lowest = np.where(value > 0, value, 2 * HIGHEST).argmin(1)
    found[rows[asked.task == RANGE_PLUS], lowest[asked.task == RANGE_PLUS]] = True
    found[asked.task == KNOW] = (place == asked.bar[:, None])[asked.task == KNOW]
    return found


def answer_word(bars: Sequence[tuple[str, int]], question: Asked, answer: SupportsInt) -> str:
    """An answer as its word."""
    return bars[int(answer)][0] if question.task == "tallest" else str(int(answer))


# ---------------------------------------------------------------------- words


def prompt(bars: Sequence[tuple[str, int]], question: Asked, template: str) -> str:
    """The words of a question, opened by the template. Raises BadInput for an unknown template."""
    if template not in TEMPLATES:
        raise BadInput(f"there is no template {template!r}; {closest(template, TEMPLATES)}")
    task, bar, other, threshold = question
    if task == "know":
        return f"{template} know double {bars[other][0]} : {bars[bar][0]} ?"
    named = [bars[place][0] for place in (bar, other) if place >= 0] or [str(threshold)] * (task == "count_above")
    return " ".join([template, task, *named, "?"])


def listing(bars: Iterable[tuple[str, int]]) -> str:
    """All bars from left to right: the caption of a chart."""
    return " ; ".join(f"{colour} {value}" for colour, value in bars)


def steps(bars: Sequence[tuple[str, int]], question: Asked, before: SupportsInt, answer: SupportsInt) -> str:
    """The steps of a chain by the values and results that are believed; their last word is the answer."""
    task, bar, other, threshold = question
    words = [f"{colour} {value}" for colour, value in bars]
    last = answer_word(bars, question, answer)
    high, low = max(bars, key=lambda pair: pair[1]), min(bars, key=lambda pair: pair[1])
    if task == "tallest":
        return f"{high[1]} = {last}"
    if task == "count_above":
        above = [word for word, (_, value) in zip(words, bars, strict=True) if value > threshold]
        return f"{' , '.join(above) or 'none'} = {last}"
    if task == "sum":
        return f"{words[bar]} + {words[other]} = {last}"
    if task == "diff":
        larger, smaller = (bar, other) if bars[bar][1] >= bars[other][1] else (other, bar)
        return f"{words[larger]} - {words[smaller]} = {last}"
    if task == "range_plus":
        return f"{high[0]} {high[1]} - {low[0]} {low[1]} = {before} ; {before} + {words[bar]} = {last}"
    doubled = task == "know" and bar == other
    return f"{words[bar]} + {words[bar]} = {last}" if doubled else f"{bars[bar][0]} {last}"


def chain(
    bars: Sequence[tuple[str, int]], question: Asked, before: SupportsInt, answer: SupportsInt, listed: bool = True
) -> str:
    """A chain of thought with its answer, with or without the listing."""
    opening = f"{listing(bars)} ; " if listed else ""
    return f"{opening}{steps(bars, question, before, answer)} {MARKER} {answer_word(bars, question, answer)}"


def gold(records: Records, asked: Questions, listed: bool = True) -> tuple[list[str], list[str]]:
    """The right answers, in words, and the right chains."""
    found, bars = results(records.value, asked), [records.bars(i) for i in range(len(records))]
    answers = [answer_word(bars[i], asked.row(i), found[i, 1]) for i in range(len(bars))]
    return answers, [chain(bars[i], asked.row(i), *found[i], listed) for i in range(len(bars))]


def text_only(world: ChartWorld, count: int, seed: int, kind: str) -> list[tuple[str, str]]:
    """(prompt, answer) pairs without a picture, for the base: ``recall`` of a bar from a listing, or ``arithmetic`` with named operands.

    Raises BadInput for an unknown kind."""
    if kind not in (kinds := ("recall", "arithmetic")):
        raise BadInput(f"there is no kind of text {kind!r}; {closest(kind, kinds)}")
    found, names = [], np.array(tuple(COLOURS)[: world.cfg.colours])
    for u in np.random.default_rng([seed, 11 + kinds.index(kind)]).random((count, 2 * world.cfg.colours + 2)):
        colours = names[u[: len(names)].argsort()][: world.cfg.bars].tolist()
        values = (1 + u[len(names) : -2] * world.cfg.highest).astype(int).tolist()
        bars = list(zip(colours, values, strict=False))
        if kind == "recall":
            colour, value = bars[int(u[-1] * len(bars))]
            found.append((f"text {listing(bars)} : lookup {colour} ?", str(value)))
            continue
        (colour, v), (other, w) = sorted(bars[:2], key=lambda pair: -pair[1])
        number = int(u[-2] * world.cfg.highest)
        forms = (
            (f"{colour} {v} + {other} {w}", v + w), (f"{colour} {v} - {other} {w}", v - w), (f"{number} + {colour} {v}", number + v),
        )  # fmt: skip
        words, result = forms[int(u[-1] * len(forms))]
        found.append((f"text {words} =", str(result)))
    return found
