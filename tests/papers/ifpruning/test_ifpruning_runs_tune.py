"""Two-stage training of a decoder of `transformers` on rows: what counts, what the predictor sees, less loss, killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ifpruning_tiny_models import rows, save, tiny, tokenizer

from gpu_recipe import two_steps
from orchard.data import DataError
from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import Reading
from orchard.papers.ifpruning.integrations.folder import load_pruned
from orchard.papers.ifpruning.integrations.text import IGNORED, request
from orchard.papers.ifpruning.method.overlap import Collapsed
from orchard.papers.ifpruning.runs.train import Batches
from orchard.papers.ifpruning.runs.tune import (
    Tune,
    build,
    masked_parameters,
    plan,
    rated_parts,
    text_of,
    train,
    trained,
)
from orchard.runs import Store
from orchard.train import AdamW
from orchard.train.optim import parameter_groups

SIZES: dict[str, Any] = {
    "block": 16, "longest": 64, "longest_prompt": 40, "rank": 9, "batch_size": 8, "log_every": 1, "validate_every": 6,
    "checkpoint_every": 4, "optim": AdamW.Config(learning_rate=3e-3, warmup_fraction=0.05), "predictor_rate": 3e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decoder, a predictor of another layout and size, and rows."""
    base = tmp_path_factory.mktemp("models")
    return {
        "model": save(base / "decoder", tiny("qwen3", layers=2, seed=3)),
        "predictor": save(base / "predictor", tiny("llama", dim=24, layers=1, seed=1)), "data": rows(base / "rows"),
    }  # fmt: skip


def planned(
    folders: dict[str, Path], keep: int = 9, cpt_steps: int = 6, sft_steps: int = 12, **fields: Any
) -> Tune.Config:
    fields = {**SIZES, **fields}
    return plan(folders["model"], str(folders["data"]), folders["predictor"], keep, cpt_steps, sft_steps, **fields)


def said(tokens: list[int]) -> str:
    return str(tokenizer().decode(tokens))


def counted_part(reading: Reading) -> str:
    return said([token for token, counts in zip(reading.tokens, reading.counts, strict=True) if counts])


def test_what_counts_and_what_the_predictor_reads(folders: dict[str, Path]) -> None:
    cfg = planned(folders)
    text = text_of(cfg, build(cfg, weights=False))
    reading = next(r for r in text.train if said(r.prompt) == "Repeat a (0)")
    assert said(reading.tokens) == "<s>Repeat a (0)\naa</s>"
    assert counted_part(reading) == "aa</s>"
    assert reading.tokens[: len(reading.tokens) - 3] == request(tokenizer(), "Repeat a (0)")
    batch = text.batch(text.draw("sft", 5, 0, 0))
    counted = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    assert bool((batch["attention_mask"][counted] == 1).all())
    assert torch.equal(batch["labels"], text.batch(text.draw("sft", 5, 0, 0))["labels"])
    shapes = {name: value.shape for name, value in text.batch(text.draw("cpt", 3, 0, 1)).items()}
    assert shapes["input_ids"] == shapes["labels"] == (3, 33)
    assert shapes["prompt_ids"] == (3, 16)
    chunk = text.chunks(5)
    assert chunk.tokens == [256, *text.stream[5:37]]
    assert chunk.counts == [False] * 17 + [True] * 16
    assert chunk.prompt == text.stream[5:21]


