"""Pairing: the threshold's exceedance, the rules against a naive loop, caps and degrees, and one message for each bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method import pairing
from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols
from orchard.papers.sbp.method.embedding import Embedder, TfidfEmbedder, unit
from orchard.papers.sbp.method.ngrams import NearDuplicates
from orchard.papers.sbp.method.pairing import kept_pairs, random_scores, threshold
from orchard.papers.sbp.method.search import ExactSearch, FaissSearch
from orchard.papers.sbp.runs.pair import DrawnPairs, Pair
from orchard.runs import Workspace

CORPORA: dict[str, Any] = {}  # what `Given` holds: documents cannot stand in a config


class Given(Corpus):
    """Documents of a test."""

    class Config(Corpus.Config):
        name: str = REQUIRED

    symbols = Symbols(60, bos=56, eos=57, sep=58, pad=59)
    cap = 40
    cfg: Config

    def __init__(self, cfg: Given.Config) -> None:
        self.cfg = cfg

    def documents(self, split: str) -> Documents:
        made: dict[str, Documents] = CORPORA[self.cfg.name]
        return made[split]


class Counts(Embedder):
    """How often each token occurs, of unit length."""

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Workspace) -> dict[str, Any]:
        return {
            name: unit(
                np.stack(
                    [np.bincount(documents[i], minlength=60) for i in range(len(documents))]
                ).astype(np.float32)
            )
            for name, documents in splits.items()
        }  # fmt: skip


class Broken(Embedder):
    """One and the same vector for everybody; or, if so configured, not a number for the third."""

    class Config(Embedder.Config):
        nan: bool = False

    cfg: Config

    def __init__(self, cfg: Broken.Config) -> None:
        self.cfg = cfg

    def embed(self, corpus: Corpus, splits: dict[str, Documents], work: Workspace) -> dict[str, Any]:
        rows = {name: np.ones((len(documents), 4), np.float32) / 2 for name, documents in splits.items()}
        if self.cfg.nan:
            rows["train"][2, 1] = np.nan
        return rows


def corpus(bodies: Any, held_out: Any = None, name: str = "given") -> Given.Config:
    train = bodies if isinstance(bodies, Documents) else Documents.of(bodies)
    check = train if held_out is None else Documents.of(held_out)
    CORPORA[name] = {"train": train, "validation": check}
    return Given.Config(name=name)


def topics(count: int, length: int = 12, seed: int = 0) -> np.ndarray:
    """Documents that use 8 of 48 words each, by topic."""
    random = np.random.default_rng(seed)
    return 8 * random.integers(6, size=(count, 1)) + random.integers(8, size=(count, length))


def paired(cfg: Pair.Config, tmp_path: Path) -> tuple[dict[str, Any], Any]:
    """The result, and the tensors of a file by its name."""
    tmp_path.mkdir(exist_ok=True)
    result = cfg.build().compute(Workspace(tmp_path, tmp_path, device="cpu"))
    return result, lambda name: load_file(tmp_path / f"{name}.safetensors")


# ------------------------------------------------------------- the threshold


@pytest.mark.parametrize("exceedance", [0.3, 0.05, 1e-3])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_the_threshold_is_exceeded_by_at_most_the_share(count: int, exceedance: float) -> None:
    rows = unit(np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32))
    scores = random_scores(rows, np.random.default_rng(1))
    assert len(scores) == count * (count - 1) // 2  # a small corpus: all pairs, nothing drawn
    alpha = threshold(scores, exceedance)
    above = int((scores > alpha).sum())
    assert above <= exceedance * len(scores)
    assert above >= exceedance * len(scores) - 2  # and no stricter than it must be
    assert alpha in scores


def test_random_pairs_are_drawn_from_a_large_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "RANDOM_PAIRS", 5_000)
    rows = unit(np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32))
    drawn = random_scores(rows, np.random.default_rng(1))
    everything = (rows @ rows.T)[np.triu_indices(300, 1)]
    assert len(drawn) == 5_000
    alpha = threshold(drawn, 0.05)
    sigma = (0.05 * 0.95 / 5_000) ** 0.5
    assert abs((everything > alpha).mean() - 0.05) < 4 * sigma
    assert drawn.max() < 0.999  # nobody is paired with itself


# ----------------------------------------------------------------- the rules


def naive_pairs(
    documents: Documents, near: np.ndarray, score: np.ndarray, alpha: float, cap: int
) -> list[tuple[int, int]]:
    """The rules as a loop: both directions of what scores above alpha, best first, while both ends have room."""
    wanted = {}
    for i, row in enumerate(near):
        for j, value in zip(row, score[i], strict=True):
            if value > alpha and not np.array_equal(documents[i], documents[int(j)]):
                wanted[i, int(j)] = wanted[int(j), i] = float(value)
    order = sorted(wanted, key=lambda pair: (-wanted[pair], pair))
    rank_first: dict[int, int] = {}
    rank_second: dict[int, int] = {}
    kept = []
    for first, second in order:
        a, b = rank_first.get(first, 0), rank_second.get(second, 0)
        rank_first[first], rank_second[second] = a + 1, b + 1
        if a < cap and b < cap:
            kept.append((first, second))
    return kept


@pytest.mark.parametrize("cap", [1, 3, 100])
def test_the_rules_are_those_of_a_loop(cap: int) -> None:
    bodies = topics(61)
    bodies[7] = bodies[3]  # the same document twice
    documents = Documents.of(bodies)
    rows = unit(np.random.default_rng(3).standard_normal((61, 6)).astype(np.float32))
    found = ExactSearch.Config().build().neighbours(rows, 5)
    kept, counts = kept_pairs(documents, np.arange(61), found, 0.3, cap, 0.99)
    assert list(zip(kept["first"].tolist(), kept["second"].tolist(), strict=True)) == naive_pairs(
        documents, found.near, found.score, 0.3, cap
    )
    assert counts["pairs"] + counts["capped"] == len(kept["first_before"])
    assert counts["candidates"] == 61 * 5
    assert np.bincount(kept["first"]).max() <= cap
    assert np.bincount(kept["second"]).max() <= cap


# ------------------------------------------------------------------- the run


def test_files_and_results_agree(tmp_path: Path) -> None:
    cfg = Pair.Config(corpus=corpus(topics(80)), embedder=Counts.Config(), k=4, exceedance=0.1, held_out=30)
    result, tensors = paired(cfg, tmp_path)
    pairs, held_out, degrees = (tensors(name) for name in ("pairs", "held_out", "degrees"))
    assert len(pairs["first"]) == len(pairs["score"]) == result["pairs"]["pairs"] > 0
    assert (pairs["score"] > result["alpha"]).all()
    assert held_out["first"].max() < 30
    assert np.array_equal(degrees["out"], np.bincount(pairs["first"], minlength=80))
    assert np.array_equal(degrees["in"], np.bincount(pairs["second"], minlength=80))
    assert (degrees["both"] >= degrees["out"]).all()
    assert np.array_equal(degrees["in"], degrees["out"])  # the caps keep both directions of a pair or neither
    assert degrees["out"].max() <= 4
    assert result["search"] == {"search": "exact", "recall": 1.0}
    assert result["copies"] == 0


def test_exact_and_faiss_make_the_same_pairs(tmp_path: Path) -> None:
    cfg = Pair.Config(
        corpus=ConceptWorld.Config(documents=600), embedder=TfidfEmbedder.Config(), exceedance=0.02, held_out=50
    )
    exact, _ = paired(cfg, tmp_path / "exact")
    found, _ = paired(
        cfg.clone().set(search=FaissSearch.Config(sample=150, cells=16, recall=1.0, probes=16)), tmp_path / "faiss"
    )
    assert found["search"]["search"] == "faiss"
    assert found["search"]["recall"] == 1.0
    assert found["pairs"] == exact["pairs"]


def test_near_duplicates_are_left_out_before(tmp_path: Path) -> None:
    bodies = topics(60, length=30)
    bodies[50:] = bodies[:10]
    bodies[50:, 0] = 55
    cfg = Pair.Config(corpus=corpus(bodies, topics(20)), embedder=Counts.Config(), k=4, exceedance=0.1)
    result, tensors = paired(cfg.set(copies=NearDuplicates.Config()), tmp_path)
    pairs = tensors("pairs")
    assert result["copies"] == 10
    assert result["pairs"]["near_duplicates"] == 0
    assert max(pairs["first"].max(), pairs["second"].max()) < 50
    assert (tensors("degrees")["out"][50:] == 0).all()


# ----------------------------------------------------------------- bad input

BAD: list[tuple[str, Any, dict[str, Any], str]] = [
    ("fewer documents than neighbours", topics(8), {}, "k = 8 neighbours needs at least 9 documents, the corpus has 8"),
    ("all the same", [[1, 2, 3]] * 12, {}, "all 12 documents are the same, so that none is a partner of another"),
    (
        "an embedder that sees nothing",
        topics(12),
        {"embedder": Broken.Config()},
        "Broken gives all 12 documents the same vector: it does not tell them apart",
    ),
    (
        "not a number",
        topics(12),
        {"embedder": Broken.Config(nan=True)},
        r"Broken gives numbers that are not finite for 1 of 12 documents \(train\), the first is number 2",
    ),
    ("empty documents", [*topics(12), [], []], {}, r"2 of the 14 documents \(train\) are empty, the first is number 12"),
    ("no pair above", topics(12), {"exceedance": 1e-6}, r"no pair of documents \(train\) scores above alpha = .*raise exceedance"),
    (
        "nothing but near-duplicates",
        np.repeat(topics(6, 20), 3, axis=0),
        {"exceedance": 0.12, "k": 2},
        r"no pair of documents \(train\) is left: .* the same document twice \(Jaccard above 0.6\)",
    ),
    ("exceedance", topics(12), {"exceedance": 1.0}, "exceedance 1 and k = 8: the first lies between 0 and 1"),
    ("neighbours", topics(12), {"k": 0}, "exceedance 0.1 and k = 0: .*k is at least 1"),
    ("held-out", topics(12), {"held_out": 1}, "pairing held-out documents needs at least 2 documents, the corpus has 1"),
]  # fmt: skip


@pytest.mark.parametrize(("bodies", "fields", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input(bodies: Any, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    cfg = Pair.Config(corpus=corpus(bodies), **{"embedder": Counts.Config(), "exceedance": 0.1, **fields})
    with pytest.raises(BadInput, match=message):
        paired(cfg, tmp_path)


# ---------------------------------------------------------------- drawn pairs


def test_drawn_pairs_have_the_truth_they_were_asked_for(tmp_path: Path) -> None:
    world = ConceptWorld.Config(documents=500, concepts=10)
    labels = world.build().documents("train").labels
    for truth in (0.0, 0.5, 1.0):
        folder = tmp_path / str(truth)
        folder.mkdir()
        DrawnPairs.Config(corpus=world, truth=truth, k=8).build().compute(Workspace(folder, folder))
        found = load_file(folder / "pairs.safetensors")
        first, second = found["first"], found["second"]
        assert (first != second).all()
        assert (np.bincount(first) == 8).all()
        expected = truth + (1 - truth) * 0.1
        assert abs((labels[first] == labels[second]).mean() - expected) < 0.03


def test_drawn_pairs_know_what_they_cannot_know(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="truth is 1, but nobody knows which documents"):
        DrawnPairs.Config(corpus=corpus(topics(20)), truth=1.0).build().compute(Workspace(tmp_path, tmp_path))
    with pytest.raises(BadInput, match="k = 8 partners needs at least 9 documents, the corpus has 5"):
        DrawnPairs.Config(corpus=corpus(topics(5))).build().compute(Workspace(tmp_path, tmp_path))
    with pytest.raises(BadInput, match="pairs of held-out documents needs at least 2 documents, the corpus has 1"):
        DrawnPairs.Config(corpus=corpus(topics(20), topics(1))).build().compute(Workspace(tmp_path, tmp_path))
