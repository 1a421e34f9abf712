"""Rules that decide which synthetic documents are kept: surface alone, nothing that knows the truth (specification, 3.4 and 10).

    unfinished    no eos within the cap                 control       a special token inside
    empty         nothing before eos                    repetitive    n-grams repeated more than in D
    copy          Jaccard_5 with its seed above 0.6     duplicate     equal to an earlier synthetic document or one of D

Each document is judged by the first rule that it breaks. The bound on repetition is the 99th percentile of D, so that documents that
repeat by their nature (lists, word bags) are not thrown away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from orchard.config import Configurable
from orchard.papers.sbp.data import Documents, Symbols
from orchard.papers.sbp.shingles import hashes, jaccard

REASONS = ("kept", "unfinished", "empty", "control", "repetitive", "copy", "duplicate")


class Rules(Configurable):
    """The rules, with the documents that have been seen. Documents must come in one order: a duplicate is one of an earlier one."""

    class Config(Configurable.Config):
        copy: float = 0.6
        percentile: float = 99.0  # of D, above which a document is repetitive

    cfg: Config

    def __init__(self, cfg: Rules.Config, *, real: Documents, symbols: Symbols) -> None:
        self.cfg, self.real, self.symbols = cfg, real, symbols
        self.bound = float(np.percentile(repetition(real), cfg.percentile))
        self.seen: set[bytes] = {_bytes(real[i]) for i in range(len(real))}

    def judge(
        self, documents: Documents, ended: np.ndarray, seeds: Int64[np.ndarray, "documents"]
    ) -> Int64[np.ndarray, "documents"]:
        """The number of the reason in ``REASONS`` for each document. ``seeds``: its document in D, -1 for none."""
        special = np.isin(documents.tokens, [self.symbols.bos, self.symbols.eos, self.symbols.sep, self.symbols.pad])
        owner = np.repeat(np.arange(len(documents)), documents.lengths)
        copies = np.zeros(len(documents), dtype=bool)
        seeded = np.flatnonzero(seeds >= 0)
        copies[seeded] = jaccard(documents, self.real, seeded, seeds[seeded]) > self.cfg.copy
        broken: list[Any] = [
            ~ended, documents.lengths == 0, np.bincount(owner[special], minlength=len(documents)) > 0,
            repetition(documents) > self.bound, copies,
        ]  # fmt: skip
        reason = np.zeros(len(documents), dtype=np.int64)
        for number in range(len(broken), 0, -1):
            reason[broken[number - 1]] = number
        for i in np.flatnonzero(reason == 0):
            key = _bytes(documents[i])
            if key in self.seen:
                reason[i] = REASONS.index("duplicate")
            self.seen.add(key)
        return reason


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
