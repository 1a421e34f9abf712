"""Shingles and near-duplicates: exact Jaccard against sets of tuples, MinHash and its bands against their laws."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.ngrams import NearDuplicates, hashes, jaccard

BODIES = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=8)


def shingles(body: list[int], n: int) -> set[tuple[int, ...]]:
    """The definition: all n-grams; a shorter document is one shingle, an empty one has none."""
    if len(body) < n:
        return {tuple(body)} if body else set()
    return {tuple(body[i : i + n]) for i in range(len(body) - n + 1)}


def naive(a: list[int], b: list[int], n: int) -> float:
    one, two = shingles(a, n), shingles(b, n)
    return len(one & two) / len(one | two) if one | two else 0.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(BODIES, st.integers(1, 6))
def test_jaccard_is_that_of_sets(bodies: list[list[int]], n: int) -> None:
    documents = Documents.of(bodies)
    first, second = (index.ravel() for index in np.meshgrid(np.arange(len(bodies)), np.arange(len(bodies))))
    found = jaccard(documents, documents, first, second, n)
    assert found.tolist() == [naive(bodies[a], bodies[b], n) for a, b in zip(first, second, strict=True)]


def test_one_document_has_one_hash_per_shingle() -> None:
    values, offsets = hashes(Documents.of([[7] * 9, [], [1, 2], [1, 2, 0]]), 5)
    assert offsets.tolist() == [0, 5, 5, 6, 7]
    assert len(set(values[:5].tolist())) == 1
    assert values[5] != values[6]  # a short document is not the same with a token more


# ----------------------------------------------------------- near-duplicates


def with_copies(count: int, seed: int = 0) -> tuple[Documents, dict[int, int]]:
    """Random documents of 40 tokens; every tenth is an earlier one with a token changed. Copy -> original."""
    random = np.random.default_rng(seed)
    bodies = list(random.integers(0, 500, size=(count, 40)))
    copied = {}
    for i in range(9, count, 10):
        bodies[i] = bodies[i - 9].copy()
        bodies[i][random.integers(40)] = 999
        copied[i] = i - 9
    return Documents.of(bodies), copied


def test_groups_are_the_copies() -> None:
    documents, copied = with_copies(200)
    groups = NearDuplicates.Config().build().groups(documents)
    changed = np.flatnonzero(groups != np.arange(200))
    assert {int(i): int(groups[i]) for i in changed} == copied


def test_a_chain_is_one_group_and_empty_documents_are_alone() -> None:
    body = list(range(40))
    chain = [body, [*body[:-6], *range(60, 66)], [*range(50, 56), *body[6:-6], *range(60, 66)]]
    documents = Documents.of([[], chain[0], [], chain[1], chain[2], [5], [5]])
    groups = NearDuplicates.Config(threshold=0.6, bands=64, rows=2).build().groups(documents)
    assert naive(chain[0], chain[2], 5) < 0.6 < naive(chain[0], chain[1], 5)
    assert groups.tolist() == [0, 1, 2, 1, 1, 5, 5]
    assert NearDuplicates.Config().build().groups(Documents.of([])).tolist() == []


def pair_at(shared: int, alone: int, start: int) -> list[list[int]]:
    """Two documents of single-token shingles with Jaccard shared / (shared + 2 alone)."""
    tokens = list(range(start, start + shared + 2 * alone))
    return [tokens[: shared + alone], tokens[:shared] + tokens[shared + alone :]]


@pytest.mark.parametrize(("shared", "alone"), [(20, 40), (60, 20), (90, 5)])
def test_minhash_estimates_the_jaccard_index(shared: int, alone: int) -> None:
    pytest.importorskip("datasketch")
    cfg = NearDuplicates.Config(shingle=1, bands=64, rows=4)
    truth, repeats = shared / (shared + 2 * alone), 40
    documents = Documents.of([body for i in range(repeats) for body in pair_at(shared, alone, 200 * i)])
    made = [sketch for _, sketch in cfg.build().sketches(documents)]
    found = np.array([made[2 * i].jaccard(made[2 * i + 1]) for i in range(repeats)])
    sigma = (truth * (1 - truth) / 256) ** 0.5
    assert abs(found.mean() - truth) < 3 * sigma / repeats**0.5
    assert (abs(found - truth) < 3 * sigma).mean() > 0.95


@pytest.mark.parametrize(("shared", "alone"), [(40, 30), (60, 20), (80, 10)])
def test_candidates_come_up_with_the_probability_of_their_bands(shared: int, alone: int) -> None:
    pytest.importorskip("datasketch")
    bands, rows, repeats = 8, 4, 400
    truth = shared / (shared + 2 * alone)
    expected = 1 - (1 - truth**rows) ** bands
    documents = Documents.of([body for i in range(repeats) for body in pair_at(shared, alone, 200 * i)])
    found = NearDuplicates.Config(shingle=1, bands=bands, rows=rows).build().candidates(documents)
    assert (found[0] < found[1]).all()
    share = int(((found[1] == found[0] + 1) & (found[0] % 2 == 0)).sum()) / repeats
    assert abs(share - expected) < 3 * (expected * (1 - expected) / repeats) ** 0.5


@pytest.mark.parametrize("fields", [{"threshold": 1.0}, {"bands": 1}, {"rows": 0}, {"shingle": 0}])
def test_settings_that_make_no_sense(fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"NearDuplicates\.Config has threshold"):
        NearDuplicates.Config(**fields).build()


def test_without_datasketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(BadInput, match="need datasketch, which is not installed"):
        NearDuplicates.Config().build().groups(Documents.of([[1, 2]]))
