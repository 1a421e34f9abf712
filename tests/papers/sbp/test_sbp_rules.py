"""Every rule on documents that were judged by hand, and Gopher's shares on texts that were counted by hand."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols
from orchard.papers.sbp.method.rules import (
    DUPLICATE,
    GopherRules,
    Rules,
    real_rejections,
    repeated_ngrams,
    repeated_parts,
    repetition,
    top_ngram,
    words_of,
)


class Toy(Corpus):
    """A corpus of given documents; a text is a list of characters."""

    class Config(Corpus.Config):
        pass

    symbols = Symbols(200, bos=0, eos=1, sep=2, pad=3)
    cap = 400

    def __init__(self, bodies: list[list[int]]) -> None:
        self.real = Documents.of(bodies)

    def documents(self, split: str) -> Documents:
        return self.real

    def text(self, body: np.ndarray) -> str:
        return "".join(map(chr, body.tolist()))


REAL = [[10, 11, 12, 13, 14, 15, 16], [20, 21, 20, 22, 23, 24], [30, 31, 32, 33]]


def judged(bodies: list[list[int]], ended: list[bool] | None = None, seeds: list[int] | None = None) -> list[str]:
    corpus = Toy(REAL)
    rules: Rules = Rules.Config().build(real=corpus.real, corpus=corpus)
    all_ended = np.ones(len(bodies), bool) if ended is None else np.array(ended)
    number = np.full(len(bodies), -1) if seeds is None else np.array(seeds)
    return [rules.reasons[i] for i in rules.judge(Documents.of(bodies), all_ended, number)]


def test_each_rule_rejects_what_it_names() -> None:
    bodies = [
        [40, 41, 42],  # nothing wrong
        [40, 41, 43],  # no eos
        [],
        [40, 2, 41],  # sep inside
        [50, 51, 50, 51, 50],  # of four 2-grams two repeat
        [10, 11, 12, 13, 14, 15, 17],  # 5-grams: two of three shared, two of four in all: 0.5
        [10, 11, 12, 13, 14, 15, 16, 17],  # three shared of four: 0.75
        [40, 41, 42],  # the first one again
        [30, 31, 32, 33],  # one of D
    ]
    ended = [i != 1 for i in range(len(bodies))]
    seeds = [0, 0, 0, 0, 0, 0, 0, 1, 1]
    reasons = ["kept", "unfinished", "empty", "control", "repetitive", "kept", "copy", "duplicate", "duplicate"]
    assert judged(bodies, ended, seeds) == reasons


def test_the_first_rule_that_is_broken_is_the_reason() -> None:
    assert judged([[2, 2, 2, 2], []], ended=[False, False]) == ["unfinished", "unfinished"]
    assert judged([[2, 2, 2, 2]]) == ["control"]


def test_without_a_seed_nothing_is_a_copy() -> None:
    assert judged([[10, 11, 12, 13, 14, 15, 16, 17]]) == ["kept"]


def test_a_rejected_document_does_not_make_the_next_a_duplicate_nor_do_batches() -> None:
    corpus = Toy(REAL)
    rules: Rules = Rules.Config().build(real=corpus.real, corpus=corpus)
    one, none = Documents.of([[60, 61]]), np.array([-1])
    assert rules.judge(one, np.array([False]), none)[0] == rules.reasons.index("unfinished")
    assert rules.judge(one, np.array([True]), none)[0] == 0
    assert rules.judge(one, np.array([True]), none)[0] == rules.reasons.index("duplicate")


def test_the_share_of_repeated_2_grams() -> None:
    documents = Documents.of([[5, 6, 5, 6, 5], [7, 7, 7], [1, 2, 3], [], [4]])
    assert repetition(documents).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


def test_the_percentile_is_that_of_the_real_documents() -> None:
    corpus = Toy([[i, i + 1] for i in range(10, 109)] + [[5, 6, 5, 6]])
    rules: Rules = Rules.Config(percentile=99.0).build(real=corpus.real, corpus=corpus)
    shares = real_rejections(rules, corpus.real)
    assert shares["repetitive"] == pytest.approx(0.01)
    assert shares["unfinished"] == shares["empty"] == 0.0


# ------------------------------------------------------------------------------------------------------------- text


def shares(text: str, n: int) -> tuple[float, float]:
    words, characters = words_of([text])
    return float(top_ngram(words, characters, n)[0]), float(repeated_ngrams(words, characters, n)[0])


def test_shares_of_n_grams_counted_by_hand() -> None:
    # "ab cd" three times, "xyz" between: 12 of 18 characters are in the top 2-gram; all 2-grams from the second "ab" on come again
    assert shares("ab cd xyz ab cd xyz ab cd", 2) == (pytest.approx(12 / 18), pytest.approx(11 / 18))
    assert shares("a b c d e f", 2) == (0.0, 0.0)  # nothing twice
    assert shares("ab ab ab ab", 2) == (1.0, 0.75)  # overlapping: each character once
    assert shares("one", 2) == (0.0, 0.0)  # shorter than n
    assert shares("", 3) == (0.0, 0.0)
    assert shares("go on, go on. go", 2) == (pytest.approx(8 / 12), pytest.approx(4 / 12))  # marks are words


def slow_top(text: str, n: int) -> float:
    words = re.findall(r"\w+|[^\w\s]", text)
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    best = 0
    for gram, count in grams.items():
        covered = {i + j for i in range(len(words) - n + 1) if tuple(words[i : i + n]) == gram for j in range(n)}
        best = max(best, sum(len(words[i]) for i in covered) if count > 1 else 0)
    return best / max(sum(map(len, words)), 1)


def slow_repeated(text: str, n: int) -> float:
    words, seen, covered = re.findall(r"\w+|[^\w\s]", text), set(), set[int]()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        covered |= set(range(i, i + n)) if gram in seen else set()
        seen.add(gram)
    return sum(len(words[i]) for i in covered) / max(sum(map(len, words)), 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "bb", "ccc", ",", "d."]), max_size=12).map(" ".join), min_size=1, max_size=4
    )
)
def test_shares_of_n_grams_are_those_of_a_loop(texts: list[str]) -> None:
    words, characters = words_of(texts)
    for n in (2, 3, 5):
        assert top_ngram(words, characters, n).tolist() == pytest.approx([slow_top(text, n) for text in texts])
        assert repeated_ngrams(words, characters, n).tolist() == pytest.approx([slow_repeated(t, n) for t in texts])


def test_lines_and_paragraphs() -> None:
    assert repeated_parts(["ab", "", "cdef", "ab ", "ab"]) == (0.5, pytest.approx(4 / 10))
    assert repeated_parts([]) == (0.0, 0.0)
    assert repeated_parts(["  "]) == (0.0, 0.0)


def prose(words: int, seed: int = 0) -> str:
    """Words that never come twice."""
    random.seed(seed)
    return " ".join(f"w{random.randrange(10**9)}" for _ in range(words))


def gopher(texts: list[str]) -> list[str]:
    corpus = Toy([[i] for i in range(10, 120)])
    rules: GopherRules = GopherRules.Config(percentile=100.0).build(real=corpus.real, corpus=corpus)
    rules.bound = 1.0  # Gopher's rules alone
    documents = Documents.of([list(map(ord, text)) for text in texts])
    reason = rules.judge(documents, np.ones(len(texts), bool), np.full(len(texts), -1))
    return [rules.reasons[i] for i in reason]


def test_texts_that_break_each_of_gophers_rules() -> None:
    lines = "\n".join(["one line here"] * 2 + [prose(12, i) for i in range(2)])  # 1 of 4 lines, few characters: kept
    more = "\n".join(["x"] * 3 + [prose(9, i) for i in range(2)])  # 2 of 5 lines
    wide = "\n".join([prose(12)] * 2 + [prose(3, i) for i in range(1, 5)])  # 1 of 6 lines, more than a fifth of it
    paragraphs = "\n\n".join(["x y", "x y", "\n".join(prose(3, i) for i in range(9))])  # 1 of 3, but 1 of 11 lines
    top = " ".join("again and " + prose(1, i) for i in range(6))
    once = "red big dog"  # its one 2-gram holds most of it, once
    assert gopher([lines, more, wide, top, once, prose(60)]) == [
        "kept", "duplicate lines", "duplicate lines", "top n-gram", "kept", "kept",
    ]  # fmt: skip
    assert gopher([paragraphs]) == ["duplicate paragraphs"]


def test_the_longest_n_grams_have_a_rule_of_their_own() -> None:
    """A passage of ten words, twice: below the bounds of the short n-grams, above that of ten."""
    passage = prose(10, 1)
    text = f"{prose(40, 2)} {passage} {prose(22, 3)} {passage}"
    words, characters = words_of([text])
    for n, most in DUPLICATE.items():
        assert (repeated_ngrams(words, characters, n)[0] > most) == (n >= 8)
    assert max(top_ngram(words, characters, n)[0] for n in (2, 3, 4)) < 0.16
    assert gopher([text]) == ["duplicate n-grams"]
