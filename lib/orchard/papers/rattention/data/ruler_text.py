"""RULER-lite as text, for any language model: rows in RULER's row format, and RULER's metrics on what a model answered.

    rows = make_rows("niah_multikey_1", count=500, max_length=4096, tokens=lambda text: len(tokenizer.encode(text)))
    write_rows(rows, "niah_multikey_1.jsonl")         # {"index", "input", "outputs", "length", "answer_prefix"} a line
    ...                                               # a model continues input + answer_prefix; its text goes into "pred"
    score_file("niah_multikey_1.jsonl", "niah_multikey_1")     # percent

Task names, metrics, sample counts and tokens to generate are those of RULER (Hsieh et al. 2024, arXiv 2404.06654); the wording is
ours, keys are invented words, and the essay is made of docstrings. Scores are therefore RULER-like and not RULER's. Every row is grown
to the longest context that fits; a needle of an essay lies at one of 40 evenly spaced depths, any other at a uniform place.
``qa_1`` and ``qa_2`` need a local file, in SQuAD's or HotpotQA's format: without it they are unavailable, which is an error here.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import string
import sys
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from orchard.data import EmbeddedText, Source
from orchard.data.docstrings import documented, parsed
from orchard.data.reading import read_rows
from orchard.errors import BadInput, closest
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS

Row = dict[str, Any]
SAMPLES = 500  # rows per task and length
DEPTHS = 40
TOKENS_TO_GENERATE = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}  # by the task's name up to its first _
NOISE = "The field is wide and quiet. The rain is soft. The road goes on. Nothing happens here. We walk there and back."
ESSAYS = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
SHORT = 4096  # tokens: below, cwe has fewer repetitions


def tokens_to_generate(task: str) -> int:
    """How many new tokens RULER allows for an answer. BadInput: an unknown task."""
    _check(task)
    return TOKENS_TO_GENERATE[task.split("_")[0]]


def _check(task: str) -> None:
    if task not in RULER_TASKS:
        raise BadInput(f"RULER has no task {task!r}: {closest(task, RULER_TASKS)}")


def essay_sentences(source: Source) -> tuple[str, ...]:
    """Different sentences of the docstrings in the training split of a source of Python text, in the order of the text."""
    found: dict[str, None] = {}
    for document in source.documents("train"):
        tree = parsed(document.text)
        for _, docstring in documented(tree) if tree else ():
            text = " ".join(docstring.split())
            found.update(dict.fromkeys(re.findall(r"\b[A-Z][^.!?]{20,200}[.!?](?= |$)", text)))
    return tuple(found)


@cache
def _embedded_essay() -> tuple[str, ...]:
    return essay_sentences(EmbeddedText.Config(max_bytes=2_000_000).build())


def _word(rng: random.Random, syllables: int = 3) -> str:
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables))


def _different(make: Callable[[], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


@dataclass(frozen=True)
class Material:
    """What texts are made of: sentences for an essay, and (question, answers, gold paragraphs) with all paragraphs for qa."""

    sentences: Sequence[str]
    questions: Sequence[tuple[str, list[str], list[str]]] = ()
    paragraphs: Sequence[str] = ()
    short: bool = True


Prompt = tuple[str, str, list[str]]  # input, answer_prefix, outputs
Maker = Callable[
    [random.Random, int, int, Material], Prompt
]  # generator, index of the row, size of the context, material


def _needle(kind: str, key: str, value: str) -> str:
    return f"Remember this {kind}: {key} stands for {value}."


def _values(rng: random.Random, kind: str, count: int) -> list[str]:
    if kind == "number":
        return _different(lambda: str(rng.randint(1_000_000, 9_999_999)), count)
    return _different(lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)), count)


def _niah(
    haystack: str, keys: str = "word", kind: str = "number", needles: int = 1, values: int = 1, asked: int = 1
) -> Maker:
    """Needles in a haystack: "noise", "essay", or "needles" (nothing but other needles)."""

    def make(rng: random.Random, index: int, size: int, material: Material) -> Prompt:
        distractors = size if haystack == "needles" else 0
        count = needles + distractors
        names = (
            _different(lambda: f"{_word(rng)}-{_word(rng)}", count) if keys == "word" else _values(rng, "uuid", count)
        )
        drawn = _values(rng, kind, count - 1 + values)
        held = {name: [drawn[i]] for i, name in enumerate(names)}
        held[names[0]] += drawn[count:]  # niah_multivalue: further values of the first key
        told = [_needle(kind, name, value) for name, values in held.items() for value in values]
        if haystack == "essay":
            start = rng.randrange(len(material.sentences))
            text = [material.sentences[(start + i) % len(material.sentences)] for i in range(size)]
            depths = rng.sample(range(DEPTHS), len(told))
            places = [round(depth / (DEPTHS - 1) * len(text)) for depth in depths]
        elif haystack == "noise":
            text = [NOISE] * size
            places = [rng.randint(0, size) for _ in told]
        else:
            text, places = [], [0] * len(told)
            rng.shuffle(told)
        for place, needle in sorted(zip(places, told, strict=True), reverse=True):
            text.insert(place, needle)
        questions = names[:asked]
        rng.shuffle(questions)
        listed = ", ".join(questions)
        outputs = [value for name in questions for value in held[name]]
        return (
            f"A text follows in which some keys stand for a {kind}. Keep them in mind; you will be asked about them.\n"
            + (" " if haystack == "essay" else "\n").join(text)
            + f"\nWhat does the text say that these keys stand for: {listed}?",
            f" The text says, for {listed}:",
            outputs,
        )

    return make


def _vt(rng: random.Random, index: int, size: int, material: Material, hops: int = 4) -> Prompt:
    names = _different(lambda: "".join(rng.choices(string.ascii_uppercase, k=5)), hops + 1)
    value = str(rng.randint(10_000, 99_999))
    chain = [f"VAR {names[0]} = {value}", *(f"VAR {b} = VAR {a}" for a, b in itertools.pairwise(names))]
    text = [NOISE] * size
    places = sorted(rng.randint(0, size) for _ in chain)
    for place, line in reversed(list(zip(places, chain, strict=True))):
        text.insert(place, line)
    return (
        "A text follows in which variables are set, to a number or to other variables. Follow them.\n" + "\n".join(text)
        + f"\nName every variable that holds the value {value}.",
        f" These {hops + 1} variables hold the value {value}:",
        names,
    )  # fmt: skip


def _cwe(rng: random.Random, index: int, size: int, material: Material, common: int = 10) -> Prompt:
    many, few = (6, 1) if material.short else (30, 3)

    def listing(others: int, often: int, seldom: int) -> tuple[str, list[str]]:
        words = _different(lambda: _word(rng), common + others)
        drawn = words[:common] * often + words[common:] * seldom
        rng.shuffle(drawn)
        return " ".join(f"{i}. {word}" for i, word in enumerate(drawn, 1)), words[:common]

    ask = f"Which {common} words are the most frequent in the list above?"
    prefix = f" The {common} most frequent words are:"
    shown, its_answer = listing(20, 3, 1)
    asked, answer = listing(size, many, few)
    numbered = " ".join(f"{i}. {word}" for i, word in enumerate(its_answer, 1))
    head = "Here is a numbered list of words in which some occur more often than others. Remember the frequent ones.\n"
    return f"{head}{shown}\n{ask}{prefix} {numbered}\n{head}{asked}\n{ask}", prefix, answer


def _fwe(rng: random.Random, index: int, size: int, material: Material) -> Prompt:
    ranks = range(1, math.isqrt(int(size * 6 / math.pi**2)) + 1)  # zeta(2) = pi^2 / 6; rarer words do not occur
    words = ["...", *_different(lambda: "".join(rng.choices(string.ascii_lowercase, k=6)), len(ranks))]
    drawn = [
        word for rank, word in zip(ranks, words, strict=False) for _ in range(int(size * 6 / (math.pi * rank) ** 2))
    ]
    rng.shuffle(drawn)
    return (
        "Here is a coded text. Keep track of how often each word occurs; the dots mean nothing.\n" + " ".join(drawn)
        + "\nLeave out the dots: which three coded words occur most often?",
        " The three coded words that occur most often are:",
        words[1:4],
    )  # fmt: skip


def _qa(rng: random.Random, index: int, size: int, material: Material) -> Prompt:
    question, answers, gold = material.questions[index % len(material.questions)]
    others = [text for text in material.paragraphs if text not in gold]
    shown = [*gold, *rng.sample(others, min(size, len(others)))]
    rng.shuffle(shown)
    documents = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(shown, 1))
    return (
        f"Answer the question from the documents below. Give the answer alone.\n\n{documents}\n\nQuestion: {question}",
        " Answer:",
        answers,
    )


_MAKERS: dict[str, tuple[Maker, int]] = {  # with the smallest size of the context
    "niah_single_1": (_niah("noise"), 1),
    "niah_single_2": (_niah("essay"), 1),
    "niah_single_3": (_niah("essay", kind="uuid"), 1),
    "niah_multikey_1": (_niah("essay", needles=4), 1),
    "niah_multikey_2": (_niah("needles"), 1),
    "niah_multikey_3": (_niah("needles", keys="uuid", kind="uuid"), 1),
    "niah_multivalue": (_niah("essay", values=4), 1),
    "niah_multiquery": (_niah("essay", needles=4, asked=4), 1),
    "vt": (_vt, 1),
    "cwe": (_cwe, 10),
    "fwe": (_fwe, 100),
    "qa_1": (_qa, 0),
    "qa_2": (_qa, 0),
}


def make_rows(
    task: str, *, count: int = SAMPLES, max_length: int, tokens: Callable[[str], int], seed: int = 0,
    essay: Sequence[str] | None = None, qa_file: str | Path | None = None,
) -> list[Row]:  # fmt: skip
    """``count`` rows of a task, each grown to the longest context with which prompt and answer fit into ``max_length`` tokens.

    Args:
        tokens: how many tokens the model's tokenizer makes of a text.
        essay: sentences of the essay; None is those of the embedded corpus (see :func:`essay_sentences`).
        qa_file: questions for qa_1 (SQuAD's JSON) or qa_2 (HotpotQA's JSON).

    Raises:
        BadInput: an unknown task, qa without its file, or ``max_length`` below the smallest example.
    """
    _check(task)
    if task.startswith("qa") and qa_file is None:
        raise BadInput(f"task {task!r} is unavailable: it needs real questions; give qa_file={QA_FILES[task]}")
    questions, paragraphs = read_questions(task, qa_file) if qa_file is not None else ([], [])
    sentences = () if task not in ESSAYS else _embedded_essay() if essay is None else essay
    material = Material(sentences, questions, paragraphs, max_length < SHORT)
    answer = tokens_to_generate(task)
    rows, size = [], _MAKERS[task][1]
    for index in range(count):
        prompt, used, size = _grown(task, f"{seed} {task} {index}", index, size, max_length - answer, tokens, material)
        text, prefix, outputs = prompt
        rows.append(
            {"index": index, "input": text, "outputs": outputs, "length": used + answer, "answer_prefix": prefix}
        )
    return rows


def _grown(
    task: str, key: str, index: int, guess: int, room: int, tokens: Callable[[str], int], material: Material
) -> tuple[Prompt, int, int]:
    """The largest example of at most ``room`` tokens, its tokens and its size, always from the same random key.

    Sizes are tried in growing steps from ``guess`` (the size of the row before) up or down, then by bisection.
    """
    make, smallest = _MAKERS[task]
    most = len(material.paragraphs) if task.startswith("qa") else sys.maxsize  # there are no more documents than that

    @cache
    def sized(size: int) -> tuple[Prompt, int, int]:
        prompt = make(random.Random(key), index, size, material)
        return prompt, tokens(prompt[0] + prompt[1]), size

    def too_long(size: int) -> bool:
        return sized(size)[1] > room

    low = high = min(guess, most)
    step = 1
    while high <= most and not too_long(high):
        low, high, step = high, high + step, 2 * step
    while too_long(low):
        if low == smallest:
            answer = tokens_to_generate(task)
            raise BadInput(
                f"task {task!r}: the smallest example has {sized(low)[1]} tokens and its answer {answer}, more than "
                f"max_length = {room + answer}; give a larger one"
            )
        low, high, step = max(smallest, low - step), low, 2 * step
    fitting = bisect_left(range(low, min(high, most + 1)), True, key=too_long)
    return sized(low + fitting - 1)


QA_FILES = {"qa_1": "the path of a SQuAD JSON file", "qa_2": "the path of a HotpotQA JSON file"}


def read_questions(task: str, file: str | Path) -> tuple[list[tuple[str, list[str], list[str]]], list[str]]:
    """Questions with answers and gold paragraphs, and all paragraphs, of a SQuAD (qa_1) or HotpotQA (qa_2) file. Raises BadInput."""
    try:
        content = json.loads(Path(file).read_text("utf-8"))
        if task == "qa_1":
            cells = [cell for article in content["data"] for cell in article["paragraphs"]]
            asked = [(q["question"], [a["text"] for a in q["answers"]], [cell["context"]])
                     for cell in cells for q in cell["qas"] if q["answers"]]  # fmt: skip
            everything = [cell["context"] for cell in cells]
        else:
            texts = [{title: f"{title}\n{''.join(lines)}" for title, lines in item["context"]} for item in content]
            asked = [(item["question"], [item["answer"]], [text[title] for title in dict.fromkeys(t for t, _ in item["supporting_facts"])
                      if title in text]) for item, text in zip(content, texts, strict=True)]  # fmt: skip
            everything = [text for item in texts for text in item.values()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{file} cannot be read for {task} ({type(error).__name__}: {error}); give {QA_FILES[task]}"
        ) from None
    if not asked:
        raise BadInput(f"{file} holds no question with an answer; give {QA_FILES[task]}")
    return asked, list(dict.fromkeys(everything))


def write_rows(rows: Iterable[Row], file: str | Path) -> Path:
    """Write rows as JSON lines."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def string_match_all(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Percent of the reference strings that occur in their prediction (any case), as a mean over predictions. RULER's metric but for qa."""
    return 100 * fmean(map(fmean, _hits(predictions, references)))


def string_match_part(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Percent of the predictions in which any of the reference strings occurs (any case). RULER's metric for qa."""
    return 100 * fmean(map(any, _hits(predictions, references)))


def _hits(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Whether each reference is in its prediction. Raises BadInput."""
    if not predictions or len(predictions) != len(references) or not all(references):
        raise BadInput(
            f"{len(predictions)} predictions for {len(references)} lists of references: give as many, and no empty list"
        )
    return [[r.lower() in p.lower() for r in refs] for p, refs in zip(predictions, references, strict=True)]


def score_file(file: str | Path, task: str) -> float:
    """Percent that a task's metric gives to a file of rows with ``pred``, the model's continuation. Raises BadInput."""
    _check(task)
    predictions, references = [], []
    for _, place, row in read_rows(Path(file)):
        if not isinstance(row.get("pred"), str) or not row.get("outputs"):
            raise BadInput(f"{place} needs 'pred' (the model's text) and 'outputs'; this row has {sorted(row)}")
        predictions.append(row["pred"])
        references.append(row["outputs"])
    metric = string_match_part if task.startswith("qa") else string_match_all
    return metric(predictions, references)
