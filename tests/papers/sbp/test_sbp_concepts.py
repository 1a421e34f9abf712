"""Concepts of samples: the implied law and its divergence by hand and by scipy, drift, distances, verdicts both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sbp_tiny_synthesizers import SETTING, TINY, corpus, runner, tiny, use
from scipy.stats import entropy

from orchard.claims import decide, load_claims
from orchard.errors import BadInput
from orchard.papers.sbp.experiments import concepts, pairs
from orchard.papers.sbp.figures import analysis as figures
from orchard.papers.sbp.runs.concepts import divergence, implied_law
from orchard.papers.sbp.runs.synthesise import Draws, prompts, sampled_documents, seed_numbers
from orchard.runs import Finished, Workspace
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("sbp"))}


def test_implied_law_leaves_out_what_is_impossible() -> None:
    prior = np.array([0.5, 0.5])
    samples = np.array([[[1.0, 0.0], [np.nan, np.nan], [1.0, 0.0]], [[np.nan, np.nan]] * 3])
    law, possible = implied_law(samples, prior)
    np.testing.assert_allclose(law, [[2.5 / 3, 0.5 / 3], [0.5, 0.5]])
    np.testing.assert_allclose(possible, [2 / 3, 0.0])


def test_divergence_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.ones(7), size=5), random.dirichlet(np.ones(7), size=5)
    p[0, 0], p[0, 1] = 0.0, p[0, 1] + p[0, 0]
    np.testing.assert_allclose(divergence(p, q), entropy(p, q, axis=1))
    np.testing.assert_allclose(divergence(p, p), 0, atol=1e-12)


def test_seeds_and_prompts() -> None:
    documents = corpus().build().documents("test")
    numbers = seed_numbers(documents, 7, 3)
    assert len(set(numbers.tolist())) == 7
    assert numbers.tolist() == seed_numbers(documents, 7, 3).tolist()
    with pytest.raises(BadInput, match="46 seed documents of 45: ask for fewer seeds"):
        seed_numbers(documents, 46, 0)
    symbols = corpus().build().symbols
    asked = prompts(documents, numbers[:2], symbols, alone=False)
    assert asked[0].tolist() == [symbols.bos, *documents[numbers[0]].tolist(), symbols.sep, symbols.bos]
    assert [prompt.tolist() for prompt in prompts(documents, numbers[:2], symbols, alone=True)] == [[symbols.bos]] * 2


def test_draws_repeat(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    study, run = tiny(), runner(tmp_path_factory.getbasetemp())
    cfg = Draws.Config(tuned=study.tune(study.pairs("sbp-random"), "random"), seeds=3, each=5)
    work = Workspace(tmp_path, tmp_path, "cpu", finished=lambda need: run([need])[0])
    first = run([cfg])[0]
    cfg.build().compute(work)
    documents, seeds, *_ = sampled_documents(first)
    assert len(documents) == 15
    assert np.unique(seeds, return_counts=True)[1].tolist() == [5, 5, 5]
    np.testing.assert_array_equal(documents.tokens, sampled_documents(Finished(tmp_path))[0].tokens)


def test_laws_of_tiny_synthesizers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "dep")
    run = runner(tmp_path_factory.getbasetemp())
    table = concepts.concept_law(SETTING, run)
    assert table.groupby("arm").size().eq(TINY.seeds).all()
    assert (table["samples"] == TINY.each).all()
    mean = table.groupby("arm")["kl"].mean()
    assert 0 <= mean["exact"] < mean["uncond"]
    assert (table.loc[table["arm"] == "exact", "possible"] == 1).all()
    laws = concepts.laws_of_one_seed(SETTING, run)
    np.testing.assert_allclose(laws.groupby(["arm", "document"])[["posterior", "implied"]].sum(), 1)
    figures.concept_divergence(table).draw_without_rendering()
    figures.concepts_of_seed(laws, 1).draw_without_rendering()

    drifted = concepts.drift(SETTING, run)
    shares = drifted.groupby("arm")[["real", "pairs", "raw"]].sum(min_count=1)
    np.testing.assert_allclose(shares["real"], 1)
    np.testing.assert_allclose(shares.loc["sbp-random", "pairs"], 1)
    assert np.isnan(shares.loc["uncond", "pairs"])
    summary = concepts.drift_summary(drifted).set_index("arm")
    assert summary.loc["exact-posterior", "moved"] < 0.2
    figures.concept_drift(drifted, ["sbp-random", "uncond"]).draw_without_rendering()

    near = pairs.closeness(SETTING, run)
    middle = near.groupby(["embedder", "kind"])["cosine"].median().unstack("embedder")
    assert (near["cosine"].abs() <= 1 + 1e-5).all()
    assert (middle.loc[pairs.TRUE] > middle.loc[pairs.ANY]).all()
    assert middle.loc["exact-posterior", "TF-IDF"] > middle.loc[pairs.ANY, "TF-IDF"]
    figures.distances(near).draw_without_rendering()


@pytest.mark.parametrize(("sign", "correlation"), [(1, 1.0), (-1, -1.0)])
def test_drift_by_hand(sign: int, correlation: float) -> None:
    real, pushed = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.0, -0.1])
    table = pd.DataFrame(
        {"real": real, "pairs": real + pushed, "raw": real + sign * pushed / 2, "kept": real + sign * pushed / 2}
    )
    table = table.assign(variant="dep", world=0, seed=0, arm="sbp-nn-lm")
    row = concepts.drift_summary(table).iloc[0]
    assert row["correlation"] == pytest.approx(correlation)
    assert row["by_pairs"] == pytest.approx(0.1)
    assert row["moved"] == pytest.approx(0.05)
    assert row["by_rules"] == 0
    without = concepts.drift_summary(table.assign(pairs=np.nan)).iloc[0]
    assert np.isnan(without["correlation"])
    assert np.isnan(without["by_pairs"])


def law_table(own: float, alone: float) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "document": d, "arm": arm, "kl": value + random.normal(0, 0.1)}
        for seed in range(3) for d in range(20) for arm, value in (("sbp-nn-lm", own), ("uncond", alone))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("own", "alone", "verdict"), [(1.0, 3.0, "supported"), (3.0, 1.0, "refuted"), (2.0, 2.0, "inconclusive")]
)
def test_k5_both_ways(own: float, alone: float, verdict: str) -> None:
    evidence = concepts.follows_posterior(lambda name: law_table(own, alone))
    assert len(evidence) == 60
    assert decide(CLAIMS["K5"], evidence, "gpu").verdict == verdict
    assert decide(CLAIMS["K5"], evidence, "smoke").verdict == "out of reach here"
