"""Checkpoints of Hugging Face: statistics layer by layer against those of the whole model, memory, calibration text."""

from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from orchard.data import DataError
from orchard.errors import BadInput
from orchard.papers.moe_lottery.integrations import layerwise
from orchard.papers.moe_lottery.integrations.checkpoint import open_checkpoint
from orchard.papers.moe_lottery.integrations.families import Mixture, mixtures, statistics_of
from orchard.papers.moe_lottery.integrations.layerwise import (
    DEFAULT,
    check_criteria,
    memory_bound,
    run_layers,
    score_checkpoint,
)  # fmt: skip
from orchard.papers.moe_lottery.integrations.text import calibration
from orchard.papers.moe_lottery.integrations.tiny import VOCAB, save_tiny, tiny_model
from orchard.papers.moe_lottery.method.collect import LayerStatistics, collect
from orchard.papers.moe_lottery.method.dropping import ExpertsError
from orchard.pretrained.folder import load_model

TOKENS = torch.randint(0, VOCAB, (5, 33), generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, tokens: Tensor) -> float:
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


def frozen(layer: Mixture, stats: LayerStatistics) -> LayerStatistics:
    """A copy that outlives the layer's weights."""
    values = {f.name: getattr(stats, f.name) for f in dataclasses.fields(stats)}
    return LayerStatistics(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()})


