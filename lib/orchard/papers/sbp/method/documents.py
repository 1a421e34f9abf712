"""Corpora of whole documents as token ids: what every stage of the pipeline reads.

    body      the tokens of a document, without bos and eos
    document  bos body eos                        what a model learns, and what p(d) is the probability of
    pair      bos body_1 sep bos body_2 eos       after the second bos exactly the layout of a document

Documents stay whole: pairs need them, so nothing is packed across their ends. A corpus has four splits. `pool` is all unique
documents there are, what the oracle learns from; `train` is D, the first of them, what everybody else may see; `validation`
and `test` are disjoint from both. Tokenizers, thresholds and embedders are fitted on `train` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Integer
from torch import Tensor

from orchard.config import Configurable
from orchard.errors import BadInput

SPLITS = ("train", "pool", "validation", "test")


@dataclass(frozen=True)
class Symbols:
    """The ids that mean something to the pipeline: the size of the vocabulary and the four special tokens in it."""

    vocab_size: int
    bos: int
    eos: int
    sep: int
    pad: int


@dataclass(frozen=True)
class Documents:
    """Ragged documents: body i is ``tokens[offsets[i]:offsets[i + 1]]``; ``labels`` say what is true of them, where that is known.

    Labels (the concept, or a relation read from code) score pairs. Nothing that is trained or paired may read them, except the
    arms whose name says so.
    """

    tokens: Integer[np.ndarray, "tokens"]
    offsets: Int64[np.ndarray, "documents_and_one"]
    labels: Int[np.ndarray, "documents"] | None = None
    names: list[str] = field(default_factory=list)  # where they come from; empty: they have none

    @classmethod
    def of(
        cls, bodies: Iterable[Sequence[int] | np.ndarray], labels: np.ndarray | None = None, names: Sequence[str] = ()
    ) -> Documents:
        """Documents from bodies of any lengths."""
        arrays = [np.asarray(body, dtype=np.int32) for body in bodies]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *arrays]), offsets, labels, list(names))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int | np.integer) -> Integer[np.ndarray, "_"]:
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[Integer[np.ndarray, "_"]]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> Int64[np.ndarray, "documents"]:
        """Tokens of each body."""
        return np.diff(self.offsets)

    def take(self, indices: Integer[np.ndarray, "_"] | Sequence[int]) -> Documents:
        """The documents with these numbers, in this order."""
        index = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        tokens = self.tokens[np.repeat(self.offsets[index], lengths) + within]
        labels = None if self.labels is None else self.labels[index]
        return Documents(tokens, offsets, labels, [self.names[i] for i in index] if self.names else [])

    def head(self, count: int) -> Documents:
        """The first ``count`` documents."""
        return self.take(np.arange(min(count, len(self))))

    def __add__(self, other: Documents) -> Documents:
        both = self.labels is not None and other.labels is not None
        return Documents(
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            np.concatenate([self.labels, other.labels]) if both else None,
            [*self.names, *other.names] if self.names and other.names else [],
        )

    def padded(self, fill: int, width: int | None = None) -> Integer[np.ndarray, "documents width"]:
        """Bodies as rows, filled up on the right to the longest or to ``width``."""
        lengths = self.lengths
        rows = np.full((len(self), int(lengths.max(initial=0)) if width is None else width), fill, dtype=np.int32)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = self.tokens
        return rows


class Corpus(Configurable):
    """Base of the corpora. ``cap`` is the greatest number of tokens in a body; longer documents were cut when they were read."""

    symbols: Symbols
    cap: int

    def documents(self, split: str) -> Documents:
        """The documents of ``"train"``, ``"pool"``, ``"validation"`` or ``"test"``, always the same ones."""
        raise NotImplementedError

    def text(self, body: Integer[np.ndarray, "_"]) -> str:
        """A body for people to read."""
        raise NotImplementedError


@dataclass(frozen=True)
class Batch:
    """Padded sequences and, for every predicted token, whether it counts in the loss. Pads are on the right, so causal attention
    never sees them and needs no mask."""

    tokens: Int64[Tensor, "sequences time_and_one"]
    counts: Bool[Tensor, "sequences time"]


def document_batch(bodies: Documents, symbols: Symbols) -> Batch:
    """``bos body eos``, every token after bos counts."""
    lengths = bodies.lengths
    rows = np.full((len(bodies), int(lengths.max(initial=0)) + 2), symbols.pad, dtype=np.int64)
    rows[:, 0] = symbols.bos
    rows[:, 1:-1] = bodies.padded(symbols.pad)
    rows[np.arange(len(rows)), lengths + 1] = symbols.eos
    counts = np.arange(rows.shape[1] - 1) < (lengths + 1)[:, None]
    return Batch(torch.from_numpy(rows), torch.from_numpy(counts))


def pair_batch(first: Documents, second: Documents, symbols: Symbols, both: bool = False) -> Batch:
    """``bos body_1 sep bos body_2 eos``. What counts is the second document from its first token to eos; the separator and the
    second bos never count, and the first document only if ``both`` (pretraining on neighbours in context)."""
    if len(first) != len(second):
        raise BadInput(f"{len(first)} first and {len(second)} second documents: a pair has one of each")
    before, after = first.lengths, second.lengths
    rows = np.full((len(first), int((before + after).max(initial=0)) + 4), symbols.pad, dtype=np.int64)
    place, row = np.arange(rows.shape[1]), np.arange(len(rows))
    start = before + 3  # of the second body
    rows[:, 0] = symbols.bos
    rows[(place >= 1) & (place < (before + 1)[:, None])] = first.tokens
    rows[row, before + 1], rows[row, before + 2] = symbols.sep, symbols.bos
    rows[(place >= start[:, None]) & (place < (start + after)[:, None])] = second.tokens
    rows[row, start + after] = symbols.eos
    target = place[1:]
    counts = (target >= start[:, None]) & (target <= (start + after)[:, None])
    if both:
        counts |= target <= before[:, None]
    return Batch(torch.from_numpy(rows), torch.from_numpy(counts))


def labels_of(documents: Documents, what: str) -> Int[np.ndarray, "documents"]:
    """The labels of documents. Raises ``BadInput`` where nobody knows them; ``what`` says what asks for them."""
    if documents.labels is None:
        raise BadInput(f"{what}, but nobody knows which documents of this corpus belong together")
    return documents.labels


def check_enough(documents: Documents, least: int, what: str) -> None:
    """Raise ``BadInput`` unless there are at least ``least`` documents; ``what`` says what needs them."""
    if len(documents) < least:
        raise BadInput(
            f"{what} needs at least {least} documents, the corpus has {len(documents)}: give more, or ask for less"
        )
