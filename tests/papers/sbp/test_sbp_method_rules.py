"""Every rule on documents that were judged by hand."""

from __future__ import annotations

import numpy as np

from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols
from orchard.papers.sbp.method.rules import REASONS, Rules, repetition


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
    return [REASONS[i] for i in rules.judge(Documents.of(bodies), all_ended, number)]


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
    assert rules.judge(one, np.array([False]), none)[0] == REASONS.index("unfinished")
    assert rules.judge(one, np.array([True]), none)[0] == 0
    assert rules.judge(one, np.array([True]), none)[0] == REASONS.index("duplicate")


def test_the_share_of_repeated_2_grams() -> None:
    documents = Documents.of([[5, 6, 5, 6, 5], [7, 7, 7], [1, 2, 3], [], [4]])
    assert repetition(documents).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------------------- text
