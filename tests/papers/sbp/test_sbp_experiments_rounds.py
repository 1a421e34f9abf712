"""Rounds of bootstrapping: what each begins with, measures of collapse by hand, two real rounds."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments import rounds
from orchard.papers.sbp.experiments.arms import Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.method.documents import Documents
from orchard.runs import Run, Setting
from sbp_runs import tiny

SETTING = Setting("smoke")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    profile = tiny()
    monkeypatch.setitem(PROFILES, "smoke", profile)
    return study(SETTING, Cell("dep", 0, 0))


def alike(first: Run.Config, second: Run.Config) -> bool:
    """The same run: labels do not count."""
    return first.fingerprint() == second.fingerprint()


def test_each_round_begins_with_the_model_of_the_one_before(small: Study) -> None:
    zero, one, two, three = rounds.rounds_of(small, 3)
    assert zero.kept is None
    assert alike(zero.model, small.repetition())
    assert alike(one.model, small.arm("sbp-nn-lm"))
    for before, after in ((zero, one), (one, two), (two, three)):
        assert alike(after.kept, after.model.mix.synthetic)
        tuned = after.kept.sampled.tuned
        assert alike(tuned.pretrained, before.model)
        assert alike(tuned.pairs.embedder.pretrained, before.model)
        assert not alike(after.model, before.model)
        assert after.model.model == zero.model.model
        assert after.model.mix.budget == zero.model.mix.budget


def test_distinct_by_hand() -> None:
    assert rounds.distinct(Documents.of([[1, 2, 3, 4], [1, 2, 3]])) == pytest.approx(2 / 3)  # 123, 234, 123
    assert rounds.distinct(Documents.of([[1, 2], [3, 4, 5]])) == 1  # nothing across the end of a document
    assert rounds.distinct(Documents.of([[1], [1], [1], [2]]), n=1) == 0.5
    assert np.isnan(rounds.distinct(Documents.of([[1, 2], [3]])))
    assert np.isnan(rounds.distinct(Documents.of([[1]])))


def test_fewer_concepts_have_less_entropy() -> None:
    corpus: ConceptWorld = ConceptWorld.Config(concepts=8, words=64, content=20, documents=400, pool=1).build()
    documents = corpus.documents("train")
    every = rounds.diversity(documents, corpus.world)
    assert every["entropy"] == pytest.approx(np.log(8), abs=0.05)
    assert every["well_formed"] == 1
    one = rounds.diversity(documents.take(np.flatnonzero(documents.labels == 3)), corpus.world)
    assert one["entropy"] < 0.5
    assert one["distinct"] < every["distinct"]
    broken = Documents.of([documents[0], documents[1][:5]])
    assert rounds.diversity(broken, corpus.world)["well_formed"] == 0.5
    nothing = rounds.diversity(Documents.of([documents[1][:1]]), corpus.world)
    assert np.isnan(nothing["entropy"])
    whole = rounds.word_posterior(documents, corpus.world)
    assert np.allclose(
        whole, corpus.world.posterior(documents)
    )  # function tokens and genre tell nothing of the concept
