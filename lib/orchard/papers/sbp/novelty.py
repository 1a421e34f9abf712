"""Novelty of a corpus against all of D, not against its seeds alone.

    novel_n(d)    = share of the n-grams of d that are in no document of D
    span(d)       = the longest run of tokens of d that stands somewhere in D
    distance_n(d) = 1 - max over d' in D of Jaccard_n(d, d')
    d is a duplicate among K documents if an earlier one of them has Jaccard_5 > 0.6 with it

Every pair of documents that share a shingle is compared: products of sparse incidence matrices, rows by rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.shingles import N, hashes

ROWS = 1024  # documents of a product at once
NEAR = 0.6  # Jaccard_5 above which two documents are the same


def novel_rate(documents: Documents, real: Documents, n: int) -> Float64[np.ndarray, "documents"]:
    """The share of a document's n-grams that D does not have; NaN for a document shorter than n."""
    values, offsets = hashes(documents, n)
    known = hashes(_at_least(real, n), n)[0]
    owner = np.repeat(np.arange(len(documents)), np.diff(offsets))
    new = np.bincount(owner[~np.isin(values, known)], minlength=len(documents))
    return np.where(documents.lengths >= n, new / np.maximum(np.diff(offsets), 1), np.nan)


def longest_span(documents: Documents, real: Documents) -> Int64[np.ndarray, "documents"]:
    """Tokens of the longest run that D has too. A run of n + 1 tokens holds one of n: the search ends with the first n without."""
    longest = np.zeros(len(documents), dtype=np.int64)
    alive = np.arange(len(documents))
    n = 1
    while len(alive):
        alive = alive[documents.lengths[alive] >= n]
        values, offsets = hashes(documents.take(alive), n)
        found = np.isin(values, hashes(_at_least(real, n), n)[0])
        owner = np.repeat(np.arange(len(alive)), np.diff(offsets))
        alive = alive[np.bincount(owner[found], minlength=len(alive)) > 0]
        longest[alive] = n
        n += 1
    return longest


def nearest_jaccard(documents: Documents, real: Documents, n: int) -> Float64[np.ndarray, "documents"]:
    """The greatest Jaccard_n with a document of D."""
    best = np.zeros(len(documents))
    for start, row, _, value in _overlaps(documents, real, n):
        np.maximum.at(best, start + row, value)
    return best


def duplicates(documents: Documents, bound: float = NEAR) -> Bool[np.ndarray, "documents"]:
    """Whether an earlier document is the same or nearly the same."""
    found = np.zeros(len(documents), dtype=bool)
    for start, row, column, value in _overlaps(documents, documents, N):
        found[(start + row)[(column < start + row) & (value > bound)]] = True
    return found


def _at_least(documents: Documents, n: int) -> Documents:
    """Documents that have an n-gram: a shorter one would count as one shingle of its own."""
    return documents if (documents.lengths >= n).all() else documents.take(np.flatnonzero(documents.lengths >= n))


def _overlaps(a: Documents, b: Documents, n: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """First row, row within, column and Jaccard_n of every pair that shares a shingle, some rows of ``a`` at a time."""
    left, right = _incidences(a, b, n)
    sizes = [np.diff(matrix.indptr) for matrix in (left, right)]
    turned = right.T.tocsr()
    for start in range(0, left.shape[0], ROWS):
        shared = (left[start : start + ROWS] @ turned).tocoo()
        union = sizes[0][start + shared.row] + sizes[1][shared.col] - shared.data
        yield start, shared.row.astype(np.int64), shared.col.astype(np.int64), shared.data / union


def _incidences(a: Documents, b: Documents, n: int) -> tuple[Any, Any]:
    """Which distinct shingle stands in which document: sparse [documents, shingles] of ones, with common columns."""
    from scipy import sparse

    found = [hashes(documents, n) for documents in (a, b)]
    known, column = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    matrices, start = [], 0
    for values, offsets in found:
        ones = np.ones(len(values), dtype=np.int32)
        matrix = sparse.csr_matrix(
            (ones, column[start : start + len(values)], offsets), shape=(len(offsets) - 1, len(known))
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1
        matrices.append(matrix)
        start += len(values)
    return matrices[0], matrices[1]
