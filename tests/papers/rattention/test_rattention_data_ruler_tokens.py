"""The abstract generator of RULER-lite: an independent solver reads the words of a sequence and must find the same answers."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.rattention.data import ruler_tokens as ruler_tok
from orchard.papers.rattention.data.ruler_tokens import (
    OWN_TASKS,
    PAIR_TASKS,
    RULER_TASKS,
    TASKS,
    UNAVAILABLE,
    VOCAB_SIZE,
    Examples,
    generate,
    spell,
    successors,
)

CASES = [*(("words", task) for task in TASKS), *(("pair", task) for task in PAIR_TASKS)]


def make(task: str, needles: str = "words", batch: int = 5, length: int = 301, seed: int = 0) -> Examples:
    return generate(task, np.random.default_rng(seed), batch, length, needles)


def written(body: list[str], needles: str) -> list[tuple[str, str]]:
    """Every (key, value) that the body states, in its order."""
    if needles == "pair":
        return [(word[0], word[2]) for word in body if re.fullmatch(r"[A-H]=\d", word)]
    text = " ".join(body)
    return re.findall(r"\| (adj\d+ noun\d+|(?:x[0-9a-f] ?){6}(?= x)) ((?:(?:\d|x[0-9a-f]) )+)\|", text)


def solve(task: str, needles: str, words: list[str]) -> list[list[str]]:
    """Answers to the questions of a sequence, from its words alone."""
    marker = f"<{task}?>"
    assert words[0] == "<bos>"
    first = words.index(marker)
    body = words[1:first]
    tail = " ".join(words[first:])
    questions = [part.split() for part in tail.split(marker)[1:]]
    stated = [(key.strip(), value.split()) for key, value in written(body, needles)]
    if task == "cwe":
        counts = Counter(body).most_common()
        assert counts[3][1] >= 1.9 * counts[4][1]
        return [[word for word, _ in counts[:4]]]
    if task == "fwe":
        counts = Counter(word for word in body if word != "|").most_common()
        assert counts[0][1] > counts[1][1] > counts[2][1] > counts[3][1]
        return [[word for word, _ in counts[:3]]]
    if task == "vt":
        holds: dict[str, str] = {}
        for name, source in re.findall(r"\| (noun\d+) (\d \d \d|noun\d+ \| \|) \|", " ".join(body)):
            holds[name] = holds[source.split()[0]] if source.startswith("noun") else source
        assert sorted(Counter(holds.values()).values()) == [5, 5]
        return [[name for name, value in holds.items() if value == " ".join(questions[0][:3])]]
    answers = []
    for question in questions:
        if task == "niah_multiquery":
            keys = re.findall(r"adj\d+ noun\d+", " ".join(question))
            answers.append([digit for key in keys for digit in dict(stated)[key]])
        else:
            size = 1 if needles == "pair" else 6 if task == "niah_multikey_3" else 2
            key = " ".join(question[:size])
            found = [value for name, value in stated if name == key]
            if task == "niah_multivalue":
                answers.append([digit for value in found for digit in value])
            else:
                assert len(found) == 1 or task == "kv_overwrite"
                answers.append(found[-1])
    return answers


@pytest.mark.parametrize(("needles", "task"), CASES)
@pytest.mark.parametrize("length", [None, 301, 1024])
def test_a_solver_that_reads_words_finds_every_answer(needles: str, task: str, length: int | None) -> None:
    length = length or (128 if needles == "pair" else 216)
    part, names = make(task, needles, length=length), spell(needles)
    assert part.tokens.shape == (5, length + 1)
    for row, starts in zip(part.tokens, part.answers, strict=True):
        words = [names[token] for token in row]
        assert words.index(f"<{task}?>") == part.tail
        answers = [words[start : start + part.size] for start in starts]
        solved = solve(task, needles, words)
        if task in ("cwe", "fwe"):
            answers, solved = [sorted(a) for a in answers], [sorted(s) for s in solved]
        assert answers == solved
        assert starts[-1] + part.size == length + 1  # nothing after the last answer


@pytest.mark.parametrize(("needles", "task"), CASES)
def test_the_needle_lies_where_it_is_said_to_lie(needles: str, task: str) -> None:
    part, names = make(task, needles, batch=40), spell(needles)
    if task in ("cwe", "fwe"):
        assert (part.distance == -1).all()
        assert np.isnan(part.depth).all()
        return
    assert ((part.depth >= 0) & (part.depth <= 1)).all()
    for row, needle, start, distance in zip(part.tokens, part.needles, part.answers, part.distance, strict=True):
        for at, answer, far in zip(needle, start, distance, strict=True):
            assert far == answer - at
            told = " ".join(names[t] for t in row[at : at + (1 if needles == "pair" else 14)])
            value = [names[t] for t in row[answer : answer + part.size // part.items]]
            if needles == "pair":
                assert told[2] == value[0]
            elif task == "vt":
                assert told.split()[1] == value[0]
            elif task != "niah_multiquery":  # there the first needle of four need not be asked for first
                assert f" {' '.join(value)} |" in told


def test_needles_lie_at_every_depth() -> None:
    depth = make("niah_multikey_1", batch=2000, length=1024).depth
    share, _ = np.histogram(depth, bins=10, range=(0, 1))
    assert share.min() > 0.8 * share.mean()
    assert share.max() < 1.2 * share.mean()


def test_no_key_is_asked_for_twice_so_no_answer_can_be_copied_from_the_tail() -> None:
    for needles, task in (("pair", "niah_multikey_1"), ("words", "niah_multikey_2"), ("words", "kv_overwrite")):
        part, names = make(task, needles, batch=20), spell(needles)
        width = 1 if needles == "pair" else 2
        for row, starts in zip(part.tokens, part.answers, strict=True):
            keys = [tuple(names[t] for t in row[start - width : start]) for start in starts]
            assert len(set(keys)) == len(keys)


def test_overwritten_keys_have_older_values_that_differ() -> None:
    part, names = make("kv_overwrite", "pair", batch=200), spell("pair")
    stale = 0
    for row in part.tokens:
        told = written([names[t] for t in row[: part.tail]], "pair")
        assert len(told) == 12
        stale += sum(value != dict(told)[key] for key, value in told)
    assert stale / (200 * 12) > 0.4  # who returns any value but the last is often wrong


def test_haystacks_follow_their_laws() -> None:
    essay = ruler_tok.essay(np.random.default_rng(0), 50, 400) - ruler_tok._NOISE
    table = successors()
    assert all(len(set(row)) == 4 for row in table.tolist())
    assert (table[essay[:, :-1]] == essay[:, 1:, None]).any(axis=2).all()
    assert np.unique(essay).size == 64
    noise = ruler_tok.noise(3, 50)
    assert (noise[:, 20:] == noise[:, :30]).all()
    assert np.unique(noise).size == 20


@pytest.mark.parametrize("size", [6, 64, 16**6])
def test_distinct_numbers_differ_and_reach_everything(size: int) -> None:
    drawn = ruler_tok.distinct(np.random.default_rng(0), 3000, 6, size)
    assert all(len(set(row)) == 6 for row in drawn.tolist())
    assert drawn.min() >= 0
    assert drawn.max() < size
    first, _ = np.histogram(drawn[:, 0], bins=6, range=(0, size))
    assert first.min() > 0.8 * first.mean()  # the order is random too


def test_sequences_are_a_function_of_the_generator_alone() -> None:
    for needles, task in CASES:
        same, again, other = (make(task, needles, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(same.tokens, again.tokens)
        assert not np.array_equal(same.tokens, other.tokens)
        assert same.tokens.max() < VOCAB_SIZE[needles] == len(spell(needles))


def test_names_are_those_of_ruler_and_our_own_is_marked() -> None:
    assert len(RULER_TASKS) == 13
    assert not set(OWN_TASKS) & set(RULER_TASKS)
    assert set(TASKS) == set(RULER_TASKS) - set(UNAVAILABLE) | set(OWN_TASKS)


@pytest.mark.parametrize(
    ("task", "needles", "length", "message"),
    [("qa_1", "words", 128, "'qa_1' is unavailable: it asks about real text"), ("niah_single", "words", 128, "did you mean 'niah_single_"),
     ("vt", "pair", 128, "'vt' needs needles='words'"), ("fwe", "letters", 128, "needles='letters': choose one of pair, words"),
     ("niah_multikey_3", "words", 100, r"does not fit into 100 tokens: give at least 216"), ("fwe", "pair", 30, "at least 44")],
)  # fmt: skip
def test_bad_input(task: str, needles: str, length: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(task, needles, length=length)


def test_the_smallest_length_that_a_message_names_works() -> None:
    assert make("niah_multikey_3", length=216).tokens.shape == (5, 217)