def test_other_answers_choose_the_same_masks(folders: dict[str, Path], tmp_path: Path) -> None:
    other = rows(tmp_path / "rows")
    for path in other.iterdir():
        lines = [json.loads(line) | {"output": "?"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = (text_of(cfg, build(cfg)) for cfg in (planned(folders), planned({**folders, "data": other})))
    assert [r.tokens for r in first.train] != [r.tokens for r in second.train]
    assert [r.prompt for r in first.train] == [r.prompt for r in second.train]


def test_a_chat_template_is_followed_with_its_marks(folders: dict[str, Path], tmp_path: Path) -> None:
    decoder = save(tmp_path / "chat", tiny("qwen3", layers=1), chat=True)
    data = rows(tmp_path / "talks")
    turns = [
        ("system", "Be kind."),
        ("user", "One?"),
        ("assistant", "Two!"),
        ("user", "Three?"),
        ("assistant", "Four!"),
    ]
    talk = {"messages": [{"role": role, "content": said} for role, said in turns]}
    lines = [talk, {"instruction": "Say </s>.", "output": "</s>"}]
    (data / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    cfg = planned({**folders, "model": decoder, "data": data}, longest=120)
    text = text_of(cfg, build(cfg, weights=False))
    conversation, literal = text.train
    assert said(conversation.prompt) == "One?"
    wanted = "<s>system:Be kind.\nuser:One?\nassistant:Two!</s>user:Three?\nassistant:Four!</s>"
    assert text.tokenizer.decode(conversation.tokens) == wanted
    assert counted_part(conversation) == "Two!</s>Four!</s>"
    assert (conversation.tokens.count(256), conversation.tokens.count(257)) == (
        1,
        2,
    )  # marks of the template, not letters
    assert said(literal.prompt) == "Say </s>."
    assert 257 not in literal.prompt


def test_it_learns_and_the_stages_follow_each_other(folders: dict[str, Path], tmp_path: Path) -> None:
    cfg = planned(folders, mode="st")  # in which gates have a gradient in training alone
    assert cfg.start is not None
    store = Store(tmp_path / "runs")
    done = store.compute(cfg, "cpu")
    before = store.compute(cfg.start, "cpu")
    assert done.result["loss_before"] == before.result["loss"]
    assert before.result["loss"] < before.result["loss_before"]
    assert done.result["loss"] < done.result["loss_before"]
    assert done.result["gauge"]["domains"] == 2
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "validation_loss", "across", "union", "spread"} <= {name for line in lines for name in line}
    model = trained(done, cfg)
    batch = text_of(cfg, model).batch(text_of(cfg, model).validation[:4])
    earlier = trained(before, cfg.start)
    assert not torch.equal(model.predictor.norm.weight, earlier.predictor.norm.weight)  # these have no weight decay:
    assert not torch.equal(model.head_in.bias, earlier.head_in.bias)  # gradients changed them
    assert not torch.equal(model.decoder.model.norm.weight, earlier.decoder.model.norm.weight)
    assert torch.isfinite(model(**batch).loss)


def test_a_killed_training_ends_with_the_same_numbers(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = planned(folders, cpt_steps=0, sft_steps=7)
    whole = Store(tmp_path / "whole").compute(cfg, "cpu")
    batch = Batches.batch

    def killed(self: Batches, indices: Any) -> Any:
        if int(indices[0]) == 6:
            raise KeyboardInterrupt
        return batch(self, indices)

    store = Store(tmp_path / "killed")
    monkeypatch.setattr(Batches, "batch", killed)
    with pytest.raises(SystemExit):
        store.compute(cfg, "cpu")
    monkeypatch.setattr(Batches, "batch", batch)
    again = store.compute(cfg, "cpu")
    assert "goes on from step 4" in (again.folder / "log.txt").read_text()
    assert again.result == whole.result
    for name, value in whole.tensors("model").items():
        assert torch.equal(again.tensors("model")[name], value)


def test_collapse_is_raised_and_what_was_trained_is_kept(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = planned(folders, cpt_steps=0, sft_steps=1, keep=29)  # all channels: one mask
    store, out, said = Store(tmp_path / "runs"), tmp_path / "out", list[str]()
    with pytest.raises(Collapsed, match=r"sft of decoder on rows: .*overlap by 1\.000.*mode 'st'"):
        train(cfg, out, store, "cpu", say=said.append)
    assert not out.exists()
    monkeypatch.delattr(Tune, "compute")  # nothing is trained again
    train(cfg, out, store, "cpu", on_collapse="record", say=said.append)
    assert load_pruned(out).settings.keep == 29
    assert said[-1].startswith("warning: masks of different domains overlap by 1.000")
    with pytest.raises(BadInput, match="on_collapse is 'shrug': choose raise or record"):
        train(cfg, tmp_path / "other", store, on_collapse="shrug")


def test_masked_layers_have_no_weight_decay_and_two_rates(folders: dict[str, Path]) -> None:
    cfg = planned(folders).set(predictor_rate=7e-3)
    model = build(cfg)
    groups = parameter_groups(rated_parts(model, cfg), cfg.optim.weight_decay, masked_parameters(model))
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    layer = model.decoder.model.layers[0]
    assert of[id(layer.mlp.up_proj.weight)] == (3e-3, 0.0)
    assert of[id(layer.self_attn.q_proj.weight)] == (3e-3, 0.1)
    assert of[id(model.head_out.weight)] == of[id(model.predictor.layers[0].mlp.up_proj.weight)] == (7e-3, 0.1)
    assert of[id(model.head_out.bias)] == (7e-3, 0.0)
    assert len(of) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"keep": 30}, BadInput, "k = 30 of 29 channels"),
        ({"longest_prompt": 10}, DataError, r"the instruction has \d+ tokens of the predictor, which reads 10"),
        ({"longest": 300}, BadInput, "the decoder reads 160 tokens, longest is 300"),
        ({"block": 4000}, BadInput, "two blocks are 8000"),
        ({"batch_size": 0}, BadInput, "batch_size is 0: give 1 or more"),
        ({"sft_steps": 0}, BadInput, "steps is 0: give 1 or more"),
    ],
)  # fmt: skip
def test_bad_plans(folders: dict[str, Path], fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        planned(folders, **fields)


def test_folders_that_hold_no_model(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json is missing; give the folder that holds it"):
        planned({**folders, "predictor": tmp_path})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds no weights \(\*\.safetensors\)"):
        planned({**folders, "model": tmp_path})
    tiny().save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds no tokenizer"):
        planned({**folders, "model": tmp_path})
    with pytest.raises(BadInput, match=r"tulu-v2 does not exist: .*nothing is downloaded"):
        plan(folders["model"], "allenai/tulu-v2", folders["predictor"], 9, 0, 1)
    few = tmp_path / "few"
    few.mkdir()
    for split in ("train", "valid", "test"):
        (few / f"{split}.jsonl").write_text(json.dumps({"instruction": split, "output": "b"}) + "\n")
    with pytest.raises(DataError, match="has 1 rows for validation, two are needed: give more rows"):
        planned({**folders, "data": few})


def test_two_steps_as_a_gpu_does_them(folders: dict[str, Path], tmp_path: Path) -> None:
    done = two_steps(planned(folders, cpt_steps=1, sft_steps=2), tmp_path, compile=False)
    assert done.result["loss"] < 9
    assert done.tensors("model")["head_in.weight"].dtype == torch.float32
