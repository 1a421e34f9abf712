"""Rules that decide which synthetic documents are kept: surface alone, nothing that knows the truth.

    unfinished    no eos within the cap                 control       a special token inside
    empty         nothing before eos                    repetitive    2-grams of tokens repeated more than in D
    copy          Jaccard_5 with its seed above 0.6     duplicate     equal to an earlier synthetic document or one of D

Text has the repetition rules of Gopher besides (`GopherRules`). Each document is judged by the first rule that it breaks.

Why a percentile: thresholds as Gopher's are numbers for web pages, read in words. A document of a world is a bag of few words, a byte
or a subword is no word, and lists repeat by their nature; a fixed bound would throw away most of one corpus and nothing of another.
The 99th percentile of D asks for the same everywhere: no more repetition than one real document in a hundred shows, and by
definition it would reject one real document in a hundred. The experiment `rules_on_real` says what each rule would do to D.
"""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from orchard.config import Configurable
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.ngrams import hashes, jaccard

REASONS = ("kept", "unfinished", "empty", "control", "repetitive", "copy", "duplicate")


class Rules(Configurable):
    """The rules, with the documents that have been seen. Documents must come in one order: a duplicate is one of an earlier one."""

    reasons: ClassVar[tuple[str, ...]] = REASONS

    class Config(Configurable.Config):
        copy: float = 0.6
        percentile: float = 99.0  # of D, above which a document is repetitive

    cfg: Config

    def __init__(self, cfg: Rules.Config, *, real: Documents, corpus: Corpus) -> None:
        self.cfg, self.real, self.corpus = cfg, real, corpus
        self.bound = float(np.percentile(repetition(real), cfg.percentile))
        self.seen: set[bytes] = {_bytes(real[i]) for i in range(len(real))}

    def judge(
        self, documents: Documents, ended: np.ndarray, seeds: Int64[np.ndarray, "documents"]
    ) -> Int64[np.ndarray, "documents"]:
        """The number of the reason in ``reasons`` for each document. ``seeds``: its document in D, -1 for none."""
        reason = np.zeros(len(documents), dtype=np.int64)
        for name, broken in reversed(self.broken(documents, ended, seeds).items()):
            reason[broken] = self.reasons.index(name)
        for i in np.flatnonzero(reason == 0):
            key = _bytes(documents[i])
            if key in self.seen:
                reason[i] = self.reasons.index("duplicate")
            self.seen.add(key)
        return reason

    def broken(
        self, documents: Documents, ended: np.ndarray, seeds: Int64[np.ndarray, "documents"]
    ) -> dict[str, Bool[np.ndarray, "documents"]]:
        """Which documents break each rule but the last, in the order in which the rules judge."""
        symbols = self.corpus.symbols
        special = np.isin(documents.tokens, [symbols.bos, symbols.eos, symbols.sep, symbols.pad])
        owner = np.repeat(np.arange(len(documents)), documents.lengths)
        copies = np.zeros(len(documents), dtype=bool)
        seeded = np.flatnonzero(seeds >= 0)
        copies[seeded] = jaccard(documents, self.real, seeded, seeds[seeded]) > self.cfg.copy
        return {
            "unfinished": ~ended.astype(bool),
            "empty": documents.lengths == 0,
            "control": np.bincount(owner[special], minlength=len(documents)) > 0,
            "repetitive": repetition(documents) > self.bound,
            "copy": copies,
        }


def _bytes(body: np.ndarray) -> bytes:
    return np.asarray(body, dtype=np.int32).tobytes()


def repetition(documents: Documents, n: int = 2) -> Float64[np.ndarray, "documents"]:
    """The share of a document's n-grams that repeat an earlier one of it."""
    values, offsets = hashes(documents, n)
    owner = np.repeat(np.arange(len(documents)), np.diff(offsets))
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    again = np.zeros(len(owner), dtype=bool)
    again[1:] = (owner[1:] == owner[:-1]) & (values[1:] == values[:-1])
    return np.bincount(owner[again], minlength=len(documents)) / np.maximum(np.diff(offsets), 1)


# ------------------------------------------------------------------------------------------------------------- text

# Rae et al. 2021, arXiv 2112.11446, table A1: a document above any of these is rejected.
LINES = PARAGRAPHS = 0.30  # share of lines, of paragraphs that repeat an earlier one
LINE_CHARACTERS = PARAGRAPH_CHARACTERS = 0.20  # share of characters that are in them
TOP = {2: 0.20, 3: 0.18, 4: 0.16}  # n -> share of characters in the one n-gram of words that holds most of them
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # n -> share of characters in repeated n-grams
WORD = re.compile(r"\w+|[^\w\s]")


