"""Pairing against scikit-learn and FAISS: order and scores agree to 1e-6, TF-IDF and SVD agree with their equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.method.search import ExactSearch, FaissSearch
from orchard.runs import Workspace

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    found = np.random.default_rng(0).standard_normal((517, 33)).astype(np.float32)
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("k", [1, 8, 516])
def test_exact_search_is_that_of_scikit_learn(rows: np.ndarray, k: int) -> None:
    neighbours = pytest.importorskip("sklearn.neighbors", reason="scikit-learn, the oracle, is not installed")
    ours = ExactSearch.Config().build().neighbours(rows, k)
    theirs = neighbours.NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(rows.astype(np.float64))
    distance, near = theirs.kneighbors()  # of the fitted rows, themselves left out
    assert np.allclose(ours.score, 1 - distance, atol=1e-6)
    swapped = ours.near != near
    assert swapped.mean() < 1e-3  # scores that float32 cannot tell apart
    named = np.einsum("nd,nkd->nk", rows.astype(np.float64), rows.astype(np.float64)[ours.near])
    assert np.allclose(named, 1 - distance, atol=1e-6)


def test_exact_search_is_that_of_a_flat_index(rows: np.ndarray) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu, the oracle, is not installed")
    ours = ExactSearch.Config().build().neighbours(rows, 8)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    score, near = index.search(rows, 9)
    assert np.array_equal(near[:, 0], np.arange(len(rows)))
    assert np.array_equal(ours.near, near[:, 1:])
    assert np.allclose(ours.score, score[:, 1:], atol=1e-6)


def test_faiss_with_all_cells_is_exact(rows: np.ndarray) -> None:
    exact = ExactSearch.Config().build().neighbours(rows, 8)
    found = FaissSearch.Config(cells=12, probes=12, sample=100).build().neighbours(rows, 8)
    assert found.report["search"] == "faiss"
    assert np.array_equal(found.near, exact.near)
    assert np.allclose(found.score, exact.score, atol=1e-6)


def test_tfidf_and_svd_are_their_equations(tmp_path: Path) -> None:
    """Weights by hand in numpy; the SVD up to the sign of a component, which inner products do not see."""
    corpus = ConceptWorld.Config(documents=90, held_out=25, concepts=6, words=60).build()
    splits = {"train": corpus.documents("train"), "held_out": corpus.documents("validation")}
    ours = TfidfEmbedder.Config(components=12).build().embed(corpus, splits, Workspace(tmp_path, tmp_path))
    counts = {
        name: np.stack([np.bincount(documents[i], minlength=corpus.symbols.vocab_size) for i in range(len(documents))])
        for name, documents in splits.items()
    }
    seen = (counts["train"] > 0).sum(axis=0)
    idf = np.log((1 + len(splits["train"])) / (1 + seen)) + 1
    weights = {
        name: np.where(found > 0, 1 + np.log(np.maximum(found, 1)), 0.0)[:, seen > 0] * idf[seen > 0]
        for name, found in counts.items()
    }
    weights = {name: found / np.linalg.norm(found, axis=1, keepdims=True) for name, found in weights.items()}
    _, _, components = np.linalg.svd(weights["train"], full_matrices=False)
    reduced = {name: found @ components[:12].T for name, found in weights.items()}
    for name, found in reduced.items():
        expected = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert np.allclose(ours[name] @ ours[name].T, expected @ expected.T, atol=TOLERANCE)
