"""N-grams of tokens (shingles) by which documents are the same, nearly the same, or new.

    Jaccard_n(a, b) = |S_n(a) ∩ S_n(b)| / |S_n(a) ∪ S_n(b)|        S_n(a): the set of n-grams of a

Near-duplicates in a whole corpus: documents with Jaccard_n(a, b) > threshold to an earlier one, checked exactly, on candidates alone.

    P(candidate)  = 1 - (1 - J^r)^b   b bands of r MinHash values each: documents that agree in a band are candidates

MinHash and its banded index are those of datasketch. All pairs of a corpus cannot be compared; the pairs of neighbours that
`pairing` keeps are few, and it compares those exactly.

Novelty against all of D, not against the seed alone:

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
from jaxtyping import Bool, Float64, Int64, Integer, UInt64

from orchard.config import Configurable
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Documents

N = 5


def hashes(
    documents: Documents, n: int = N
) -> tuple[UInt64[np.ndarray, "shingles"], Integer[np.ndarray, "documents_and_one"]]:
    """A 64-bit hash of every n-gram, in order, and where each document's begin. A document shorter than n is one shingle."""
    tokens = documents.tokens.astype(np.uint64) + np.uint64(1)
    lengths = documents.lengths
    reach = np.minimum(lengths, n)
    counts = np.where(lengths > 0, lengths - reach + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(documents)), counts)
    starts = documents.offsets[owner] + np.arange(offsets[-1]) - offsets[owner]
    found = np.full(len(starts), 0xCBF29CE484222325, dtype=np.uint64)
    for step in range(n):
        inside = step < reach[owner]
        found = mixed(found ^ np.where(inside, tokens[np.minimum(starts + step, len(tokens) - 1)], np.uint64(0)))
    return found, offsets


def mixed(values: UInt64[np.ndarray, "values"]) -> UInt64[np.ndarray, "values"]:
    """A bijection of 64 bits that spreads every bit (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (values ^ (values >> np.uint64(31))) + np.uint64(0x9E3779B97F4A7C15)


def jaccard(
    a: Documents, b: Documents, first: Integer[np.ndarray, "pairs"], second: Integer[np.ndarray, "pairs"], n: int = N
) -> Float64[np.ndarray, "pairs"]:
    """Jaccard_n of the documents ``a[first]`` and ``b[second]``, pair by pair."""
    found = []
    for start in range(0, len(first), 50_000):
        one, other = (ends[start : start + 50_000] for ends in (first, second))
        left, right, count = distinct(a.take(one), n), distinct(b.take(other), n), len(one)
        sizes = np.bincount(left[0], minlength=count) + np.bincount(right[0], minlength=count)
        both = np.concatenate([np.stack(left), np.stack(right)], axis=1)
        order = np.lexsort((both[1], both[0]))
        both = both[:, order]
        shared = np.bincount(both[0, 1:][(both[:, 1:] == both[:, :-1]).all(axis=0)].astype(np.int64), minlength=count)
        found.append(shared / np.maximum(sizes - shared, 1))
    return np.concatenate(found) if found else np.empty(0)


def distinct(documents: Documents, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Document number and hash of each distinct shingle of each document."""
    values, offsets = hashes(documents, n)
    owner = np.repeat(np.arange(len(documents), dtype=np.uint64), np.diff(offsets))
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    new = np.ones(len(owner), dtype=bool)
    new[1:] = (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])
    return owner[new], values[new]