class GopherRules(Rules):
    """The rules for text: those of `Rules`, and how much of a text repeats itself, in lines, paragraphs and n-grams of words."""

    reasons = (*REASONS, "duplicate lines", "duplicate paragraphs", "top n-gram", "duplicate n-grams")

    class Config(Rules.Config):
        pass

    def broken(
        self, documents: Documents, ended: np.ndarray, seeds: Int64[np.ndarray, "documents"]
    ) -> dict[str, Bool[np.ndarray, "documents"]]:
        texts = [self.corpus.text(documents[i]) for i in range(len(documents))]
        lines = np.array([repeated_parts(text.splitlines()) for text in texts]).reshape(-1, 2)
        paragraphs = np.array([repeated_parts(re.split(r"\n{2,}", text)) for text in texts]).reshape(-1, 2)
        words, characters = words_of(texts)
        top = [top_ngram(words, characters, n) > most for n, most in TOP.items()]
        duplicate = [repeated_ngrams(words, characters, n) > most for n, most in DUPLICATE.items()]
        return {
            **super().broken(documents, ended, seeds),
            "duplicate lines": np.any(lines > [LINES, LINE_CHARACTERS], axis=1),
            "duplicate paragraphs": np.any(paragraphs > [PARAGRAPHS, PARAGRAPH_CHARACTERS], axis=1),
            "top n-gram": np.any(top, axis=0),
            "duplicate n-grams": np.any(duplicate, axis=0),
        }


def repeated_parts(parts: list[str]) -> tuple[float, float]:
    """The share of the parts that are not blank which repeat an earlier one, and the share of characters in them."""
    parts = [part.strip() for part in parts if part.strip()]
    seen, again, characters = set[str](), 0, 0
    for part in parts:
        if part in seen:
            again, characters = again + 1, characters + len(part)
        seen.add(part)
    return again / max(len(parts), 1), characters / max(sum(map(len, parts)), 1)


def words_of(texts: list[str]) -> tuple[Documents, Int64[np.ndarray, "words"]]:
    """Texts as numbered words and punctuation marks, and the characters of each."""
    numbers: dict[str, int] = {}
    found = [WORD.findall(text) for text in texts]
    words = Documents.of([[numbers.setdefault(word, len(numbers)) for word in text] for text in found])
    return words, np.array([len(word) for text in found for word in text], dtype=np.int64)


def _occurrences(
    words: Documents, n: int
) -> tuple[Int64[np.ndarray, "n_grams"], Int64[np.ndarray, "n_grams"], Bool[np.ndarray, "n_grams"]]:
    """Document and first word of every n-gram, equal ones of a document side by side from the first on; whether one repeats the one
    before it. Texts of fewer than n words have none."""
    whole = words.lengths >= n
    values, offsets = hashes(words, n)
    owner = np.repeat(np.arange(len(words)), np.diff(offsets))
    start = words.offsets[owner] + np.arange(len(owner)) - offsets[owner]
    order = np.lexsort((start, values, owner))
    order = order[whole[owner[order]]]
    owner, start, values = owner[order], start[order], values[order]
    again = np.zeros(len(owner), dtype=bool)
    again[1:] = (owner[1:] == owner[:-1]) & (values[1:] == values[:-1])
    return owner, start, again


def _characters(words: Documents, characters: Int64[np.ndarray, "words"]) -> Int64[np.ndarray, "documents"]:
    sums = np.concatenate([[0], np.cumsum(characters)])
    return np.maximum(np.diff(sums[words.offsets]), 1)


def top_ngram(words: Documents, characters: Int64[np.ndarray, "words"], n: int) -> Float64[np.ndarray, "documents"]:
    """The largest share of a document's characters that one n-gram of words holds, each character counted once. One that occurs
    once is no repetition and counts nothing: Gopher's documents have 50 words at least, ours may have five."""
    owner, start, again = _occurrences(words, n)
    sums = np.concatenate([[0], np.cumsum(characters)])
    begin = start.copy()
    begin[1:][again[1:]] = np.maximum(start[1:], start[:-1] + n)[again[1:]]  # where the one before it ends
    group = np.cumsum(~again) - 1
    held = np.bincount(group, weights=(sums[start + n] - sums[begin]).astype(np.float64))
    held[np.bincount(group) < 2] = 0
    most = np.zeros(len(words))
    np.maximum.at(most, owner[~again], held)
    return most / _characters(words, characters)


def repeated_ngrams(
    words: Documents, characters: Int64[np.ndarray, "words"], n: int
) -> Float64[np.ndarray, "documents"]:
    """The share of a document's characters that lie in n-grams of words which repeat an earlier one, each character counted once."""
    _, start, again = _occurrences(words, n)
    change = np.zeros(len(characters) + 1, dtype=np.int64)
    np.add.at(change, start[again], 1)
    np.add.at(change, start[again] + n, -1)
    inside = np.cumsum(change)[:-1] > 0
    owner = np.repeat(np.arange(len(words)), words.lengths)
    held = np.bincount(owner, weights=(characters * inside).astype(np.float64), minlength=len(words))
    return held / _characters(words, characters)


def real_rejections(rules: Rules, documents: Documents) -> dict[str, float]:
    """The share of real documents that break each rule, were they synthetic ones without a seed."""
    ended, seeds = np.ones(len(documents), dtype=bool), np.full(len(documents), -1)
    return {name: float(broken.mean()) for name, broken in rules.broken(documents, ended, seeds).items()}
