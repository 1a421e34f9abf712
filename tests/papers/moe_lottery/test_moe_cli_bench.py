"""`orchard bench moe_lottery` at a toy size: what is measured, ratios round by round, sizes of a GPU."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from orchard import timing
from orchard.errors import OrchardError
from orchard.papers.moe_lottery.cli import bench
from orchard.papers.moe_lottery.experiments import speed
from orchard.papers.moe_lottery.experiments.profiles import PROFILES
from orchard.papers.moe_lottery.runs.speed import Speed
from orchard.runs import Runner, Setting, execute

SMALL = PROFILES["smoke"].speed.clone().set(shapes=[[64, 4, 8, 2]], batch=2, length=8, rounds=2)


def runner() -> Runner:
    return lambda configs: execute(configs, jobs=1, device="cpu", report=lambda line: None)


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], speed=SMALL))
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    run = runner()
    parts = bench(lambda name: speed.EXPERIMENTS[name](Setting(), run))
    tables: dict[str, pd.DataFrame] = {name: table for _, name, table, _ in parts}
    assert list(tables) == ["speed", "collector", "collector_memory", "mixtures"]
    assert len(tables["speed"]) == 2 * 4 + 2
    memory = tables["collector_memory"]
    assert memory["times the tokens"].tolist() == [1, 4]
    assert memory["times the bytes"].max() < 1.05
    assert memory["sums"].nunique() == 1
    assert (tables["speed"]["ms"] > 0).all()
    assert list(tables["mixtures"].columns) == [
        "shape", "what", "loop / ours", "transformers grouped_mm / ours", "transformers eager / ours"
    ]  # fmt: skip


def test_ratios_are_taken_round_by_round() -> None:
    times = pd.DataFrame({
        "measurement": "block", "what": "forward", "shape": "s", "round": [0, 0, 1, 1, 2, 2], "name": ["ours", "loop"] * 3,
        "seconds": [1.0, 2.0, 10.0, 30.0, 2.0, 10.0],
    })  # fmt: skip
    assert speed.relative(times, "block", "ours")["loop / ours"].tolist() == [3.0]


def test_sizes_of_a_gpu_are_refused_elsewhere() -> None:
    cfg = Speed.Config(gpu=True, shapes=[[64, 4, 8, 2]], batch=1, length=4, rounds=1, label="speed")
    with pytest.raises(OrchardError, match="speed has sizes for a GPU and would run on cpu: use a smaller profile"):
        runner()([cfg])
