"""Ensembles and distillation: probabilities are averaged, the distilled model learns, from real runs at a handful of documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchard.papers.sbp.experiments import ablations
from orchard.papers.sbp.experiments.arms import Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.method.documents import document_batch
from orchard.papers.sbp.method.models import decoder
from orchard.papers.sbp.runs.ensemble import Ensemble, ensemble_nll, mean_probabilities
from orchard.papers.sbp.runs.pretrain import document_nll
from orchard.runs import Setting, Store
from sbp_runs import tiny


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setitem(PROFILES, "smoke", tiny())
    return study(Setting("smoke"), Cell("dep", 0, 0), tiny().start)


def test_probabilities_are_averaged_not_losses(world: Study) -> None:
    corpus = world.corpus.build()
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(decoder(world.size, 0.0, corpus.symbols.vocab_size).build().eval())
    documents = corpus.documents("test").take([3, 0, 7])
    one = document_nll(models[0], documents, corpus.symbols)
    assert ensemble_nll(models[:1], documents, corpus.symbols) == pytest.approx(one)
    assert ensemble_nll([models[0], models[0]], documents, corpus.symbols) == pytest.approx(one)
    both = ensemble_nll(models, documents, corpus.symbols)
    average = (one + document_nll(models[1], documents, corpus.symbols)) / 2
    assert (both < average).all()  # the logarithm is concave
    batch = document_batch(documents, corpus.symbols)
    law = mean_probabilities(models, batch)
    assert law.sum(dim=-1).allclose(torch.ones(len(law)))
    target = batch.tokens[:, 1:][batch.counts]
    by_hand = -law[torch.arange(len(law)), target].log()
    assert float(by_hand.sum()) == pytest.approx(both.sum(), rel=1e-5)


def test_a_distilled_model_from_real_runs(world: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    members = [world.repetition(), world.with_(seed=1).repetition()]
    ensemble = store.compute(Ensemble.Config(members=members, eval_documents=10), "cpu")
    assert ensemble.result["members"] == 2
    assert ensemble.tensors("eval")["test"].shape == (1, 10)
    cfg = ablations.distilled(world, members)
    done = store.compute(cfg, "cpu")
    hard = store.compute(cfg.clone().set(weight=0.0), "cpu")
    same = store.compute(world.repetition(), "cpu")
    assert np.isfinite(done.result["last"]["loss"])
    assert hard.result["last"] == same.result["last"]  # without the teachers it is repetition
    assert done.result["last"]["loss"] != same.result["last"]["loss"]
    assert done.tensors("model").keys() == same.tensors("model").keys()  # the teachers are no part of it