class NearDuplicates(Configurable):
    """Finds the documents that are nearly an earlier one."""

    class Config(Configurable.Config):
        threshold: float = 0.6  # Jaccard above which two documents are the same
        shingle: int = N  # tokens
        bands: int = 32  # with 4 rows: a pair at Jaccard 0.6 is a candidate with probability 0.988, at 0.2 with 0.05
        rows: int = 4
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: NearDuplicates.Config) -> None:
        if not 0 < cfg.threshold < 1 or cfg.bands < 2 or min(cfg.rows, cfg.shingle) < 1:
            raise BadInput(
                f"NearDuplicates.Config has threshold {cfg.threshold:g}, {cfg.bands} bands of {cfg.rows} rows, shingles of {cfg.shingle}: "
                "the threshold lies between 0 and 1, there are at least 2 bands, and rows and shingles of at least 1"
            )
        self.cfg = cfg

    def candidates(self, documents: Documents) -> Int64[np.ndarray, "2 candidates"]:
        """Pairs that agree in a band, each once, the earlier document first. Documents without a token are nobody's duplicates."""
        lsh = _datasketch().MinHashLSH(num_perm=self.cfg.bands * self.cfg.rows, params=(self.cfg.bands, self.cfg.rows))
        found: list[tuple[int, int]] = []
        for number, sketch in self.sketches(documents):
            found += [(earlier, number) for earlier in sorted(lsh.query(sketch))]
            lsh.insert(number, sketch)
        return np.array(found, dtype=np.int64).reshape(-1, 2).T

    def sketches(self, documents: Documents) -> Any:
        """Number and MinHash of every document that has a token, in order."""
        values, offsets = hashes(documents, self.cfg.shingle)
        numbers = np.flatnonzero(np.diff(offsets)).tolist()
        shingles = (values[offsets[i] : offsets[i + 1]].tolist() for i in numbers)
        options = {"num_perm": self.cfg.bands * self.cfg.rows, "seed": self.cfg.seed + 1, "scheme": "affine64"}
        return zip(numbers, _datasketch().MinHash.generator(shingles, hashfunc=int, **options), strict=True)

    def groups(self, documents: Documents) -> Int64[np.ndarray, "documents"]:
        """For every document the first of its group: itself, unless a chain of near-duplicates leads to an earlier one.

        ``groups == arange`` are the documents to keep. The Jaccard index of every candidate is exact; a near-duplicate is missed with the
        probability that it is no candidate.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(documents)
        pairs = self.candidates(documents)
        same = jaccard(documents, documents, pairs[0], pairs[1], self.cfg.shingle) > self.cfg.threshold
        edges = coo_array((np.ones(int(same.sum())), (pairs[0, same], pairs[1, same])), shape=(count, count))
        group = connected_components(edges, directed=False)[1]
        first = np.full(count, count, dtype=np.int64)
        np.minimum.at(first, group, np.arange(count))
        return first[group]


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError:
        raise BadInput(
            "near-duplicates of a whole corpus need datasketch, which is not installed: pip install 'orchard[sbp]'"
        ) from None
    return datasketch


ROWS = 1024  # documents of a product at once
NEAR = 0.6  # Jaccard_5 above which two documents are the same


def novel_rate(documents: Documents, real: Documents, n: int) -> Float64[np.ndarray, "documents"]:
    """The share of a document's n-grams that D does not have; NaN for a document shorter than n."""
    found, total = known_grams(documents, real, n)
    return np.where(documents.lengths >= n, (total - found) / np.maximum(total, 1), np.nan)


def known_grams(documents: Documents, real: Documents, n: int) -> tuple[np.ndarray, np.ndarray]:
    """How many n-grams of each document D has too, and how many there are."""
    values, offsets = hashes(documents, n)
    owner = np.repeat(np.arange(len(documents)), np.diff(offsets))
    known = np.isin(values, hashes(at_least(real, n), n)[0])
    return np.bincount(owner[known], minlength=len(documents)), np.diff(offsets)


def longest_span(documents: Documents, real: Documents) -> Int64[np.ndarray, "documents"]:
    """Tokens of the longest run that D has too. A run of n + 1 tokens holds one of n: the search ends with the first n without."""
    longest = np.zeros(len(documents), dtype=np.int64)
    alive = np.arange(len(documents))
    n = 1
    while len(alive):
        alive = alive[documents.lengths[alive] >= n]
        alive = alive[known_grams(documents.take(alive), real, n)[0] > 0]
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


def at_least(documents: Documents, n: int) -> Documents:
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
        content = np.ones(len(values), dtype=np.int32), column[start : start + len(values)], offsets
        matrix = sparse.csr_matrix(content, shape=(len(offsets) - 1, len(known)))
        matrix.sum_duplicates()
        matrix.data[:] = 1
        matrices.append(matrix)
        start += len(values)
    return matrices[0], matrices[1]
