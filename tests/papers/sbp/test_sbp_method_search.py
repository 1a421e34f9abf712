"""Search: exact and FAISS give the neighbours, the recall that is reported is the recall, and one seed is one answer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.sbp.method import search as module
from orchard.papers.sbp.method.search import ExactSearch, FaissSearch, exact_neighbours, recall


def clustered(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """Unit vectors around one centre for every fifty of them, in a space that has a few long axes."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, count // 50), dim), dtype=np.float32)
    rows = centres[random.integers(len(centres), size=count)] + random.standard_normal((count, dim), dtype=np.float32)
    rows *= np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "k"), [(2, 1), (9, 8), (301, 5)])
def test_exact_search_is_the_full_sort(count: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7 * count)  # blocks that do not divide the documents
    rows = clustered(count)
    found = ExactSearch.Config().build().neighbours(rows, k)
    scores = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    assert np.array_equal(found.near, np.argsort(-scores, axis=1)[:, :k])
    assert np.allclose(found.score, -np.sort(-scores, axis=1)[:, :k], atol=1e-6)
    assert (found.near != np.arange(count)[:, None]).all()


def test_faiss_finds_what_it_says() -> None:
    rows = clustered(3_000)
    found = FaissSearch.Config(sample=200).build().neighbours(rows, 8)
    truth = exact_neighbours(rows, 8)
    everywhere = recall(found.score, truth[1])
    assert found.report["search"] == "faiss"
    assert found.report["probes"] <= found.report["cells"] / 8
    assert everywhere >= 0.95
    assert found.report["recall"] == pytest.approx(everywhere, abs=0.03)
    assert (found.near != np.arange(3_000)[:, None]).all()
    assert (np.diff(found.score, axis=1) <= 0).all()
    named = np.einsum("nd,nkd->nk", rows, rows[found.near])
    assert np.allclose(named, found.score, atol=1e-5)


def test_one_seed_is_one_answer() -> None:
    rows = clustered(2_000)
    first, second = (FaissSearch.Config(sample=100).build().neighbours(rows, 4) for _ in range(2))
    assert np.array_equal(first.near, second.near)
    assert np.array_equal(first.score, second.score)
    assert first.report == second.report


def test_more_cells_are_looked_into_until_the_recall_is_there() -> None:
    rows = clustered(4_000, 64)
    probes = [
        FaissSearch.Config(sample=300, probes=1, recall=wanted).build().neighbours(rows, 8).report["probes"]
        for wanted in (0.3, 0.97)
    ]
    assert probes[0] < probes[1]


def test_vectors_without_structure_are_searched_exactly() -> None:
    rows = np.random.default_rng(0).standard_normal((1_500, 64), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = FaissSearch.Config(sample=100).build().neighbours(rows, 8)
    assert (found.report["search"], found.report["recall"]) == ("exact", 1.0)
    assert np.array_equal(found.near, exact_neighbours(rows, 8)[0])


def test_copies_do_not_find_themselves() -> None:
    rows = np.repeat(clustered(100), 20, axis=0)  # 19 copies for 8 places: itself may not come up
    found = FaissSearch.Config(sample=50).build().neighbours(rows, 8)
    assert (found.near != np.arange(2_000)[:, None]).all()
    assert found.report["recall"] == 1.0  # copies are equally near
    assert all(len(set(row)) == 8 for row in found.near.tolist())


def test_a_place_that_cannot_be_filled() -> None:
    faiss = pytest.importorskip("faiss")
    rows = np.eye(4, dtype=np.float32)
    index = faiss.IndexFlatIP(4)
    index.add(rows)
    near, score = module._ask(index, rows, np.arange(4), 5)
    assert (near[:, 3:] == -1).all()
    assert np.isneginf(score[:, 3:]).all()
    assert np.isfinite(score[:, :3]).all()


@pytest.mark.parametrize("fields", [{"recall": 0.0}, {"recall": 1.5}, {"probes": 0}, {"sample": 0}])
def test_settings_that_make_no_sense(fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"FaissSearch\.Config has recall .* recall lies above 0"):
        FaissSearch.Config(**fields).build()


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BadInput, match=r"needs faiss-cpu, which is not installed: .*ExactSearch"):
        FaissSearch.Config().build().neighbours(clustered(20), 2)