@pytest.mark.parametrize(("model_type", "fused"), [("mixtral", True), ("deepseek_v3", False)])
def test_statistics_are_those_of_the_whole_model(model_type: str, fused: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", model_type, fused=fused))
    assert checkpoint.layout == ("fused" if fused else "one by one")
    passed = run_layers(checkpoint, TOKENS, frozen, batch_size=2, scratch=tmp_path)
    model = load_model(tmp_path / "m")
    whole = collect(model, iter(TOKENS.split(2)), VOCAB)
    assert len(passed.layers) == len(whole) == len(checkpoint.mixtures)
    for ours, theirs in zip(passed.layers, whole, strict=True):
        for field in dataclasses.fields(theirs):
            if getattr(theirs, field.name) is not None:
                torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name), rtol=1e-6, atol=1e-6)
    assert passed.loss == pytest.approx(loss_of(model, TOKENS), abs=2e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # hidden states are gone


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_masks_are_those_of_every_layer(model_type: str, tmp_path: Path) -> None:
    """A sliding window of 16 in all layers, and in some of them: without one the loss is another, and still the model's."""
    folder = save_tiny(tmp_path / "m", model_type)
    with_window = score_checkpoint(open_checkpoint(folder), TOKENS, ("euf",)).loss
    config = json.loads((folder / "config.json").read_text())
    config |= {"sliding_window": None, "layer_types": ["full_attention"] * 3, "use_sliding_window": False}
    (folder / "config.json").write_text(json.dumps(config))
    without = score_checkpoint(open_checkpoint(folder), TOKENS, ("euf",)).loss
    assert abs(with_window - without) > 1e-3
    assert without == pytest.approx(loss_of(load_model(folder), TOKENS), abs=2e-6)


LONG = {  # of Phi-3.5-MoE
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0],
    "short_mscale": 1.2, "long_mscale": 1.3, "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "layout", "changes"),
    [
        ("gpt_oss", "fused", {}),
        ("granitemoe", "fused under other names", {"tie_word_embeddings": False}),
        ("granitemoeshared", "fused under other names", {}),
        ("phimoe", "one by one", {"rope_parameters": LONG}),
    ],
)
def test_other_families(model_type: str, layout: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Routers of another name, biases, factors of embeddings and logits: all statistics are those of the whole model."""
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", model_type, **changes))
    assert checkpoint.layout == layout
    model = load_model(tmp_path / "m")
    plain = loss_of(model, TOKENS)
    passed = run_layers(checkpoint, TOKENS, frozen, batch_size=2, scratch=tmp_path)
    for ours, theirs in zip(passed.layers, statistics_of(model, TOKENS.split(2), VOCAB), strict=True):
        for field in dataclasses.fields(theirs):
            if getattr(theirs, field.name) is not None:
                torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name), rtol=1e-6, atol=1e-6)
    assert passed.loss == pytest.approx(plain, abs=2e-6)
    assert loss_of(model, TOKENS) == plain


def test_rows_of_gpt_oss_by_its_formula(tmp_path: Path) -> None:
    """Every pair alone, from the weights that criteria see: gate above up, as in the other families."""
    model = load_model(save_tiny(tmp_path / "m", "gpt_oss"))
    layer, seen = mixtures(model)[1], []
    hook = layer.experts.register_forward_pre_hook(lambda module, given: seen.append(given))
    [_, stats, _] = statistics_of(model, [TOKENS], VOCAB)
    hook.remove()
    [(hidden, index, weights)] = seen
    gate_bias, up_bias = layer.experts.gate_up_proj_bias[:, ::2], layer.experts.gate_up_proj_bias[:, 1::2]
    norms, total, weighted, clamped = torch.zeros(8), torch.zeros(8, 32), torch.zeros(8), 0
    for x, experts, shares in zip(hidden, index.tolist(), weights, strict=True):
        for e, share in zip(experts, shares, strict=True):
            gate, up = (stats.gate_up[e] @ x).chunk(2)
            gate, up = gate + gate_bias[e], up + up_bias[e]
            clamped += int((gate > 1).sum())  # swiglu_limit
            gate, up = gate.clamp(max=1), up.clamp(-1, 1)
            row = stats.down[e] @ ((up + 1) * gate * torch.sigmoid(1.702 * gate)) + layer.experts.down_proj_bias[e]
            norms[e] += row.norm()
            total[e] += row
            weighted[e] += share * row.norm()
    assert clamped > 0
    assert stats.count.tolist() == index.flatten().bincount(minlength=8).tolist()
    for found, wanted in ((stats.norms, norms), (stats.total, total), (stats.weighted, weighted)):
        torch.testing.assert_close(found.float(), wanted, rtol=1e-5, atol=1e-4)


def test_dense_layers_are_passed_through(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "deepseek_v3"))
    assert [layer.name for layer in checkpoint.mixtures] == ["model.layers.1.mlp", "model.layers.2.mlp"]
    assert checkpoint.mixture_of(0) is None


@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        ("deepseek_v3", torch.bfloat16), ("olmoe", torch.bfloat16), ("phimoe", torch.bfloat16), ("gpt_oss", torch.bfloat16),
        ("gpt_oss", torch.float16),
    ],
)  # fmt: skip
def test_half_precision(model_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """DeepSeek-V3 keeps the bias of its router in float32 whatever the rest is, gpt-oss its norms where that is float16."""
    tiny_model(model_type).to(dtype).save_pretrained(tmp_path / "m")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.dtype == dtype
    passed = run_layers(checkpoint, TOKENS, frozen, batch_size=2, scratch=tmp_path)
    whole = statistics_of(load_model(tmp_path / "m"), TOKENS.split(2), VOCAB)
    for ours, theirs in zip(passed.layers, whole, strict=True):
        assert torch.equal(ours.count, theirs.count)
        torch.testing.assert_close(ours.norms, theirs.norms, rtol=1e-5, atol=0)


def test_one_layer_is_in_memory_at_a_time(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "mixtral"))
    seen: list[weakref.ref[Tensor]] = []

    def use(layer: Mixture, stats: LayerStatistics) -> int:
        assert all(old() is None for old in seen), "weights of an earlier layer are still held"
        seen.append(weakref.ref(layer.experts.gate_up_proj))
        held = sum(p.numel() * 4 for one in checkpoint.layers for p in one.parameters() if not p.is_meta)
        assert held == checkpoint.bytes(f"model.layers.{layer.place}.")
        return layer.place

    assert run_layers(checkpoint, TOKENS, use, scratch=tmp_path).layers == [0, 1, 2]
    assert all(old() is None for old in seen)
    assert all(p.is_meta for p in checkpoint.model.parameters())


def test_the_bound_counts_the_running_sums(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    sums = [stats.bytes() for stats in collect(load_model(tmp_path / "m"), [TOKENS], VOCAB)]
    assert max(sums) <= memory_bound(checkpoint, 2, 33, DEFAULT)["sums"] < 1.1 * max(sums)


def test_random_scores_follow_the_seed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    passes = [score_checkpoint(checkpoint, TOKENS[:1], ("random",), seed=seed) for seed in (0, 0, 1)]
    orders = [passed.layers[1].orders["random", "min"] for passed in passes]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(8))


def test_criteria_that_cannot_be_had() -> None:
    with pytest.raises(ExpertsError, match=r"'ege' needs gradients.*collect\(\.\.\., gradients=True\)"):
        check_criteria(["ean", "ege"])
    with pytest.raises(BadInput, match=r"criterion 'eam' does not exist: did you mean 'eas'"):
        check_criteria(["eam"])
    assert "ege" not in DEFAULT


def test_tokens_that_are_none_of_the_model(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    with pytest.raises(ExpertsError, match=f"token {VOCAB} is not one of the {VOCAB}"):
        score_checkpoint(checkpoint, TOKENS + VOCAB - int(TOKENS.max()), ("euf",))
    with pytest.raises(ExpertsError, match="no calibration text"):
        score_checkpoint(checkpoint, TOKENS[:0], ("euf",))
    with pytest.raises(ExpertsError, match="sequences of 330 tokens: the model was made for 256 at most"):
        score_checkpoint(checkpoint, TOKENS.repeat(1, 10), ("euf",))


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = tiny_model("olmoe")
    model.model.layers[1].mlp.experts.down_proj.data[3, 0, 0] = torch.nan
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ExpertsError, match=r"model.layers.1.mlp: ean gives .*NaN.*not finite: check the checkpoint"):
        score_checkpoint(open_checkpoint(tmp_path / "m"), TOKENS, ("ean",), scratch=tmp_path)


def test_a_disk_too_small_for_hidden_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    usage = type(layerwise.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(layerwise.shutil, "disk_usage", lambda _: usage(100, 100, 0))
    with pytest.raises(ExpertsError, match="hidden states of 5 sequences of 33 tokens"):
        score_checkpoint(checkpoint, TOKENS, ("euf",), scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_text_by_bytes_and_its_manifest(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    texts = ["first text, ", "the second one, ", "a third that is not needed"]
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name in ("t.parquet", "t.jsonl"):
        found = calibration(checkpoint, tmp_path / name, 2, 10, "bytes")
        assert found.tokens.tolist() == [list(b"first text"), list(b", the seco")]
        about = found.manifest()
        assert (about["documents"], about["tokens"], about["sequences"]) == (2, 20, 2)
        assert list(about["files"]) == [name]
        assert all(len(digest) == 64 for digest in about["files"].values())
    assert calibration(checkpoint, tmp_path / "t.jsonl", 99, 10, "bytes").tokens.shape == (5, 10)


def test_text_by_the_models_own_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = save_tiny(tmp_path / "m", "mixtral")
    words = Tokenizer(models.WordLevel({"?": 0, "two": 1, "words": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    (tmp_path / "t.txt").write_text("two words and two more")
    assert calibration(open_checkpoint(folder), tmp_path / "t.txt", 9, 2).tokens.tolist() == [[1, 2], [0, 1]]


def test_text_that_does_not_do(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "olmoe"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError, match=r"empty.txt is empty"):
        calibration(checkpoint, tmp_path / "empty.txt", 1, 8, "bytes")
    with pytest.raises(DataError, match="does not exist"):
        calibration(checkpoint, tmp_path / "none.txt", 1, 8, "bytes")
    with pytest.raises(ExpertsError, match=r"holds 5 tokens, fewer than one sequence of 8.*smaller --length"):
        calibration(checkpoint, tmp_path / "short.txt", 1, 8, "bytes")
    with pytest.raises(ExpertsError, match=r"holds no tokenizer.*--tokenizer bytes"):
        calibration(checkpoint, tmp_path / "short.txt", 1, 2)
    with pytest.raises(ExpertsError, match="0 sequences of 8 tokens"):
        calibration(checkpoint, tmp_path / "short.txt", 0, 8, "bytes")
    with pytest.raises(ExpertsError, match="tokenizer 'words': choose one of model, bytes"):
        calibration(checkpoint, tmp_path / "short.txt", 1, 2, "words")
    small = open_checkpoint(save_tiny(tmp_path / "s", "olmoe", vocab_size=100))
    with pytest.raises(ExpertsError, match="the model knows 100 tokens, bytes need 256"):
        calibration(small, tmp_path / "short.txt", 1, 2, "bytes")
