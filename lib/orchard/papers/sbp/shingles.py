"""Shingles: the n-grams of tokens by which documents are the same, nearly the same, or new.

Jaccard_n(a, b) = |S_n(a) ∩ S_n(b)| / |S_n(a) ∪ S_n(b)|        S_n(a): the set of n-grams of a
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Integer, UInt64

from orchard.papers.sbp.data import Documents

N = 5


def hashes(
    documents: Documents, n: int = N
) -> tuple[UInt64[np.ndarray, "shingles"], Integer[np.ndarray, "documents_and_one"]]:
    """A 64-bit hash of every n-gram, in order, and where each document's begin. A document shorter than n is one shingle."""
    tokens = documents.tokens.astype(np.uint64) + np.uint64(1)
    lengths = documents.lengths
    reach = np.minimum(lengths, n)
    counts = np.where(lengths > 0, lengths - reach + 1, 0)
    offsets = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    owner = np.repeat(np.arange(len(documents)), counts)
    starts = documents.offsets[owner] + np.arange(offsets[-1]) - offsets[owner]
    found = np.full(len(starts), 0xCBF29CE484222325, dtype=np.uint64)
    for step in range(n):
        inside = step < reach[owner]
        token = (
            np.where(inside, tokens[np.minimum(starts + step, max(len(tokens) - 1, 0))], np.uint64(0))
            if len(tokens)
            else found
        )
        found = mixed(found ^ token)
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
        left, right = (
            _sets(part, n) for part in (a.take(first[start : start + 50_000]), b.take(second[start : start + 50_000]))
        )
        count = min(50_000, len(first) - start)
        sizes = np.bincount(left[0], minlength=count) + np.bincount(right[0], minlength=count)
        both = np.concatenate([np.stack(left), np.stack(right)], axis=1)
        order = np.lexsort((both[1], both[0]))
        both = both[:, order]
        shared = np.bincount(both[0, 1:][(both[:, 1:] == both[:, :-1]).all(axis=0)].astype(np.int64), minlength=count)
        found.append(shared / np.maximum(sizes - shared, 1))
    return np.concatenate(found) if found else np.empty(0)


def _sets(documents: Documents, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Document number and hash of each distinct shingle of each document."""
    values, offsets = hashes(documents, n)
    owner = np.repeat(np.arange(len(documents), dtype=np.uint64), np.diff(offsets))
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    new = np.ones(len(owner), dtype=bool)
    new[1:] = (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])
    return owner[new], values[new]
