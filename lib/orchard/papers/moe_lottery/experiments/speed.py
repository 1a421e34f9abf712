"""How long mixtures and the collector take beside their peers, and what the collector holds in memory: sizes and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from orchard.papers.moe_lottery.experiments.profiles import PROFILES
from orchard.papers.moe_lottery.runs.speed import Speed
from orchard.runs import Runner, Setting


def _run(setting: Setting, run: Runner) -> Any:
    sizes = PROFILES[setting.profile].speed
    cfg = Speed.Config(
        gpu=sizes.gpu, shapes=[list(shape) for shape in sizes.shapes], batch=sizes.batch, length=sizes.length, rounds=sizes.rounds,
        memory_batches=sizes.memory_batches, label="speed of mixtures and collector",
    )  # fmt: skip
    return run([cfg])[0]


def speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns measurement, what, name, shape, round, seconds, device, hardware."""
    done = _run(setting, run)
    machine = done.provenance["hardware"]
    return pd.DataFrame(done.result["rows"]).assign(device=machine["device"], hardware=machine["name"])


def collector_memory(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns shape, tokens, bytes (peak while the collector reads them), sums (bytes of its running sums)."""
    return pd.DataFrame(_run(setting, run).result["memory"])


def ratios(times: pd.DataFrame, measurement: str, base: str) -> pd.DataFrame:
    """Time of every peer over that of `base`, median over the rounds: columns shape, what, one per peer."""
    chosen = times[times["measurement"] == measurement]
    wide = chosen.pivot_table(index=["shape", "what", "round"], columns="name", values="seconds", sort=False)
    found = wide.drop(columns=base).div(wide[base], axis=0).groupby(level=["shape", "what"], sort=False).median()
    return found.rename(columns=lambda name: f"{name} / {base}").reset_index()


def medians(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds, median over the rounds: columns shape, measurement, what, name, ms."""
    keys = ["shape", "measurement", "what", "name"]
    return times.groupby(keys, sort=False)["seconds"].median().mul(1e3).rename("ms").reset_index()


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "speed": speed,
    "collector_memory": collector_memory,
}
