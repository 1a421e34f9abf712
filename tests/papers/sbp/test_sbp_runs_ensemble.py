"""An ensemble averages probabilities, token by token, not losses; a distilled model learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_recipe import two_steps
from orchard.config import derive
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.documents import document_batch
from orchard.papers.sbp.method.models import Size, decoder
from orchard.papers.sbp.runs.ensemble import Distill, Ensemble, ensemble_nll
from orchard.papers.sbp.runs.pretrain import load_pretrained
from orchard.runs import Store, Workspace
from toy_sbp import Ragged, model, pretrained


def distilled(**fields: Any) -> Distill.Config:
    """The pretraining of the toy, taught by itself and by another seed."""
    own = pretrained(dropout=0.1)
    made: Distill.Config = derive(own, Distill, teachers=[own, own.clone().set(seed=1)], **fields)
    return made


def test_probabilities_are_averaged_not_losses() -> None:
    corpus = ConceptWorld.Config(concepts=3, words=12, content=4, documents=24, held_out=10).build()
    symbols, models = corpus.symbols, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(decoder(Size(8, 1, 1, 1, 12), 0.0, symbols.vocab_size).build().eval())
    documents = corpus.documents("test").take([3, 0, 7])
    batch = document_batch(documents, symbols)
    target = batch.tokens[:, 1:][batch.counts]
    with torch.no_grad():
        laws = [model(batch.tokens[:, :-1])[batch.counts].softmax(dim=-1).double() for model in models]
    for members, law in ((models[:1], laws[0]), ([models[0]] * 2, laws[0]), (models, (laws[0] + laws[1]) / 2)):
        by_hand = -law[torch.arange(len(law)), target].log()
        assert float(by_hand.sum()) == pytest.approx(ensemble_nll(members, documents, symbols).sum(), rel=1e-5)


def test_a_distilled_model_from_real_runs(tmp_path: Path) -> None:
    store, cfg = Store(tmp_path), distilled()
    ensemble = store.compute(Ensemble.Config(members=cfg.teachers, eval_documents=10), "cpu")
    assert ensemble.result["members"] == 2
    assert ensemble.tensors("eval")["test"].shape == (1, 10)
    done, hard, same = (store.compute(one, "cpu") for one in (cfg, distilled(weight=0.0), cfg.teachers[0]))
    assert np.isfinite(done.result["last"]["loss"])
    assert hard.result["last"] == same.result["last"]  # without the teachers it is repetition
    assert done.result["last"]["loss"] != same.result["last"]["loss"]
    assert done.tensors("model").keys() == same.tensors("model").keys()  # the teachers are no part of it


def test_the_loss_of_distillation_by_hand(tmp_path: Path) -> None:
    store, cfg = Store(tmp_path), distilled(weight=0.3)
    corpus = Ragged.Config().build()
    documents = document_batch(corpus.documents("test").head(5), corpus.symbols)
    tokens, counts = documents.tokens, documents.counts
    student = model().set(vocab_size=corpus.symbols.vocab_size).build()
    teachers = [load_pretrained(store.compute(one, "cpu"), one) for one in cfg.teachers]
    work = Workspace(tmp_path, tmp_path, "cpu", finished=lambda one: store.compute(one, "cpu"))
    loss = cfg.build().loss(work)(student, {"tokens": tokens, "counts": counts})
    nats = []
    for row, place in counts.nonzero().tolist():
        before = tokens[row : row + 1, : place + 1]
        own, *laws = (one(before)[0, -1].softmax(dim=-1) for one in (student, *teachers))
        nats.append(-0.7 * own[tokens[row, place + 1]].log() - 0.3 * ((laws[0] + laws[1]) / 2 * own.log()).sum())
    torch.testing.assert_close(loss, torch.stack(nats).mean())


def test_two_steps_of_a_gpu(tmp_path: Path) -> None:
    short = pretrained(steps=2, budget=200)
    losses = two_steps(derive(short, Distill, teachers=[short]), tmp_path, compile=False).metrics()["loss"]
    assert losses[1] < losses[0]
