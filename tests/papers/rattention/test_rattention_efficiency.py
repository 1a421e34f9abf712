"""Measurements of time and memory: peers take turns, rows are complete, memory is counted to the byte. No speed is tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.kernels.residual import residual_linear_attention
from orchard.papers.rattention import cli, experiments
from orchard.papers.rattention.experiments import speed as tables_of
from orchard.papers.rattention.figures import efficiency as figures
from orchard.papers.rattention.method import costs
from orchard.papers.rattention.method.models import arm
from orchard.papers.rattention.runs import speed
from orchard.papers.rattention.runs.speed import (
    Accuracy,
    Decode,
    Measurement,
    Memory,
    Operations,
    Steps,
    Tiles,
    fitted_exponent,
)
from orchard.runs import Finished, Run, Setting, Workspace

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
    assert list(table.groupby(["length", "arm"], sort=False).groups) == [
        (32, "full_rope"), (32, "swa@16"), (32, "rattn@4"), (64, "full_rope"), (64, "swa@32"), (64, "rattn@8"),
    ]  # fmt: skip


def test_tiles_are_timed_and_the_best_meets_the_base(tmp_path, monkeypatch):
    class OutOfResources(Exception):  # the name that Triton gives it
        pass

    def kernel(q, k, v, window, tile):
        if tile[0] == 64:
            raise OutOfResources("shared memory, Required: 300000\nmore")
        return residual_linear_attention(q, k, v, window, chunk_size=tile[0])[0]

    monkeypatch.setattr(speed, "with_tile", kernel)
    cfg = Tiles.Config(
        **SHAPE, rounds=1, length=64, batch=1, window=8, chunks=[16, 32, 64], tiles_per_state=[1, 2], pairs=3
    )
    result = cfg.build().compute(Workspace(tmp_path, tmp_path, "cpu"))
    table = pd.DataFrame(result["rows"])
    assert set(table.loc[table["C"] == 64, "reason"]) == {"OutOfResources: shared memory, Required: 300000"}
    assert set(map(tuple, table.loc[table["seconds"].notna(), ["C", "m"]].to_numpy())) == {
        (16, 1),
        (16, 2),
        (32, 1),
        (32, 2),
    }
    assert result["base"] == [32, 1]
    assert {which: len(times) for which, times in result["pairs"].items()} == {"best": 3, "base": 3}


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
    with pytest.raises(BadInput, match="operations has sizes for a GPU and would run on cpu: use profile smoke"):
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
    assert fitted_exponent(lengths, [7 * n**2 for n in lengths]) == pytest.approx(2)


def test_memory_of_the_local_layer_is_linear(tmp_path):
    table = rows(Memory.Config(**SHAPE, arms=["rattn@32"], lengths=[512, 1024, 2048]), tmp_path)
    found = tables_of.exponents(table)
    assert found["mode"].tolist() == ["inference", "training"]
    assert found["exponent"].between(0.85, 1.15).all()


# ------------------------------------------------------------------ tables, evidence, figures


def times(device: str = "cpu") -> pd.DataFrame:
    """A throughput table whose ratios are known: full takes T, everything else 1000 / its place."""
    parts = []
    for name, scale in (
        ("full", 1.0),
        ("window", 4.0),
        ("residual", 8.0),
        ("fla", 2.0),
        ("full layer", 0.5),
        ("window layer", 3.0),
        ("rattn layer", 2.0),
    ):
        for length in (1024, 4096, 32768):
            ms = length / scale if name.startswith("full") else 4096 / scale
            parts += [("operation", name, length, turn, ms * (1 + turn)) for turn in range(3)]
    for length in (256, 512):
        for name, ms in (("full_rope", 9.0), (f"swa@{length // 2}", 10.0), (f"rattn@{length // 8}", 12.0)):
            parts += [("step", name, length, turn, ms + turn) for turn in range(3)]
    table = pd.DataFrame(parts, columns=["measurement", "name", "length", "round", "ms"])
    return table.assign(batch=1, reason="", device=device, hardware="machine")


def tiled() -> pd.DataFrame:
    tiles = pd.DataFrame(
        {"C": [32, 32, 64], "m": [1, 4, 1], "ms": [3.0, 2.0, np.nan], "measurement": "tile", "round": 0, "length": 64}
    )
    pairs = [pd.DataFrame({"name": name, "round": range(4), "ms": ms, "measurement": "tile pair", "length": 64})
             for name, ms in (("best", 8.0), ("base", 10.0))]  # fmt: skip
    return pd.concat([times("cuda"), tiles, *pairs], ignore_index=True)


def test_ratios_hold_a_gpu_to_its_targets_and_a_cpu_to_none():
    assert (tables_of.ratios(times())["met"] == "").all()
    found = tables_of.ratios(times("cuda")).set_index(["what", "length"])
    layer = "full attention layer / RATTENTION layer"
    assert found.loc[(layer, 4096), ["ratio", "target", "met"]].tolist() == [4.0, 1.0, "yes"]
    assert found.loc[(layer, 32768), "ratio"] == 32
    strict = "full attention without projections / RATTENTION layer"
    assert found.loc[(strict, 4096), "ratio"] == 2
    kernel = "fla's linear attention / our residual linear attention"
    assert found.loc[(kernel, 1024), ["ratio", "met"]].tolist() == [4.0, "yes"]


def test_a_target_that_was_not_measured_or_missed_says_so():
    table = times("cuda")
    table = table[~((table["name"] == "fla") & (table["length"] == 1024))]
    table.loc[table["name"] == "fla", "ms"] /= 100
    found = tables_of.ratios(table).set_index(["what", "length"])["met"]
    kernel = "fla's linear attention / our residual linear attention"
    assert found[kernel, 1024] == "not measured"
    assert found[kernel, 4096] == "no"


def test_errors_are_held_to_their_limits():
    table = pd.DataFrame(
        {"dtype": ["bfloat16", "float32", "float32"], "what": ["o", "o", "dq"], "error": [2e-3, 1e-7, 2e-5]}
    )
    assert tables_of.worst_errors(table).to_numpy().tolist() == [
        ["bfloat16", 2e-3, 5e-3, "yes"],
        ["float32", 2e-5, 1e-5, "no"],
    ]


def test_evidence_of_the_step_time_is_paired_by_round():
    found = tables_of.step_ratios(lambda name: times())
    assert list(found.columns) == ["part", "seed", "unit", "value"]
    assert found["part"].unique().tolist() == ["T = 256", "T = 512"]
    assert found.loc[found["part"] == "T = 256", "value"].tolist() == [12 / 10, 13 / 11, 14 / 12]


def test_evidence_of_the_tiles_is_empty_without_a_gpu():
    nothing = tables_of.tile_gain(lambda name: times())
    assert list(nothing.columns) == ["part", "seed", "unit", "value"]
    assert nothing.empty
    assert tables_of.tile_gain(lambda name: tiled())["value"].tolist() == pytest.approx([0.2] * 4)


def test_relative_steps_stand_beside_the_papers():
    published = pd.DataFrame({
        "table": "Table 3", "model": "3B", "context": 4096, "arm": ["Full", "SWA@2048", "RAtt@512"], "value": [0.84, 0.80, 0.87],
    })  # fmt: skip
    found = tables_of.relative_steps(times(), published).set_index(["source", "setting", "arm"])["ratio"]
    assert found["paper", "3B, 4k", "rattn"] == pytest.approx(0.87 / 0.80)
    assert found["here", "T = 256", "full"] == pytest.approx(10 / 11)  # medians of 9, 10, 11 and 10, 11, 12
    assert found["here", "T = 512", "swa"] == 1


def test_experiments_ask_for_one_run_at_a_time_and_keep_it_small():
    """Alone, so that nothing of ours computes beside a measurement; smoke never asks for a GPU."""
    asked: list[list[Run.Config]] = []

    class Stop(Exception):
        pass

    def runner(cfgs) -> list[Finished]:
        asked.append(list(cfgs))
        raise Stop

    for name in ("throughput", "accuracy", "decode", "memory"):
        with pytest.raises(Stop):
            experiments.EXPERIMENTS[name](Setting("smoke"), runner)
    assert [len(cfgs) for cfgs in asked] == [1, 1, 1, 1]
    assert all(isinstance(cfg, Measurement.Config) and not cfg.gpu for (cfg,) in asked)


def test_figures_draw_what_the_tables_hold():
    arms, sizes = ["full_rope", "rattn@8"] * 2, [64, 64, 128, 128]
    decoded = pd.DataFrame({"arm": arms, "context": sizes, "ms": 1.0, "cache_bytes": [4096, 1024, 8192, 2048]})
    modes = ["inference", "training"] * 2
    memory = pd.DataFrame({"arm": "rattn@8", "mode": modes, "length": sizes, "bytes": [1e6, 2e6, 2e6, 4e6]})
    assert [len(axes.lines) for axes in figures.throughput(times()).axes] == [4, 3]
    assert len(figures.decode(decoded, memory).axes[2].lines) == 2
    assert len(figures.tiles(tiled()).axes) == 2  # the map and its colour bar
    timing = pd.DataFrame({"arm": ["full_rope", "rattn@8"], "seed": 0, "bits_per_byte": [2.0, 2.1], "kv_bytes": [4096, 1024],
                           "decode_ms": [2.0, 1.0], "train_s": [3.0, 3.5]})  # fmt: skip
    assert len(figures.timing(timing).axes) == 3
    other = {
        "model": "12B",
        "layers": 40,
        "window": 2048,
        "state": "per query head",
        "dtype": "fp8",
        "hardware": "A100",
        "batch": 1,
    }
    assert all(len(figures.calculator(**arguments).axes) == 2 for arguments in ({}, other))


def test_bench_lists_times_ratios_and_what_is_missing():
    tables = {"throughput": tiled(), "accuracy": pd.DataFrame({"dtype": ["float32"], "what": ["o"], "error": [1e-7]})}
    tables["throughput"]["reason"] = tables["throughput"]["reason"].fillna("")
    tables["throughput"].loc[0, "reason"] = "RuntimeError: no"
    parts = {name: table for _, name, table, _ in cli.bench(tables.__getitem__)}
    assert list(parts) == ["throughput", "throughput_ratios", "steps", "accuracy", "throughput_missing", "tiles"]
    assert len(parts["throughput_missing"]) == 1
    assert parts["tiles"]["ms"].isna().sum() == 1


# ------------------------------------------------------------------ the calculator


def test_budget_gives_the_papers_saving():
    ours, theirs = (costs.kv_budget(4096, window, state=None).total for window in (1023, 4095))
    assert 1 - ours / theirs == 0.5625
    assert costs.kv_budget(4096, None).saving == 0
    assert costs.kv_budget(4096, 511, state="bf16").saving == pytest.approx(
        1 - costs.kv_token_ratio(4096, 511, state=128)
    )


def test_budget_is_what_caches_really_hold():
    shape = costs.Shape("small", dim=16, num_layers=8, num_heads=4, num_kv_heads=2, head_dim=4, ffn_dim=24)
    fields = {
        "dim": 16,
        "num_layers": 8,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "ffn_dim": 24,
        "vocab_size": 11,
    }
    for name, window, state in (
        ("full_rope", None, None),
        ("swa@8", 7, None),
        ("rattn@8", 7, "fp32"),
        ("la", -1, "fp32"),
    ):
        cache = arm(name, **fields).build().new_cache(1, 40, device="cpu", dtype=torch.bfloat16)
        assert costs.kv_budget(40, window, dtype="bf16", shape=shape, state=state).total == cache.bytes(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dtype": "int4"}, "type 'int4' is not known: use one of fp32, bf16, fp8"), ({"state": "fp64"}, "type 'fp64'"),
     ({"window": -2}, "window=-2"), ({"context": 0}, "context=0"), ({"ratio": -1}, "ratio=-1")],
)  # fmt: skip
def test_budget_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        costs.kv_budget(**{"context": 64, "window": 7, **arguments})


def test_step_time_with_another_period_and_type():
    shape = costs.SHAPES["3B"]
    assert costs.step_time_cut(shape, 4096, 128, period=4, bytes_per_element=2) == costs.step_time_cut(shape, 4096, 128)
    assert costs.step_time_cut(shape, 4096, 128, period=8) > costs.step_time_cut(shape, 4096, 128)
    assert costs.step_time_cut(shape, 4096, 128, bytes_per_element=1) < costs.step_time_cut(shape, 4096, 128)
