"""Tables, evidence and figures of what is timed, from measurements whose ratios are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.rattention import cli
from orchard.papers.rattention.experiments import EXPERIMENTS, PROFILES, speed
from orchard.papers.rattention.figures import efficiency as figures
from orchard.runs import Finished, Run, Setting
from orchard.runs.measurement import Measurement


def times(device: str = "cpu") -> pd.DataFrame:
    """A throughput table whose ratios are known: full takes T, everything else 1000 / its place."""
    parts = []
    scales = {"full": 1, "window": 4, "residual": 8, "fla": 2, "full layer": 0.5, "window layer": 3, "rattn layer": 2}
    for name, scale in scales.items():
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
        {
            "name": ["32 x 1", "32 x 4", "64 x 1"],
            "ms": [3.0, 2.0, np.nan],
            "measurement": "tile",
            "round": 0,
            "length": 64,
        }
    )
    pairs = [pd.DataFrame({"name": name, "round": range(4), "ms": ms, "measurement": "tile pair", "length": 64})
             for name, ms in (("best", 8.0), ("base", 10.0))]  # fmt: skip
    return pd.concat([times("cuda"), tiles, *pairs], ignore_index=True)


def test_ratios_hold_a_gpu_to_its_targets_and_a_cpu_to_none():
    assert (speed.ratios(times())["met"] == "").all()
    found = speed.ratios(times("cuda")).set_index(["what", "length"])
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
    found = speed.ratios(table).set_index(["what", "length"])["met"]
    kernel = "fla's linear attention / our residual linear attention"
    assert found[kernel, 1024] == "not measured"
    assert found[kernel, 4096] == "no"


def test_errors_are_held_to_their_limits():
    table = pd.DataFrame(
        {"dtype": ["bfloat16", "float32", "float32"], "what": ["o", "o", "dq"], "error": [2e-3, 1e-7, 2e-5]}
    )
    assert speed.worst_errors(table).to_numpy().tolist() == [
        ["bfloat16", 2e-3, 5e-3, "yes"],
        ["float32", 2e-5, 1e-5, "no"],
    ]


def test_evidence_of_the_step_time_is_paired_by_round():
    found = speed.step_ratios(lambda name: times())
    assert list(found.columns) == ["part", "seed", "unit", "value"]
    assert found["part"].unique().tolist() == ["T = 256", "T = 512"]
    assert found.loc[found["part"] == "T = 256", "value"].tolist() == [12 / 10, 13 / 11, 14 / 12]


def test_evidence_of_the_tiles_is_empty_without_a_gpu():
    nothing = speed.tile_gain(lambda name: times())
    assert list(nothing.columns) == ["part", "seed", "unit", "value"]
    assert nothing.empty
    assert speed.tile_gain(lambda name: tiled())["value"].tolist() == pytest.approx([0.2] * 4)


def test_relative_steps_stand_beside_the_papers():
    published = pd.DataFrame({
        "table": "Table 3", "model": "3B", "context": 4096, "arm": ["Full", "SWA@2048", "RAtt@512"], "value": [0.84, 0.80, 0.87],
    })  # fmt: skip
    found = speed.relative_steps(times(), published).set_index(["source", "setting", "arm"])["ratio"]
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

    for name in ("throughput", "accuracy", "decode", "memory", "timing"):
        with pytest.raises(Stop):
            EXPERIMENTS[name](Setting("smoke"), runner)
    assert [len(cfgs) for cfgs in asked] == [1, 1, 1, 1, 1]
    assert all(isinstance(cfg, Measurement.Config) and not cfg.gpu for (cfg,) in asked)


def test_timing_joins_the_sweep_with_what_was_measured(monkeypatch):
    """One decoding run for every arm, asked for first; training seconds by the tokens per second of each run's provenance."""
    arms = PROFILES["smoke"].arms
    rows = [{"arm": arm, "context": 128, "batch": 1, "cache_bytes": 1024 * i, "ms": i} for i, arm in enumerate(arms)]
    asked: list[Run.Config] = []

    class Told(Finished):
        def __init__(self, provenance) -> None:
            self.told = provenance

        @property
        def provenance(self):
            return self.told

    def runner(cfgs) -> list[Finished]:
        asked.extend(cfgs)
        return [Told({})]

    monkeypatch.setattr(speed, "with_machine", lambda done: pd.DataFrame(rows).assign(hardware="machine"))
    cells = [(arm, seed) for arm in arms for seed in (0, 1)]
    notes = [{"throughput": {"tokens_per_s": 10.0 * (1 + i)}} for i in range(len(cells) - 1)] + [{"throughput": {}}]
    monkeypatch.setattr(
        speed.window_sweep, "trained", lambda *_: [(*c, None, Told(n)) for c, n in zip(cells, notes, strict=True)]
    )
    swept = pd.DataFrame(cells, columns=["arm", "seed"]).assign(window=8, bits_per_byte=2.0, tokens=100)
    monkeypatch.setattr(speed.window_sweep, "window_sweep", lambda *_: swept)
    table = speed.timing(Setting("smoke"), runner)
    assert [(cfg.arms, cfg.contexts) for cfg in asked] == [(list(arms), [128])]
    assert list(zip(table["arm"], table["seed"], strict=True)) == cells
    assert table["train_s"].tolist()[:2] == [10.0, 5.0]
    assert table["train_s"].isna().tolist() == [False] * (len(cells) - 1) + [True]
    assert table.loc[table["arm"] == arms[2], ["kv_bytes", "decode_ms"]].to_numpy().tolist() == 2 * [[2048, 2]]


def test_figures_draw_what_the_tables_hold():
    arms, sizes = ["full_rope", "rattn@8"] * 2, [64, 64, 128, 128]
    decoded = pd.DataFrame({"arm": arms, "context": sizes, "ms": 1.0, "cache_bytes": [4096, 1024, 8192, 2048]})
    modes = ["inference", "training"] * 2
    memory = pd.DataFrame({"arm": "rattn@8", "mode": modes, "length": sizes, "bytes": [1e6, 2e6, 2e6, 4e6]})
    assert [len(axes.lines) for axes in figures.throughput(times()).axes] == [4, 3]
    peaks = [line for line in figures.decode(decoded, memory).axes[2].lines if len(line.get_xdata()) == 2]
    assert sorted(list(line.get_ydata() * 2**20) for line in peaks) == [[1e6, 2e6], [2e6, 4e6]]
    assert len(figures.tiles(tiled()).axes) == 2  # the map and its colour bar
    costs = {"kv_bytes": [4096, 1024], "decode_ms": [2.0, 1.0], "train_s": [3.0, 3.5]}
    bought = pd.DataFrame({"arm": ["full_rope", "rattn@8"], "seed": 0, "bits_per_byte": [2.0, 2.1], **costs})
    assert [axes.get_xlabel() for axes in figures.timing(bought).axes] == [
        "caches (KiB per sequence)", "one decoded token (ms)\nheights as on the left", "training (s)",
    ]  # fmt: skip
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
