"""Pretraining: losses against a naive loop, padding, dropout, and equal numbers after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_recipe import two_steps
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Documents, Symbols, document_batch
from orchard.papers.sbp.runs.mix import MixBatches
from orchard.papers.sbp.runs.pretrain import document_nll, in_parts, load_pretrained
from orchard.runs import Store
from orchard.train.losses import counted_losses
from toy_sbp import Ragged, model, pretrained, thin

S = Symbols(12, bos=0, eos=1, sep=2, pad=3)


def built(dropout: float = 0.0) -> Decoder:
    made: Decoder = model(dropout).set(vocab_size=12).build()
    with torch.no_grad():
        made.embedding.weight.mul_(30)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("pretrain"))


@torch.no_grad()
def test_document_nll_is_that_of_a_loop_over_documents_and_tokens() -> None:
    decoder, documents = built().eval(), Ragged.Config(count=9).build().documents("train")
    expected = []
    for i in range(len(documents)):
        logs = decoder(torch.tensor([[S.bos, *documents[i].tolist()]]))[0].double().log_softmax(-1)
        expected.append(-sum(float(logs[t, token]) for t, token in enumerate([*documents[i].tolist(), S.eos])))
    assert document_nll(decoder, documents, S) == pytest.approx(expected, rel=1e-5)


def test_padding_never_changes_a_loss_nor_a_gradient() -> None:
    documents = Documents.of([[4, 5], [6, 7, 8, 9, 10, 11, 4, 5]])
    narrow, wide = document_batch(documents.head(1), S), document_batch(documents, S)
    decoder, gradients = built(), []
    for batch, other in [(narrow, S.pad), (wide, S.pad), (wide, 9)]:
        tokens = batch.tokens[:1].clone()
        tokens[:, 4:] = other  # whatever stands after the end
        decoder.zero_grad()
        losses = counted_losses(decoder, tokens, batch.counts[:1])
        losses.sum().backward()
        gradients.append((losses.detach(), [p.grad.clone() for p in decoder.parameters() if p.grad is not None]))
    for losses, grads in gradients[1:]:
        torch.testing.assert_close(losses, gradients[0][0])
        for found, expected in zip(grads, gradients[0][1], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_dropout_is_on_in_training_and_off_where_documents_are_scored() -> None:
    decoder, documents = built(0.5).train(), Ragged.Config(count=5).build().documents("train")
    plain = built(0.0)
    plain.load_state_dict(decoder.state_dict())
    assert np.array_equal(document_nll(decoder, documents, S), document_nll(plain, documents, S))
    assert decoder.training
    batch = document_batch(documents, S)
    assert not torch.equal(
        counted_losses(decoder, batch.tokens, batch.counts), counted_losses(decoder, batch.tokens, batch.counts)
    )


def test_long_documents_are_scored_in_parts_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, documents = built().eval(), Ragged.Config(count=11).build().documents("train")
    whole = document_nll(decoder, documents, S)
    monkeypatch.setattr("orchard.papers.sbp.runs.pretrain.SCORED_AT_ONCE", 30)
    assert len(in_parts(documents.lengths)) == 6
    assert document_nll(decoder, documents, S) == pytest.approx(whole, rel=1e-6)
    assert len(document_nll(decoder, documents.take([]), S)) == 0


def test_a_run_counts_every_token_of_its_budget(store: Store) -> None:
    cfg = pretrained()
    done = store.compute(cfg, "cpu")
    steps = MixBatches(cfg.mix, store.compute(cfg.mix), None)
    assert sum(int(steps.step(i).counts.sum()) for i in range(len(steps))) == cfg.mix.budget == done.result["tokens"]
    scores = done.tensors("eval")
    assert scores["step"].tolist() == [5, 10, 12]
    assert done.result["last"]["step"] == 12
    best = int(scores["validation"].mean(dim=1).argmin())
    assert done.result["best"]["loss"] == pytest.approx(float(scores["test"][best].double().mean()), rel=1e-6)
    decoder = load_pretrained(done, cfg)
    test = Ragged.Config().build().documents("test").head(10)
    assert scores["test"][-1].numpy() == pytest.approx(document_nll(decoder, test, S), rel=1e-5)


def test_two_steps_of_a_gpu(tmp_path: Path) -> None:
    losses = two_steps(pretrained(steps=2, budget=200), tmp_path, compile=False).metrics()["loss"]
    assert losses[1] < losses[0]


def test_two_compiled_steps_of_ragged_documents(tmp_path: Path) -> None:
    """Off unless it is asked for, since lengths differ from step to step. What a step traces besides the layers is looked at here."""
    cfg = pretrained(steps=2, budget=200)
    cfg.model.layers = [thin(layer) for layer in cfg.model.layers]
    losses = two_steps(cfg, tmp_path).metrics()["loss"]
    assert losses[1] < losses[0]


def test_batches_are_not_accumulated() -> None:
    cfg = pretrained()
    with pytest.raises(BadInput, match=r"Pretrain.Config.accumulate is 2: a step is one of the mixture, leave it at 1"):
        cfg.set(accumulate=2).build()
