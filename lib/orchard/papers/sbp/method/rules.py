"""Rules that decide which synthetic documents are kept: surface alone, nothing that knows the truth.

    unfinished    no eos within the cap                 control       a special token inside
    empty         nothing before eos                    repetitive    2-grams of tokens repeated more than in D
    copy          Jaccard_5 with its seed above 0.6     duplicate     equal to an earlier synthetic document or one of D

Each document is judged by the first rule that it breaks.

Why a percentile: published thresholds (Gopher's) are numbers for web pages, read in words. A document of a world is a bag of few words,
a byte or a subword is no word, and lists repeat by their nature; a fixed bound would throw away most of one corpus and nothing of
another. The 99th percentile of D asks for the same everywhere: no more repetition than one real document in a hundred shows, and by
definition it would reject one real document in a hundred.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from orchard.config import Configurable
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.ngrams import distinct, hashes, jaccard

REASONS = ("kept", "unfinished", "empty", "control", "repetitive", "copy", "duplicate")


class Rules(Configurable):
    """The rules, with the documents that have been seen. Documents must come in one order: a duplicate is one of an earlier one."""

    class Config(Configurable.Config):
        copy: float = 0.6
        percentile: float = 99.0  # of D, above which a document is repetitive

    cfg: Config

    def __init__(self, cfg: Rules.Config, *, real: Documents, corpus: Corpus) -> None:
        self.cfg, self.real, self.corpus = cfg, real, corpus
        self.bound = float(np.percentile(repetition(real), cfg.percentile))
        self.seen: set[bytes] = {_bytes(body) for body in real}

    def judge(
        self, documents: Documents, ended: np.ndarray, seeds: Int64[np.ndarray, "documents"]
    ) -> Int64[np.ndarray, "documents"]:
        """The number of the reason in ``REASONS`` for each document. ``seeds``: its document in D, -1 for none."""
        reason = np.zeros(len(documents), dtype=np.int64)
        for name, broken in reversed(self.broken(documents, ended, seeds).items()):
            reason[broken] = REASONS.index(name)
        for i in np.flatnonzero(reason == 0):
            key = _bytes(documents[i])
            if key in self.seen:
                reason[i] = REASONS.index("duplicate")
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
    counts = np.diff(hashes(documents, n)[1])
    different = np.bincount(distinct(documents, n)[0].astype(np.int64), minlength=len(documents))
    return (counts - different) / np.maximum(counts, 1)
