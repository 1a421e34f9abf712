"""Concepts of samples: the implied law and its divergence by hand and by scipy, drift."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sbp_tiny_synthesizers import SETTING, TINY, corpus, runner, use
from scipy.stats import entropy

from orchard.errors import BadInput
from orchard.papers.sbp.experiments import concepts
from orchard.papers.sbp.figures import analysis as figures
from orchard.papers.sbp.runs.concepts import divergence, implied_law
from orchard.papers.sbp.runs.synthesise import prompts, seed_numbers


def test_impossible_samples_are_of_no_concept() -> None:
    prior = np.array([0.5, 0.5])
    samples = np.array([[[1.0, 0.0], [np.nan, np.nan], [1.0, 0.0]], [[np.nan, np.nan]] * 3])
    law, possible = implied_law(samples, prior)
    np.testing.assert_allclose(law, [[2.5 / 4, 0.5 / 4], [0.5 / 4, 0.5 / 4]])
    np.testing.assert_allclose(possible, [2 / 3, 0.0])


def test_garbage_is_further_from_a_posterior_than_samples_of_the_prior() -> None:
    """64 samples of 16 concepts: without a possible one the divergence is that of the prior and ln 65 more."""
    posterior, prior = np.eye(16)[:1], np.full(16, 1 / 16)
    of_prior = np.eye(16)[np.random.default_rng(0).integers(16, size=(1, 64))]
    nothing = np.full((1, 64, 16), np.nan)
    kl = {
        name: divergence(posterior, implied_law(made, prior)[0])[0]
        for name, made in (("prior", of_prior), ("nothing", nothing))
    }
    assert kl["nothing"] == pytest.approx(np.log(16) + np.log(65))
    assert kl["prior"] < np.log(16) + 1 < kl["nothing"]


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


def test_laws_of_tiny_synthesizers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    run = runner(tmp_path_factory.getbasetemp())
    table = concepts.concept_law(SETTING, run)
    assert table.groupby("arm").size().eq(TINY.seeds).all()
    assert (table["samples"] == TINY.each).all()
    mean = table.groupby("arm")["kl"].mean()
    assert 0 <= mean["exact"] < mean["uncond"]
    assert (table.loc[table["arm"] == "exact", "possible"] == 1).all()
    figures.concept_divergence(table).draw_without_rendering()

    drifted = concepts.drift(SETTING, run)
    shares = drifted.groupby("arm")[["real", "pairs", "raw"]].sum(min_count=1)
    np.testing.assert_allclose(shares["real"], 1)
    np.testing.assert_allclose(shares.loc["sbp-random", "pairs"], 1)
    assert np.isnan(shares.loc["uncond", "pairs"])
    summary = concepts.drift_summary(drifted).set_index("arm")
    assert summary.loc["exact-posterior", "moved"] < 0.2
    figures.concept_drift(drifted, ["sbp-random", "uncond"]).draw_without_rendering()


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
