"""The exact laws of the worlds: what a document is, and every probability of it.

    c ~ P(c)      the concept          w_i ~ Phi[c]   the words of a document, independent given its concept
    g ~ U(G)      the genre            f_j ~ Pf[g]    function tokens

    words   body = GENRE_g  w w w w f  w w w w f ...                      a function token after every fourth word
    facts   body = GENRE_g  TEMPLATE(g, r, t) f VALUE(r, v) ...           t ~ Pt[g, r]; a "word" is a relation with its value

    log P(d)       = log P(common) + logsumexp_c (log P(c) + sum_i log Phi[c, w_i])
    P(c | d)      ∝ P(c) prod_i Phi[c, w_i]
    log P(d2 | d1) = the same with P(c | d1) in place of P(c), for documents that share a concept
    I(d1; d2)      = E[log P(d2 | d1) - log P(d2)] <= H(c)

Everything is in nats and float64: sums of twenty logarithms over thousands of concepts do not fit in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Integer

from orchard.papers.sbp.method.documents import Documents, Symbols

EVERY = 4  # words between two function tokens
STATEMENT = 3  # tokens of a fact: template, connective, value
SPECIAL = 4  # bos eos sep pad
AT_ONCE = 4096  # documents whose probabilities under every concept are in memory at once


@dataclass(frozen=True)
class Parsed:
    """Documents that the grammar can make: their rows, the log probability of all but the words, and the words."""

    rows: Int[np.ndarray, "parsed"]
    common: Float64[np.ndarray, "parsed"]
    words: Int[np.ndarray, "parsed content"]


@dataclass(frozen=True)
class World:
    """The laws: ``prior`` [concepts], ``words`` [concepts, words] = Phi, ``functions`` [genres, functions] = Pf."""

    prior: Float64[np.ndarray, "concepts"]
    words: Float64[np.ndarray, "concepts words"]
    functions: Float64[np.ndarray, "genres functions"]
    content: int  # words in a document

    @property
    def length(self) -> int:
        """Tokens of a body."""
        return 1 + self.content + self.content // EVERY

    @property
    def word_places(self) -> Int[np.ndarray, "content"]:
        """Where the words stand in a body."""
        return 1 + np.flatnonzero(np.arange(self.length - 1) % (EVERY + 1) != EVERY)

    @property
    def function_places(self) -> Int[np.ndarray, "_"]:
        """Where the function tokens stand in a body."""
        return 1 + np.flatnonzero(np.arange(self.length - 1) % (EVERY + 1) == EVERY)

    @property
    def kinds(self) -> Int[np.ndarray, "words"]:
        """Words of one kind can stand in for one another: all of them, or the values of one relation."""
        return np.zeros(self.words.shape[1], dtype=np.int64)

    @property
    def starts(self) -> tuple[int, int, int]:
        """The ids of the first genre, the first function token of the first genre, and the first word."""
        genres, functions = self.functions.shape
        return SPECIAL, SPECIAL + genres, SPECIAL + genres + genres * functions

    @property
    def symbols(self) -> Symbols:
        """Ids: special tokens, genres, function tokens of genre 0, 1, ..., words."""
        return Symbols(self.starts[2] + self.words.shape[1], bos=0, eos=1, sep=2, pad=3)

    def name(self, token: int) -> str:
        """A token for people to read."""
        genre_start, function_start, word_start = self.starts
        if token < genre_start:
            return ("bos", "eos", "sep", "pad")[token]
        if token < function_start:
            return f"[genre {token - genre_start}]"
        if token < word_start:
            genre, number = divmod(token - function_start, self.functions.shape[1])
            return f"{ascii_lowercase[number % 26]}{genre}"
        return f"w{token - word_start}"

    # --------------------------------------------------------------- sampling

    def sample(
        self, concepts: Int[np.ndarray, "documents"], random: np.random.Generator
    ) -> Integer[np.ndarray, "documents length"]:
        """One body for each given concept."""
        return self._written(concepts, self._word_law.draw(concepts, self.content, random), random)

    def draw_concepts(self, count: int, random: np.random.Generator) -> Int[np.ndarray, "count"]:
        """Concepts from the prior."""
        return random.choice(len(self.prior), size=count, p=self.prior)

    def redraw(
        self, body: Integer[np.ndarray, "length"], concept: int, count: int, random: np.random.Generator
    ) -> Integer[np.ndarray, "length"]:
        """A copy in which one to ``count`` words are drawn anew from the law of the concept: by itself it has the law of a document. Now
        and then a word comes out as it was."""
        edited = body.copy()
        places = self.word_places[random.permuted(np.arange(self.content)[None], axis=1)[0, :count]]
        new = self.starts[2] + self._word_law.draw(np.array([concept]), count, random)[0]
        change = int(random.integers(1, count + 1, size=1)[0])
        edited[places[:change]] = new[:change]
        return edited

    def _written(
        self, concepts: Int[np.ndarray, "documents"], words: Int[np.ndarray, "_ _"], random: np.random.Generator
    ) -> Integer[np.ndarray, "documents length"]:
        """The bodies that hold these words."""
        genre_start, function_start, word_start = self.starts
        genres, functions = self.functions.shape
        genre = random.integers(genres, size=len(concepts))
        bodies = np.empty((len(concepts), self.length), dtype=np.int32)
        bodies[:, 0] = genre_start + genre
        bodies[:, self.word_places] = word_start + words
        spoken = self._function_law.draw(genre, len(self.function_places), random)
        bodies[:, self.function_places] = function_start + functions * genre[:, None] + spoken
        return bodies

    @cached_property
    def _word_law(self) -> Inversion:
        return Inversion(self.words)

    @cached_property
    def _function_law(self) -> Inversion:
        return Inversion(self.functions)

    @cached_property
    def _log_words(self) -> Float64[np.ndarray, "words concepts"]:
        return np.ascontiguousarray(np.log(self.words).T)

    # ------------------------------------------------------------- exact laws

    def parse(self, documents: Documents) -> Parsed:
        """The documents that the grammar can make."""
        rows = np.flatnonzero(documents.lengths == self.length)
        bodies = documents.take(rows).padded(0, self.length)
        genre_start, function_start, word_start = self.starts
        genres, functions = self.functions.shape
        genre = bodies[:, 0] - genre_start
        spoken = bodies[:, self.function_places] - function_start - functions * np.clip(genre, 0, genres - 1)[:, None]
        words = bodies[:, self.word_places] - word_start
        good = (genre >= 0) & (genre < genres) & within(spoken, functions) & within(words, self.words.shape[1])
        genre, spoken = genre[good], spoken[good]
        common = -np.log(genres) + np.log(self.functions)[genre[:, None], spoken].sum(axis=1)
        return Parsed(rows[good], common, words[good].astype(np.int64))

    def log_given_concept(self, documents: Documents) -> Float64[np.ndarray, "documents concepts"]:
        """log P(d | c); minus infinity for what the grammar cannot make."""
        found = np.full((len(documents), len(self.prior)), -np.inf)
        parsed = self.parse(documents)
        if len(parsed.rows):
            found[parsed.rows] = word_counts(parsed.words, self.words.shape[1]) @ self._log_words
            found[parsed.rows] += parsed.common[:, None]
        return found

    def log_marginal(self, documents: Documents) -> Float64[np.ndarray, "documents"]:
        """log P(d)."""
        parts = [logsumexp(self.log_given_concept(part) + np.log(self.prior)) for part in in_order(documents)]
        return np.concatenate(parts)

    def posterior(self, documents: Documents) -> Float64[np.ndarray, "documents concepts"]:
        """P(c | d); NaN rows for what the grammar cannot make."""
        return np.concatenate([np.exp(self._log_posterior(part)) for part in in_order(documents)])

    def log_conditional(self, second: Documents, first: Documents) -> Float64[np.ndarray, "documents"]:
        """log P(d2 | d1) for pairs that share a concept."""
        parts = zip(in_order(second), in_order(first), strict=True)
        return np.concatenate([logsumexp(self.log_given_concept(b) + self._log_posterior(a)) for b, a in parts])

    def entropy(self) -> float:
        """H(c): what a partner can tell at most."""
        return float(-(self.prior * np.log(self.prior)).sum())

    def _log_posterior(self, documents: Documents) -> Float64[np.ndarray, "documents concepts"]:
        joint = self.log_given_concept(documents) + np.log(self.prior)
        with np.errstate(invalid="ignore"):
            return joint - logsumexp(joint)[:, None]


@dataclass(frozen=True)
class FactsWorld(World):
    """Documents that state facts. Word r V + v says that relation r has value v: Phi[c, r V + v] = P(r) P(v | c, r).

    ``templates`` [genres, relations, templates] = Pt. ``content`` counts statements.
    """

    templates: Float64[np.ndarray, "genres relations templates"]

    @property
    def length(self) -> int:
        return 1 + STATEMENT * self.content

    @property
    def word_places(self) -> Int[np.ndarray, "content"]:
        return STATEMENT * (1 + np.arange(self.content))

    @property
    def function_places(self) -> Int[np.ndarray, "content"]:
        return self.word_places - 1

    @property
    def kinds(self) -> Int[np.ndarray, "words"]:
        return np.arange(self.words.shape[1]) // self._values

    @property
    def _values(self) -> int:
        return self.words.shape[1] // self.templates.shape[1]

    @property
    def symbols(self) -> Symbols:
        """As in :class:`World`, then the templates of genre 0, relation 0, ..."""
        return Symbols(self._template_start + self.templates.size, bos=0, eos=1, sep=2, pad=3)

    @property
    def _template_start(self) -> int:
        return self.starts[2] + self.words.shape[1]

    def name(self, token: int) -> str:
        if token < self.starts[2]:
            return super().name(token)
        if token < self._template_start:
            relation, value = divmod(token - self.starts[2], self._values)
            return f"r{relation}={value}"
        _, relations, templates = self.templates.shape
        rest, template = divmod(token - self._template_start, templates)
        return f"r{rest % relations}?{ascii_lowercase[template % 26]}{rest // relations}"

    def _written(
        self, concepts: Int[np.ndarray, "documents"], words: Int[np.ndarray, "_ _"], random: np.random.Generator
    ) -> Integer[np.ndarray, "documents length"]:
        bodies = super()._written(concepts, words, random)
        row = (bodies[:, :1] - self.starts[0]) * self.templates.shape[1] + words // self._values
        spoken = self._template_law.draw(row.reshape(-1), 1, random).reshape(row.shape)
        bodies[:, self.word_places - 2] = self._template_start + row * self.templates.shape[2] + spoken
        return bodies

    @cached_property
    def _template_law(self) -> Inversion:
        return Inversion(self.templates.reshape(-1, self.templates.shape[2]))

    def parse(self, documents: Documents) -> Parsed:
        found = super().parse(documents)
        bodies = documents.take(found.rows).padded(0, self.length)
        _, relations, templates = self.templates.shape
        row = (bodies[:, :1] - self.starts[0]) * relations + found.words // self._values
        spoken = bodies[:, self.word_places - 2] - self._template_start - row * templates
        good = within(spoken, templates)
        law = np.log(self.templates.reshape(-1, templates))
        common = found.common[good] + law[row[good], spoken[good]].sum(axis=1)
        return Parsed(found.rows[good], common, found.words[good])


class Inversion:
    """Draws from one of many laws, by inversion: all rows are one increasing array, so that one search serves all draws."""

    def __init__(self, laws: Float64[np.ndarray, "rows outcomes"]) -> None:
        sums = np.cumsum(laws, axis=1)
        sums /= sums[:, -1:]
        sums += np.arange(len(laws))[:, None]
        self.flat, self.outcomes = sums.reshape(-1), laws.shape[1]

    def draw(
        self, rows: Int[np.ndarray, "draws"], count: int, random: np.random.Generator
    ) -> Int[np.ndarray, "draws count"]:
        """``count`` outcomes from the law of each given row."""
        wanted = rows[:, None] + random.random((len(rows), count))
        place = np.searchsorted(self.flat, wanted, side="right") - rows[:, None] * self.outcomes
        return np.minimum(place, self.outcomes - 1)


def word_counts(words: Int[np.ndarray, "documents content"], size: int) -> Any:
    """How often each document has each of ``size`` words: a sparse matrix [documents, size]."""
    from scipy.sparse import csr_array

    ends = np.arange(len(words) + 1) * words.shape[1]
    counts = csr_array((np.ones(words.size), words.reshape(-1), ends), shape=(len(words), size))
    counts.sum_duplicates()
    return counts


def in_order(documents: Documents) -> Iterator[Documents]:
    """Documents in parts of ``AT_ONCE``; one empty part where there are none."""
    for start in range(0, max(1, len(documents)), AT_ONCE):
        yield documents.take(np.arange(start, min(start + AT_ONCE, len(documents))))


def within(values: Integer[np.ndarray, "rows columns"], size: int) -> Bool[np.ndarray, "rows"]:
    """Rows all of whose values are in [0, size)."""
    inside: np.ndarray = (values >= 0) & (values < size)
    return np.all(inside, axis=1)


def logsumexp(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows"]:
    """log of the sum of exponentials of each row; minus infinity where all of it is."""
    top = values.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - safe[:, None]).sum(axis=1)) + safe
