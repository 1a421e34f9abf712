"""Quality and novelty: against brute force, with anchors that must come out as they are, and tables of tiny synthesizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbp_tiny_synthesizers import SETTING, corpus, runner, use

from orchard.data.published import published
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments import quality
from orchard.papers.sbp.experiments.quality import RANDOM, REAL, judged
from orchard.papers.sbp.figures import analysis as figures
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.ngrams import duplicates, longest_span, nearest_jaccard, novel_rate
from orchard.papers.sbp.runs.controls import ExactPosterior, _Control
from orchard.papers.sbp.runs.measure import Measure, mean_law, same_concept
from orchard.runs import Store
from toy_sbp import Broken, Copies


def ragged(seed: int, count: int) -> Documents:
    """Documents of 0 to 11 tokens of 4 kinds: much is shared, some are shorter than any n."""
    random = np.random.default_rng(seed)
    return Documents.of([random.integers(4, size=random.integers(12)) for _ in range(count)])


def grams(body: np.ndarray, n: int) -> list[tuple[int, ...]]:
    return [tuple(body[i : i + n].tolist()) for i in range(len(body) - n + 1)]


def shingle_set(body: np.ndarray, n: int) -> set[tuple[int, ...]]:
    """As `shingles`: a document shorter than n is one shingle."""
    return set(grams(body, n)) or ({tuple(body.tolist())} if len(body) else set())


def test_novelty_is_what_brute_force_finds() -> None:
    made, real = ragged(0, 33), ragged(1, 9)
    for n in (2, 5):
        known = {gram for i in range(len(real)) for gram in grams(real[i], n)}
        own = [grams(made[i], n) for i in range(len(made))]
        wanted = [np.mean([gram not in known for gram in found]) if found else np.nan for found in own]
        np.testing.assert_allclose(novel_rate(made, real, n), wanted)
    for n in (2, 5):
        sets = [[shingle_set(docs[i], n) for i in range(len(docs))] for docs in (made, real)]
        best = [max((len(a & b) / len(a | b) if a & b else 0.0) for b in sets[1]) for a in sets[0]]
        np.testing.assert_allclose(nearest_jaccard(made, real, n), best)
    spans = []
    for i in range(len(made)):
        inside = [
            n
            for n in range(1, 12)
            for gram in grams(made[i], n)
            if any(gram in grams(real[j], n) for j in range(len(real)))
        ]
        spans.append(max(inside, default=0))
    assert longest_span(made, real).tolist() == spans


def test_duplicates_are_later_ones_only() -> None:
    a, b = np.arange(12), np.arange(20, 32)
    near = np.append(a[:-1], 99)  # shares 7 of 9 five-grams with a
    found = duplicates(Documents.of([a, b, a, near, a[:6], np.empty(0, np.int64)]))
    assert found.tolist() == [False, False, True, True, False, False]


def test_same_concept_by_hand() -> None:
    first = np.array([[0.9, 0.1], [0.5, 0.5]])
    second = np.array([[1.0, 0.0], [0.2, 0.8], [np.nan, np.nan], [1.0, 0.0]])
    found = same_concept(second, first, np.array([0, 0, 1, -1]))
    np.testing.assert_allclose(found, [0.9, 0.26, 0.0, np.nan])
    assert np.isnan(mean_law(np.empty((0, 3)))).all()


def rates(tmp_path: Path, kind: type[_Control] | None) -> dict[str, float]:
    world = corpus()
    sampled = None if kind is None else kind.Config(corpus=world, tokens=3000)
    real, found = (
        Store(tmp_path).compute(Measure.Config(corpus=world, sampled=made, documents=80, duplicates_at=50), "cpu")
        for made in (None, sampled)
    )
    values, fails = judged(found, real)
    shares = {metric: float(flags.mean()) for metric, flags in fails.items()}
    return (
        shares
        | {"kept": float(values["kept"].mean()), "duplicate": float(values["duplicate_raw"][:50].mean())}
        | ({"random": float((values["same_random"] < 0.5).mean())} if kind is None else {})
    )


def test_anchors(tmp_path: Path) -> None:
    real, exact = rates(tmp_path, None), rates(tmp_path, ExactPosterior)
    copies, broken = rates(tmp_path, Copies), rates(tmp_path, Broken)
    assert real["non-factual"] < 0.1
    assert real["pair-irrelevance"] < 0.1 < 0.6 < real["random"]
    for good in (real, exact):
        assert good["impossible"] == good["pair-copying"] == good["corpus-copying"] == 0
    assert exact["pair-irrelevance"] < 0.15
    assert copies["pair-copying"] == copies["corpus-copying"] == 1
    assert copies["kept"] == 0
    assert copies["pair-irrelevance"] == copies["impossible"] == 0
    assert copies["duplicate"] > 0.2
    assert broken["impossible"] == broken["non-factual"] == broken["pair-irrelevance"] == 1


def test_in_a_world_without_information_every_pair_is_irrelevant(tmp_path: Path) -> None:
    world = corpus("indep")
    found = Store(tmp_path).compute(Measure.Config(corpus=world, documents=40, duplicates_at=40), "cpu")
    values, fails = judged(found, found)
    np.testing.assert_allclose(values["same"], 1 / 5)
    assert fails["pair-irrelevance"].all()


@pytest.mark.parametrize("variant", ["hier", "facts"])
def test_anchors_of_other_worlds(tmp_path: Path, variant: str) -> None:
    world = ConceptWorld.Config(variant=variant, concepts=8, words=64, content=16, documents=60, pool=5, held_out=60)
    made = ExactPosterior.Config(corpus=world, tokens=3000)
    real, exact = (
        Store(tmp_path).compute(Measure.Config(corpus=world, sampled=sampled, documents=90, duplicates_at=60), "cpu")
        for sampled in (None, made)
    )
    values, fails = judged(exact, real)
    assert not fails["impossible"].any()
    assert fails["pair-irrelevance"].mean() < 0.15
    assert (real.tensors("measured")["same_random"].numpy() < 0.5).mean() > 0.6
    assert np.isfinite(values["span"]).all()


def test_tables_and_figures(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    run = runner(tmp_path_factory.getbasetemp())
    table = quality.quality(SETTING, run)
    assert table.groupby(["variant", "seed", "source", "state", "metric"]).size().max() == 1
    assert set(table.loc[table["source"] == "uncond", "metric"]).isdisjoint(quality.PAIRED)
    assert set(table.loc[table["source"] == RANDOM, "metric"]) == {"pair-irrelevance", "pair-copying"}
    shown = table.dropna(subset="rate")
    assert ((shown["low"] <= shown["rate"]) & (shown["rate"] <= shown["high"])).all()
    novel = quality.novelty(SETTING, run)
    assert set(novel["measure"]) == set(quality.MEASURES)
    assert (novel.loc[(novel["source"] == REAL) & (novel["measure"] == "length"), "mean"] == 16).all()
    by_size = quality.quality_by_size(SETTING, run)
    assert by_size["steps"].unique().tolist() == [3, 6]
    assert by_size.groupby("metric")["flops"].is_monotonic_increasing.all()
    paper = published("sbp")
    drawn = [
        figures.quality_rates(table, paper), figures.novelty_of_sources(novel), figures.quality_against_size(by_size, paper)
    ]  # fmt: skip
    for figure in drawn:
        figure.draw_without_rendering()
