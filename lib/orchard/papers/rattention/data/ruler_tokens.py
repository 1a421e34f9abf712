"""RULER-lite in an abstract vocabulary: RULER's tasks for models that are trained from scratch.

A sequence is  BOS, a body, a tail:  the body is a haystack with needles in it, the tail asks for them,

    body:  w w w [SEP key value SEP] w w w w [SEP key value SEP] w w ...      tail:  (MARKER key value)(MARKER key value) ...

and only the answers in the tail are trained and scored. Key: 2 tokens; number: 3 digits; uuid: 6 hexadecimal digits. Haystacks
are "noise", a phrase of 20 words over and over, or "essay", a Markov chain in which every word has 4 successors. With
``needles="pair"`` a needle is one token that stands for a key with its value, keys and values are one token each: what a model of
0.2 M parameters learns in a few hundred steps. No key is asked for twice, so no answer can be copied from the tail.

Names are those of RULER (Hsieh et al. 2024, arXiv 2404.06654); ``kv_overwrite`` is ours and no RULER task: the last value written
to a key wins, which a window can answer and a sum over the past cannot. Ground truth is by construction. Everything is a function
of the generator that is passed in, and whole batches are made at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64
from numpy.random import Generator

from orchard.errors import BadInput, closest

RULER_TASKS = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3", "niah_multivalue",
    "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
)  # fmt: skip
UNAVAILABLE = ("qa_1", "qa_2")  # questions about real text have no abstract form: reported so, never averaged in
OWN_TASKS = ("kv_overwrite",)  # not RULER's
PAIR_TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1", "fwe", "cwe", "kv_overwrite")
TASKS = tuple(task for task in (*RULER_TASKS, *OWN_TASKS) if task not in UNAVAILABLE)

BOS, SEP, ANS = 0, 1, 2
NOISE_WORDS, SUCCESSORS, PHRASE = 64, 4, 20
KEYS = 8  # adjectives and nouns of an ordinary key; keys and values of a pair
WORDS = 48  # adjectives and nouns where the haystack is made of needles: 2,304 keys
ASKED = 8  # needles asked for where the haystack is made of needles


@dataclass(frozen=True)
class Code:
    """Numbers written as tokens, most significant digit first: digit j has the token ``offsets[j] + digit``."""

    offsets: tuple[int, ...]
    base: int

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int(self.base ** len(self.offsets))

    def encode(self, numbers: Int64[np.ndarray, "*rows"]) -> Int64[np.ndarray, "*rows digits"]:
        """Tokens of numbers."""
        powers = self.base ** np.arange(len(self.offsets) - 1, -1, -1)
        return numbers[..., None] // powers % self.base + np.array(self.offsets)


MARKERS = {task: 3 + i for i, task in enumerate(TASKS)}
_NOISE = 3 + len(TASKS)
_PAIR_KEY = _NOISE + NOISE_WORDS
_PAIR_VALUE = _PAIR_KEY + KEYS
_PAIR = _PAIR_VALUE + KEYS
_DIGIT = _PAIR_KEY
_HEX = _DIGIT + 10
_ADJECTIVE = _HEX + 16
_NOUN = _ADJECTIVE + WORDS

VOCAB_SIZE = {"pair": _PAIR + KEYS * KEYS, "words": _NOUN + WORDS}  # by kind of needle
NUMBER, UUID = Code((_DIGIT,) * 3, 10), Code((_HEX,) * 6, 16)
KEY, MANY_KEYS = Code((_ADJECTIVE, _NOUN), KEYS), Code((_ADJECTIVE, _NOUN), WORDS)
PAIR_KEY, PAIR_VALUE = Code((_PAIR_KEY,), KEYS), Code((_PAIR_VALUE,), KEYS)
NAME = Code((_NOUN,), WORDS)  # a variable of vt


@dataclass(frozen=True)
class Examples:
    """Sequences of one task. A model reads ``tokens[:, :-1]``; the token after position p is predicted at p.

    An answer is ``items`` parts of ``size / items`` tokens; their order does not matter to the score.
    """

    task: str
    tokens: Int64[np.ndarray, "batch length_and_one"]
    answers: Int64[np.ndarray, "batch queries"]  # index of the first token of each answer
    size: int  # tokens in an answer
    items: int
    needles: Int64[np.ndarray, "batch queries"]  # index of the (first) needle that is asked for; -1: the whole body is
    tail: int  # index of the first token of the tail

    @property
    def distance(self) -> Int64[np.ndarray, "batch queries"]:
        """Tokens from the needle to the answer; -1 where the whole body is asked for."""
        return np.where(self.needles < 0, -1, self.answers - self.needles)

    @property
    def depth(self) -> np.ndarray:
        """Place of the needle in the body, [batch, queries] in 0 … 1; NaN where the whole body is asked for."""
        return np.where(self.needles < 0, np.nan, (self.needles - 1) / max(1, self.tail - 1))


def generate(task: str, random: Generator, batch: int, length: int, needles: str = "words") -> Examples:
    """``batch`` sequences of ``length`` + 1 tokens. BadInput: an unknown task or kind of needle, or too short a length."""
    if needles not in VOCAB_SIZE:
        raise BadInput(f"RULER-lite has no needles={needles!r}: choose one of {', '.join(VOCAB_SIZE)}")
    if task in UNAVAILABLE:
        raise BadInput(f"RULER-lite task {task!r} is unavailable: it asks about real text; score it with ruler_text")
    if task not in TASKS:
        raise BadInput(f"RULER-lite has no task {task!r}: {closest(task, TASKS)}")
    if needles == "pair" and task not in PAIR_TASKS:
        raise BadInput(f"task {task!r} needs needles='words'; with needles='pair' there are {', '.join(PAIR_TASKS)}")
    return _MAKERS[task](_Request(task, random, batch, length, needles))


@dataclass(frozen=True)
class _Request:
    task: str
    random: Generator
    batch: int
    length: int
    needles: str

    @property
    def marker(self) -> Int64[np.ndarray, "batch 1 1"]:
        return np.full((self.batch, 1, 1), MARKERS[self.task])

    def body(self, taken: int, least: int = 1) -> int:
        """Tokens that are left for the haystack when ``taken`` are not its own."""
        left = self.length + 1 - 1 - taken
        if left < least:
            raise BadInput(
                f"task {self.task!r} does not fit into {self.length} tokens: give at least {self.length + least - left}"
            )
        return left


@lru_cache(maxsize=1)
def successors() -> Int64[np.ndarray, "words successors"]:
    """The words that may follow each word of an essay: a fixed part of the task, the same in training and test."""
    random = np.random.default_rng(20250618)
    return np.stack([random.permutation(NOISE_WORDS)[:SUCCESSORS] for _ in range(NOISE_WORDS)])


def essay(random: Generator, batch: int, length: int) -> Int64[np.ndarray, "batch length"]:
    """Word tokens of a Markov chain of order 1 that starts anywhere."""
    table = successors()
    choice = random.integers(SUCCESSORS, size=(length, batch))
    words = np.empty((length, batch), dtype=np.int64)
    words[0] = random.integers(NOISE_WORDS, size=batch)
    for t in range(1, length):
        words[t] = table[words[t - 1], choice[t]]
    return words.T + _NOISE


def noise(batch: int, length: int) -> Int64[np.ndarray, "batch length"]:
    """One phrase of 20 word tokens, over and over."""
    return np.broadcast_to(np.arange(length) % PHRASE + _NOISE, (batch, length))


def distinct(random: Generator, batch: int, count: int, size: int) -> Int64[np.ndarray, "batch count"]:
    """``count`` different numbers below ``size`` in every row, in random order."""
    if size <= 4096:
        return random.random((batch, size)).argsort(axis=1)[:, :count].astype(np.int64)
    bins = np.linspace(0, size, count + 1).astype(np.int64)  # one number from each of `count` equal bins
    drawn = random.integers(bins[:-1], bins[1:], size=(batch, count))
    return np.take_along_axis(drawn, random.random((batch, count)).argsort(axis=1), axis=1)


def _insert(
    random: Generator, haystack: Int64[np.ndarray, "batch words"], needles: Int64[np.ndarray, "batch count size"]
) -> tuple[Int64[np.ndarray, "batch body"], Int64[np.ndarray, "batch count"]]:
    """Put needles, in their order, at uniform places between the words; the body and where each needle begins in it."""
    (batch, words), (_, count, size) = haystack.shape, needles.shape
    cuts = np.sort(random.integers(words + 1, size=(batch, count)), axis=1)
    starts = cuts + size * np.arange(count)
    body = np.empty((batch, words + count * size), dtype=np.int64)
    inside = np.zeros(body.shape, dtype=bool)
    rows = np.arange(batch)[:, None, None]
    at = starts[:, :, None] + np.arange(size)
    body[rows, at], inside[rows, at] = needles, True
    body[~inside] = haystack.ravel()
    return body, starts


def _assemble(
    request: _Request, body: np.ndarray, queries: Int64[np.ndarray, "batch queries query_and_answer"], size: int, items: int,
    needles: Int64[np.ndarray, "batch queries"],
) -> Examples:  # fmt: skip
    """BOS, body, queries; ``needles`` are indices in the body, or -1."""
    batch, count, width = queries.shape
    tail = 1 + body.shape[1]
    tokens = np.concatenate([np.full((batch, 1), BOS), body, queries.reshape(batch, -1)], axis=1)
    answers = np.broadcast_to(tail + width * np.arange(1, count + 1) - size, (batch, count)).copy()
    return Examples(request.task, tokens, answers, size, items, np.where(needles < 0, -1, needles + 1), tail)


def _codes(request: _Request, value: Code = NUMBER, key: Code = KEY) -> tuple[Code, Code]:
    return (PAIR_KEY, PAIR_VALUE) if request.needles == "pair" else (key, value)


def _needle(request: _Request, key: Code, keys: np.ndarray, value: Code, values: np.ndarray) -> np.ndarray:
    """[batch, count] keys and values -> [batch, count, size] tokens: one pair token, or SEP key value SEP."""
    if request.needles == "pair":
        return (_PAIR + keys * KEYS + values)[..., None]
    separator = np.full((*keys.shape, 1), SEP)
    return np.concatenate([separator, key.encode(keys), value.encode(values), separator], axis=2)


def _query(request: _Request, key: Code, keys: np.ndarray, value: Code, values: np.ndarray) -> np.ndarray:
    """MARKER key value, for each key: [batch, queries, 1 + key + value]."""
    marker = np.broadcast_to(request.marker, (*keys.shape, 1))
    return np.concatenate([marker, key.encode(keys), value.encode(values)], axis=2)


def _take(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(array, order, axis=1)


def _hide(
    request: _Request, haystack: str, hidden: np.ndarray, queries: np.ndarray, size: int, items: int, asked: np.ndarray
) -> Examples:
    """Needles in a haystack of words; ``asked`` [batch, queries] says which needle each query is about."""
    length = request.body(hidden[0].size + queries[0].size)
    words = noise(request.batch, length) if haystack == "noise" else essay(request.random, request.batch, length)
    body, starts = _insert(request.random, words, hidden)
    return _assemble(request, body, queries, size, items, _take(starts, asked))


def _retrieve(haystack: str, words: int, value: Code = NUMBER, pairs: int = 1) -> Callable[[_Request], Examples]:
    """niah_single, niah_multikey_1: ``words`` needles (``pairs`` if they are pairs) in a haystack, all asked for, in random order."""

    def make(request: _Request) -> Examples:
        random, count = request.random, pairs if request.needles == "pair" else words
        key, code = _codes(request, value)
        keys = distinct(random, request.batch, count, key.size)
        values = random.integers(code.size, size=keys.shape)
        hidden = _needle(request, key, keys, code, values)
        order = distinct(random, request.batch, count, count)
        queries = _query(request, key, _take(keys, order), code, _take(values, order))
        return _hide(request, haystack, hidden, queries, len(code.offsets), 1, order)

    return make


def _needles_only(key: Code, value: Code) -> Callable[[_Request], Examples]:
    """niah_multikey_2 and _3: the haystack is made of needles, ``ASKED`` of them are asked for."""

    def make(request: _Request) -> Examples:
        random = request.random
        size, width = 2 + len(key.offsets) + len(value.offsets), 1 + len(key.offsets) + len(value.offsets)
        left = request.body(ASKED * width, least=ASKED * size)
        count = min(left // size, key.size)
        keys = distinct(random, request.batch, count, key.size)
        values = random.integers(value.size, size=keys.shape)
        hidden = _needle(request, key, keys, value, values)
        rest = essay(random, request.batch, max(1, left - count * size))[:, : left - count * size]
        body, starts = _insert(random, rest, hidden)
        order = distinct(random, request.batch, count, count)[:, :ASKED]
        queries = _query(request, key, _take(keys, order), value, _take(values, order))
        return _assemble(request, body, queries, len(value.offsets), 1, _take(starts, order))

    return make


def _multivalue(request: _Request, count: int = 4) -> Examples:
    """Several values for one key; all are asked for at once."""
    random = request.random
    keys = np.repeat(random.integers(KEY.size, size=(request.batch, 1)), count, axis=1)
    values = distinct(random, request.batch, count, NUMBER.size)
    hidden = _needle(request, KEY, keys, NUMBER, values)
    answer = NUMBER.encode(values).reshape(request.batch, 1, -1)
    query = np.concatenate([request.marker, KEY.encode(keys[:, :1]), answer], axis=2)
    return _hide(request, "essay", hidden, query, answer.shape[2], count, np.zeros_like(keys[:, :1]))


def _multiquery(request: _Request, count: int = 4) -> Examples:
    """Several keys in one question, their values in one answer."""
    random = request.random
    keys = distinct(random, request.batch, count, KEY.size)
    values = distinct(random, request.batch, count, NUMBER.size)
    hidden = _needle(request, KEY, keys, NUMBER, values)
    order = distinct(random, request.batch, count, count)
    asked = KEY.encode(_take(keys, order)).reshape(request.batch, 1, -1)
    answer = NUMBER.encode(_take(values, order)).reshape(request.batch, 1, -1)
    query = np.concatenate([request.marker, asked, np.full((request.batch, 1, 1), ANS), answer], axis=2)
    return _hide(request, "essay", hidden, query, answer.shape[2], count, np.zeros_like(keys[:, :1]))


def _variable_tracking(request: _Request, hops: int = 4) -> Examples:
    """vt: a number is given to a variable and handed on ``hops`` times, beside a second such chain; asked for are all names that hold it.

    An assignment is SEP name source SEP, the source a number or an earlier name; assignments are as long as the first.
    """
    random, batch, count = request.random, request.batch, hops + 1
    names = NAME.encode(distinct(random, batch, 2 * count, NAME.size))[..., 0].reshape(batch, 2, count)
    numbers = NUMBER.encode(distinct(random, batch, 2, NUMBER.size))
    sources = np.full((batch, 2, count, 3), SEP)
    sources[:, :, 0] = numbers
    sources[:, :, 1:, 0] = names[:, :, :-1]
    separator = np.full((batch, 2, count, 1), SEP)
    chains = np.concatenate([separator, names[..., None], sources, separator], axis=3)
    # Interleaved at random, each chain in its own order: the slots of the first chain are a random half, sorted.
    slots = np.sort(distinct(random, batch, count, 2 * count), axis=1)
    first = np.zeros((batch, 2 * count), dtype=bool)
    np.put_along_axis(first, slots, True, axis=1)
    hidden = np.empty((batch, 2 * count, chains.shape[3]), dtype=np.int64)
    hidden[first], hidden[~first] = chains[:, 0].reshape(-1, chains.shape[3]), chains[:, 1].reshape(-1, chains.shape[3])
    query = np.concatenate([request.marker, numbers[:, :1], names[:, :1]], axis=2)
    return _hide(request, "noise", hidden, query, count, count, slots[:, :1])


def _common_words(request: _Request, common: int = 4, ratio: int = 6) -> Examples:
    """cwe: a list in which ``common`` words occur ``ratio`` times as often as the others, at every length."""
    random, batch = request.random, request.batch
    left = request.body(1 + common, least=common * ratio + 1)
    others = min(NOISE_WORDS - common, left - common * ratio)
    repeats, rest = divmod(left, common * ratio + others)
    counts = np.concatenate([np.full(common, ratio * repeats), np.full(others, repeats)])
    counts[common:] += rest // others
    counts[common : common + rest % others] += 1
    words = distinct(random, batch, common + others, NOISE_WORDS)
    listed = np.repeat(words, counts, axis=1)
    body = _take(listed, random.random(listed.shape).argsort(axis=1)) + _NOISE
    query = np.concatenate([request.marker, words[:, None, :common] + _NOISE], axis=2)
    return _assemble(request, body, query, common, common, np.full((batch, 1), -1))


def _frequent_words(request: _Request, top: int = 3, alpha: float = 2.0) -> Examples:
    """fwe: words with zeta-distributed counts, n r^-alpha / zeta(alpha); rank 1 is filler (SEP), the next ``top`` are asked for."""
    random, batch = request.random, request.batch
    left = request.body(1 + top, least=40)
    ranks = np.arange(1, NOISE_WORDS + 2)
    counts = (left * ranks**-alpha / np.sum(np.arange(1, 100_000, dtype=float) ** -alpha)).astype(np.int64)[1:]
    words = distinct(random, batch, NOISE_WORDS, NOISE_WORDS)
    listed = np.repeat(words, counts, axis=1) + _NOISE
    listed = np.concatenate([listed, np.full((batch, left - listed.shape[1]), SEP)], axis=1)
    body = _take(listed, random.random(listed.shape).argsort(axis=1))
    query = np.concatenate([request.marker, words[:, None, :top] + _NOISE], axis=2)
    return _assemble(request, body, query, top, top, np.full((batch, 1), -1))


def _overwrite(request: _Request, keys: int = 4, writes: int = 12) -> Examples:
    """kv_overwrite (ours): ``writes`` to ``keys`` keys, each written at least once; the last value written counts."""
    random, batch = request.random, request.batch
    key, value = _codes(request)
    used = distinct(random, batch, keys, key.size)
    which = np.concatenate(
        [np.broadcast_to(np.arange(keys), (batch, keys)), random.integers(keys, size=(batch, writes - keys))], axis=1
    )
    which = _take(which, random.random(which.shape).argsort(axis=1))
    values = random.integers(value.size, size=(batch, writes))
    hidden = _needle(request, key, _take(used, which), value, values)
    order = distinct(random, batch, keys, keys)
    last = writes - 1 - (which[:, None, ::-1] == order[:, :, None]).argmax(axis=2)
    queries = _query(request, key, _take(used, order), value, _take(values, last))
    return _hide(request, "essay", hidden, queries, len(value.offsets), 1, last)


_MAKERS: dict[str, Callable[[_Request], Examples]] = {
    "niah_single_1": _retrieve("noise", 1),
    "niah_single_2": _retrieve("essay", 1),
    "niah_single_3": _retrieve("essay", 1, UUID),
    "niah_multikey_1": _retrieve("essay", 4, pairs=6),
    "niah_multikey_2": _needles_only(MANY_KEYS, NUMBER),
    "niah_multikey_3": _needles_only(UUID, UUID),
    "niah_multivalue": _multivalue,
    "niah_multiquery": _multiquery,
    "vt": _variable_tracking,
    "cwe": _common_words,
    "fwe": _frequent_words,
    "kv_overwrite": _overwrite,
}


def spell(needles: str) -> list[str]:
    """What each token is called, for people."""
    names = ["<bos>", "|", "<ans>", *(f"<{task}?>" for task in TASKS), *(f"w{i}" for i in range(NOISE_WORDS))]
    if needles == "pair":
        letters = "ABCDEFGH"
        names += [*letters, *(str(v) for v in range(KEYS)), *(f"{k}={v}" for k in letters for v in range(KEYS))]
    else:
        names += [*"0123456789", *(f"x{h:x}" for h in range(16)), *(f"adj{i}" for i in range(WORDS))]
        names += [f"noun{i}" for i in range(WORDS)]
    return names
