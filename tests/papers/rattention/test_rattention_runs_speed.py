"""Measurements of time and memory: peers take turns, rows are complete, memory is counted to the byte. No speed is tested."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.kernels.residual import residual_linear_attention
from orchard.papers.rattention.experiments.speed import exponents
from orchard.papers.rattention.runs import speed
from orchard.papers.rattention.runs.speed import Accuracy, Decode, Memory, Operations, Steps, Tiles
from orchard.runs import Run, Workspace

SHAPE = {"dim": 16, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "ffn_dim": 24}


def rows(cfg: Run.Config, tmp_path: Path) -> pd.DataFrame:
    return pd.DataFrame(cfg.build().compute(Workspace(tmp_path, tmp_path, "cpu"))["rows"])


def test_every_operation_is_timed_at_every_length(tmp_path):
    table = rows(Operations.Config(**SHAPE, rounds=2, lengths=[64, 128], tokens=128, window=16), tmp_path)
    timed = table[table["reason"] == ""]
    assert timed.groupby(["name", "length"]).size().eq(2).all()
    assert {"full", "window", "residual", "full layer", "window layer", "rattn layer"} <= set(timed["name"])
    assert (timed["seconds"] > 0).all()
    assert dict(zip(table["length"], table["batch"], strict=True)) == {64: 2, 128: 1}


def test_a_peer_that_cannot_run_gives_a_reason(tmp_path, monkeypatch):
    def missing(device: str, window: int) -> None:
        raise ImportError("flash-linear-attention is not installed")

    monkeypatch.setattr(speed, "_fla", missing)
    table = rows(Operations.Config(**SHAPE, rounds=1, lengths=[64], tokens=64, window=16), tmp_path)
    (reason,) = table.loc[table["name"] == "fla", "reason"]
    assert reason == "ImportError: flash-linear-attention is not installed"
    assert table.loc[table["name"] == "fla", "seconds"].isna().all()


@pytest.mark.parametrize("window", [0, 15, 200])
def test_fla_computes_the_same_function(window):
    q, k, v = torch.randn(2, 128, 4, 8), torch.randn(2, 128, 2, 8), torch.randn(2, 128, 2, 8)
    expected = residual_linear_attention(q, k, v, window)[0]
    torch.testing.assert_close(speed._fla("cpu", window)(q, k, v), expected, rtol=1e-5, atol=1e-5)


def test_steps_compare_three_arms(tmp_path):
    table = rows(Steps.Config(**SHAPE, rounds=2, lengths=[32, 64], num_layers=4), tmp_path)
    assert list(table.groupby(["length", "name"], sort=False).groups) == [
        (32, "full_rope"), (32, "swa@16"), (32, "rattn@4"), (64, "full_rope"), (64, "swa@32"), (64, "rattn@8"),
    ]  # fmt: skip


def test_tiles_are_timed_and_the_best_meets_the_base(tmp_path, monkeypatch):
    class OutOfResources(Exception):  # the name that Triton gives it
        pass

    def kernel(q, k, v, window, tile):
        if tile[0] == 64:
            raise OutOfResources("shared memory, Required: 300000\nmore")
        return residual_linear_attention(q, k, v, window, chunk_size=tile[0])

    monkeypatch.setattr(speed, "fused", kernel)
    cfg = Tiles.Config(
        **SHAPE, rounds=1, length=64, batch=1, window=8, chunks=[16, 32, 64], tiles_per_state=[1, 2], pairs=3
    )
    result = cfg.build().compute(Workspace(tmp_path, tmp_path, "cpu"))
    table = pd.DataFrame(result["rows"])
    lost = table["name"].isin(["64 x 1", "64 x 2"])
    assert set(table.loc[lost, "reason"]) == {"OutOfResources: shared memory, Required: 300000"}
    assert set(table.loc[table["seconds"].notna(), "name"]) == {"16 x 1", "16 x 2", "32 x 1", "32 x 2"}
    assert result["base"] == (32, 1)
    assert [row["name"] for row in result["pairs"]] == ["best"] * 3 + ["base"] * 3
    assert {row["length"] for row in result["pairs"]} == {64}


def test_other_errors_of_a_tile_are_not_swallowed(tmp_path, monkeypatch):
    def broken(self, tile, inputs):
        raise TypeError("a bug")

    monkeypatch.setattr(Tiles, "_step", broken)
    with pytest.raises(TypeError, match="a bug"):
        rows(Tiles.Config(**SHAPE, rounds=1, length=32, batch=1), tmp_path)


def test_the_operation_is_as_accurate_as_it_has_to_be(tmp_path):
    table = rows(Accuracy.Config(**SHAPE, length=100, window=9), tmp_path)
    worst = table.groupby("dtype")["error"].max()
    assert set(table["what"]) == {"o", "dq", "dk", "dv"}
    assert worst["bfloat16"] < 5e-3
    assert worst["float32"] < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_sizes_for_a_gpu_are_refused_elsewhere(tmp_path):
    cfg = Operations.Config(**SHAPE, gpu=True, rounds=1, lengths=[64], tokens=64, label="operations")
    with pytest.raises(BadInput, match="operations has sizes for a GPU and would run on cpu: use a smaller profile"):
        rows(cfg, tmp_path)


def test_decoding_reports_the_bytes_of_real_caches(tmp_path):
    arms, batch = ["full_rope", "swa@8", "rattn@8", "la"], 3
    cfg = Decode.Config(**SHAPE, rounds=2, num_layers=4, arms=arms, contexts=[16, 32], batch=batch)
    held = rows(cfg, tmp_path).pivot(index="arm", columns="context", values="cache_bytes")
    token = 2 * 2 * 4 * 4  # key and value, kv heads, channels, bytes
    state = 2 * 8 * 4 * 4
    assert held.loc["full_rope", 32] - held.loc["full_rope", 16] == 4 * 16 * token
    for name in arms[1:]:  # the one global layer grows, nothing else
        assert held.loc[name, 32] - held.loc[name, 16] == 16 * token
    assert held.loc["rattn@8", 16] - held.loc["swa@8", 16] == 3 * state
    assert held.loc["swa@8", 16] == 16 * token + 3 * 8 * token


def test_decoding_needs_room_for_a_prompt(tmp_path):
    with pytest.raises(BadInput, match="decoding: a context of 4 has no room for a prompt and 3 \\+ 1 tokens"):
        rows(Decode.Config(**SHAPE, rounds=3, num_layers=4, arms=["la"], contexts=[4], label="decoding"), tmp_path)


def test_exponent_of_a_power():
    lengths = [1000, 3000, 9000]
    table = pd.DataFrame({"arm": "la", "mode": "training", "length": lengths, "bytes": [7 * n**2 for n in lengths]})
    assert exponents(table)["exponent"].tolist() == pytest.approx([2])


def test_memory_of_the_local_layer_is_linear(tmp_path):
    table = rows(Memory.Config(**SHAPE, arms=["rattn@32"], lengths=[512, 1024, 2048]), tmp_path)
    found = exponents(table)
    assert found["mode"].tolist() == ["inference", "training"]
    assert found["exponent"].between(0.85, 1.15).all()
