"""The run behind RULER-lite: resuming, scoring against real decoding, equal examples for all arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpu_recipe import two_steps
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.rattention.data.ruler_tokens import VOCAB_SIZE, Examples, generate
from orchard.papers.rattention.method.models import arm
from orchard.papers.rattention.runs import ruler as ruler_run
from orchard.papers.rattention.runs.ruler import (
    TEST,
    TrainingBatches,
    TrainRuler,
    answer_losses,
    examples,
    found,
    score,
)
from orchard.runs import Workspace
from orchard.train import choose

PAIR = ["niah_multikey_1", "fwe", "kv_overwrite"]


def tiny(name: str = "rattn@8", **fields: Any) -> TrainRuler.Config:
    decoder = arm(name, dim=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=32, vocab_size=2)
    settings: dict[str, Any] = {
        "tasks": PAIR, "needles": "pair", "length": 96, "batch_size": 6, "steps": 9, "log_every": 1, "validate_every": 4,
        "validation_examples": 1, "test_examples": 1, "multiples": [1, 2], "checkpoint_every": 3,
    }  # fmt: skip
    return TrainRuler.Config(model=decoder, **(settings | fields))


def compute(cfg: TrainRuler.Config, folder: Path) -> dict[str, Any]:
    for name in ("files", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return cfg.clone().build().compute(Workspace(folder / "files", folder / "checkpoints", "cpu"))


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compute(tiny(), tmp_path / "whole")
    honest, calls = ruler_run.answer_losses, []

    def dies(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:  # step 6: after the checkpoint of step 3
            raise RuntimeError("killed")
        return honest(*args)

    monkeypatch.setattr(ruler_run, "answer_losses", dies)
    with pytest.raises(RuntimeError, match="killed"):
        compute(tiny(), tmp_path / "broken")
    assert compute(tiny(), tmp_path / "broken") == whole
    assert len(calls) == 6 + 6  # goes on at step 3
    for file in ("model.safetensors", "eval.safetensors", "metrics.jsonl"):
        assert (tmp_path / "broken" / "files" / file).read_bytes() == (tmp_path / "whole" / "files" / file).read_bytes()


def test_two_steps_of_a_gpu(tmp_path: Path) -> None:
    """In bf16, with a fused optimizer and clipping."""
    two_steps(tiny(tasks=["fwe"], batch_size=2, multiples=[1]), tmp_path, compile=False)


def test_every_arm_runs_at_eight_times_its_length_on_equal_tokens(tmp_path: Path) -> None:
    arms = ["full_rope", "full_rnope", "la", "swa@8", "swa_mem@8", "rattn@8"]
    results, needles = [], []
    for name in arms:
        cfg = tiny(name, steps=1, multiples=[8], tasks=["niah_multikey_1"], batch_size=2, validation_examples=1)
        results.append(compute(cfg, tmp_path / name))
        columns = load_file(tmp_path / name / "files" / "eval.safetensors")
        assert columns["correct"].shape == (6,)  # one sequence, 6 questions
        assert set(columns["length"].tolist()) == {8 * 96}
        needles.append(columns["distance"])
    assert len({result["tokens"] for result in results}) == 1
    assert all(torch.equal(needles[0], other) for other in needles)
    gains = 2 * 2 * 8 * 3  # two RMS gains of heads x head_dim in each of three local layers
    assert results[5]["parameters"] == results[3]["parameters"] + gains


def test_test_sequences_do_not_depend_on_the_arm_and_streams_never_meet() -> None:
    one, other = tiny("full_rope"), tiny("rattn@8")
    for task in PAIR:
        made = [examples(cfg, TEST, task, 96, 4).tokens for cfg in (one, other)]
        assert np.array_equal(*made)
        fresh = examples(one, ruler_run.VALIDATION, task, 96, 4).tokens
        assert not np.array_equal(made[0], fresh)
        assert not np.array_equal(made[0], examples(tiny(seed=1), TEST, task, 96, 4).tokens)


def test_batches_have_equal_shares_and_lengths_between_half_and_whole() -> None:
    stream = TrainingBatches(tiny(steps=200))
    lengths = [stream.length_of(i) for i in range(200)]
    assert min(lengths) == 48
    assert max(lengths) == 96
    batch = stream.batch(np.array([3]))
    again = stream.batch(np.array([3]))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert batch["tokens"].shape == (6, lengths[3] + 1)
    assert batch["weight"].sum().item() == pytest.approx(1)
    by_row = torch.zeros(6).index_add(0, batch["row"], batch["weight"])
    assert torch.allclose(by_row, torch.full((6,), 1 / 6))


def test_the_loss_is_on_answers_alone() -> None:
    batch = TrainingBatches(tiny()).batch(np.array([0]))
    net = Decoder.Config(vocab_size=VOCAB_SIZE["pair"], dim=8, layers=[Block.Config(
        attention=Attention.Config(num_heads=1), feed_forward=FeedForward.Config(hidden_dim=8))]).build()  # fmt: skip
    logits = net(batch["tokens"][:, :-1]).log_softmax(-1)
    target = batch["tokens"][:, 1:]
    dense = -logits.gather(-1, target[..., None])[..., 0]
    assert torch.allclose(answer_losses(net, batch), dense[batch["row"], batch["column"]], atol=1e-5)
    answered = target[batch["row"], batch["column"]]
    assert (answered >= 15).all()  # no marker, separator or beginning of a sequence is an answer


def network(needles: str) -> Decoder:
    torch.manual_seed(1)
    layer = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=32))
    net: Decoder = Decoder.Config(vocab_size=VOCAB_SIZE[needles], dim=32, layers=[layer, layer.clone()]).build()
    return net.eval()


@pytest.mark.parametrize("task", ["niah_multikey_1", "niah_multikey_3", "kv_overwrite"])
def test_teacher_forcing_scores_an_answer_as_greedy_decoding_does(task: str) -> None:
    """In one of two sequences the true answers are replaced by what the model says, so that both outcomes occur."""
    part, net = generate(task, np.random.default_rng(0), 2, 220), network("words")
    tokens = part.tokens.copy()
    for start in part.answers[0]:
        said = net.generate(torch.from_numpy(tokens[:1, :start]), part.size)
        tokens[0, start : start + part.size] = said[0, start:]
    rigged = Examples(task, tokens, part.answers, part.size, part.items, part.needles, part.tail)
    decoded = np.array([
        [bool((net.generate(torch.from_numpy(row[None, :start]), part.size)[0, start:].numpy() == row[start : start + part.size]).all())
         for start in starts] for row, starts in zip(tokens, part.answers, strict=True)
    ])  # fmt: skip
    correct, nats = score(net, rigged, choose("cpu"))
    assert np.array_equal(correct, decoded)
    assert correct[0].all()
    assert not correct[1].all()
    assert nats > 0


@pytest.mark.parametrize("task", ["fwe", "vt", "niah_multivalue", "niah_multiquery"])
def test_answers_of_several_items_are_scored_on_what_the_model_says(task: str) -> None:
    part, net = generate(task, np.random.default_rng(0), 4, 200), network("words")
    start = int(part.answers[0, 0])
    said = net.generate(torch.from_numpy(part.tokens[:, :start]), part.size)[:, start:].numpy()
    tokens = part.tokens.copy()
    tokens[0, start:] = said[0]
    tokens[1, start:] = said[1].reshape(part.items, -1)[::-1].ravel()  # in another order
    rigged = Examples(task, tokens, part.answers, part.size, part.items, part.needles, part.tail)
    correct, _ = score(net, rigged, choose("cpu"))
    assert correct.shape == (4, 1)
    assert correct[0] == correct[1] == 1
    assert np.allclose(correct[:, 0], found(said, tokens[:, start:], part.items))


def test_found_counts_items_in_any_order() -> None:
    said = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 9, 9], [1, 2, 1, 2]])
    answer = np.array([[1, 2, 3, 4]] * 4)
    assert found(said, answer, 2).tolist() == [1, 1, 0, 0.5]
    assert found(said, answer, 4).tolist() == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"batch_size": 7}, "batch_size is 7 for 3 tasks"), ({"test_examples": 0}, "test_examples is 0: give 1 or more"),
     ({"tasks": ["qa_1"]}, "'qa_1' is unavailable")],
)  # fmt: skip
def test_bad_settings(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        compute(tiny(**fields), tmp_path)
