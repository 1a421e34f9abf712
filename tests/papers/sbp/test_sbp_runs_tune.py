"""Tuning: what is in the loss, which weights are kept, and -log p(d2 | d1) token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_recipe import two_steps
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Batch, Documents, Symbols, pair_batch
from orchard.papers.sbp.runs.pretrain import document_nll, load_pretrained, pair_nll
from orchard.papers.sbp.runs.tune import TuningSequences, load_synthesizer, pairs_of
from orchard.runs import Finished, Store
from orchard.train.losses import counted_losses
from toy_sbp import Ragged, model, pretrained, tuned

S = Symbols(12, bos=0, eos=1, sep=2, pad=3)
FIRST, SECOND = Documents.of([[4, 5, 6], [], [7, 8], [9]]), Documents.of([[6, 7], [4], [], [5, 6, 7, 8]])


def built(dropout: float = 0.0) -> Decoder:
    made: Decoder = model(dropout).set(vocab_size=12).build()
    with torch.no_grad():
        made.embedding.weight.mul_(30)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(scope="module")
def done(store: Store) -> Finished:
    return store.compute(tuned(), "cpu")


def naive(decoder: Decoder, prefix: list[int], body: list[int]) -> float:
    """- log p(body eos | prefix), one forward pass per token."""
    total, seen = 0.0, list(prefix)
    for token in [*body, S.eos]:
        with torch.no_grad():
            total -= float(decoder(torch.tensor([seen]))[0, -1].double().log_softmax(-1)[token])
        seen.append(token)
    return total


def test_pair_nll_is_a_sum_over_the_tokens_of_the_second_document() -> None:
    decoder = built().eval()
    expected = [
        naive(decoder, [S.bos, *FIRST[i].tolist(), S.sep, S.bos], SECOND[i].tolist()) for i in range(len(FIRST))
    ]
    assert pair_nll(decoder, FIRST, SECOND, S) == pytest.approx(expected, rel=1e-5)
    alone = [naive(decoder, [S.bos], SECOND[i].tolist()) for i in range(len(SECOND))]
    assert document_nll(decoder, SECOND, S) == pytest.approx(alone, rel=1e-5)


def test_only_inputs_of_the_second_document_and_its_past_get_a_gradient() -> None:
    """By hand: the loss is that of d2 and eos. Changing what a target is elsewhere changes nothing, and the logits before the first
    token of d2, which predict d1, the separator and the second bos, get no gradient."""
    decoder = built()
    batch = pair_batch(FIRST.head(1), SECOND.head(1), S)  # bos 4 5 6 sep bos 6 7 eos: targets at 5, 6, 7
    features = decoder.features(batch.tokens[:, :-1]).detach().requires_grad_()
    logits = decoder.logits(features)
    logits.retain_grad()
    loss = torch.nn.functional.cross_entropy(logits[batch.counts], batch.tokens[:, 1:][batch.counts], reduction="sum")
    loss.backward()
    assert logits.grad is not None
    assert torch.nonzero(logits.grad[0].abs().sum(-1)).flatten().tolist() == [5, 6, 7]
    assert counted_losses(decoder, batch.tokens, batch.counts).sum().item() == pytest.approx(loss.item(), rel=1e-5)
    for place, wrong in [(5, 3), (8, 4)]:  # the second bos as a target does not matter, eos does
        other = batch.tokens.clone()
        other[0, place] = wrong
        targets = Batch(torch.cat([batch.tokens[:, :1], other[:, 1:]], dim=1), batch.counts)
        logits_now = decoder.logits(decoder.features(batch.tokens[:, :-1]))[batch.counts]
        now = torch.nn.functional.cross_entropy(logits_now, targets.tokens[:, 1:][batch.counts], reduction="sum")
        assert (now.item() == pytest.approx(loss.item(), rel=1e-5)) == (place == 5)


def test_the_weights_with_the_smallest_held_out_loss_are_kept(store: Store, done: Finished) -> None:
    curve = dict(map(tuple, done.result["curve"]))
    assert list(curve) == [0, 4, 8, 12, 14]
    assert done.result["loss"] == min(curve.values()) == curve[done.result["best_step"]]
    assert done.result["loss_before"] == curve[0]
    cfg = tuned()
    assert cfg.pairs is not None
    check = TuningSequences(
        Ragged.Config().build().documents("validation"), pairs_of(store.compute(cfg.pairs), "held_out"), S
    ).some(cfg.held_out, cfg.seed)
    assert check.nll(load_synthesizer(done, cfg)) == pytest.approx(done.result["loss"], abs=1e-6)


def test_tuning_that_only_does_harm_keeps_what_it_began_with(store: Store) -> None:
    cfg = tuned(steps=6, label="harm")
    cfg.optim.learning_rate = 3.0
    done = store.compute(cfg, "cpu")
    assert done.result["best_step"] == 0
    start = load_pretrained(store.compute(cfg.pretrained), cfg.pretrained)
    weights = load_synthesizer(done, cfg).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in start.state_dict().items())


def test_from_scratch_begins_with_new_weights_and_without_pairs_with_documents(store: Store) -> None:
    scratch = store.compute(tuned(scratch=True, label="scratch"), "cpu").result
    alone = store.compute(tuned(pairs=None, label="alone"), "cpu").result
    before = store.compute(tuned(), "cpu").result["loss_before"]
    assert scratch["loss_before"] == pytest.approx(np.log(12) * 5.5, rel=0.25)  # about uniform over 12 symbols
    assert abs(scratch["loss_before"] - before) > 1e-3
    documents = Ragged.Config().build().documents("validation")
    model_ = load_pretrained(store.compute(pretrained(), "cpu"), pretrained())
    assert alone["loss_before"] == pytest.approx(document_nll(model_, documents, S).mean(), rel=1e-5)
    assert alone["sequences"] == 24


def test_without_held_out_pairs_tuning_says_so(store: Store) -> None:
    with pytest.raises(BadInput, match="no pair of held-out documents"):
        store.compute(tuned(held_out=0), "cpu")


def test_two_steps_of_a_gpu_and_the_pretraining_before_them(tmp_path: Path) -> None:
    losses = two_steps(tuned(pretrained=pretrained(steps=2, budget=200)), tmp_path, compile=False).metrics()["loss"]
    assert losses[1] < losses[0]
