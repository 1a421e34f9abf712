"""The window sweep on real text: learning rates, every arm and seed, the tidy tables they give, and the evidence of C7 and C8.

The learning rate of each family is chosen on a grid by validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from orchard.evidence import Tables, interval, paired, together
from orchard.papers.rattention.data.strata import copy_distance, strata
from orchard.papers.rattention.experiments.profiles import FAMILIES, chosen, family, model, run_config, tuned
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best
from orchard.train import TrainLM

DOUBLINGS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
Cell = tuple[str, int, TrainLM.Config, Finished]  # arm, seed, its config and its finished run


def rates(setting: Setting, run: Runner) -> Best:
    """The learning rate of each family: a grid at the first seed, judged by validation loss."""
    profile, seeds = chosen(setting)
    short = replace(profile, steps=profile.tuning_steps)

    def trial(name: str, rate: float) -> TrainLM.Config:
        arm = profile.main_arm[name]
        return run_config(model(arm, profile), short, setting, seeds[0], rate, f"tuning {arm} lr {rate:g}")

    return tuned(setting, run, dict.fromkeys(FAMILIES, profile.learning_rates), trial)


def tuning(setting: Setting, run: Runner) -> pd.DataFrame:
    """Validation loss of one arm per family on the grid: arm, family, learning_rate, seed, validation_loss, chosen, widened."""
    profile, seeds = chosen(setting)
    table = rates(setting, run).table.rename(columns={"value": "learning_rate", "score": "validation_loss"})
    return table.assign(arm=table["family"].map(profile.main_arm), seed=seeds[0])


def trained(setting: Setting, run: Runner, arms: Sequence[str]) -> list[Cell]:
    """Arms at their family's best rate, at every seed."""
    profile, seeds = chosen(setting)
    rate = rates(setting, run).chosen
    cells = [(name, seed, rate[family(name)]) for name in arms for seed in seeds]
    cfgs = [run_config(model(n, profile), profile, setting, s, r, f"{n} seed {s} lr {r:g}") for n, s, r in cells]
    return [(n, s, cfg, done) for (n, s, _), cfg, done in zip(cells, cfgs, run(cfgs), strict=True)]


def trained_arm(setting: Setting, run: Runner, name: str) -> tuple[TrainLM.Config, Finished]:
    """An arm at the first seed: its config and its finished run."""
    return trained(replace(setting, seeds=chosen(setting)[1][:1]), run, [name])[0][2:]


def _window(name: str) -> float:
    return float(name.partition("@")[2] or math.nan)


def training(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves of the main arms: arm, seed, step, loss, validation_loss (nats per token)."""
    cells = trained(setting, run, _arms(setting, main=True))
    return pd.concat([done.metrics().assign(arm=n, seed=s) for n, s, _, done in cells], ignore_index=True)


def window_sweep(setting: Setting, run: Runner, main: bool = False) -> pd.DataFrame:
    """One row per arm (the main ones, or all) and seed: loss, bits per byte, what the cache holds and what a token costs."""
    columns = ("bits_per_byte", "loss", "validation_loss", "parameters", "tokens", "flops_per_token", "cache_bytes")
    return pd.DataFrame(
        [{"arm": n, "family": n.split("@")[0], "window": _window(n), "seed": s, "learning_rate": cfg.optim.learning_rate,
          **{k: done.result[k] for k in columns}} for n, s, cfg, done in trained(setting, run, _arms(setting, main))]
    )  # fmt: skip


def window_sweep_units(setting: Setting, run: Runner, main: bool = False) -> pd.DataFrame:
    """One row per arm, seed, test window and copy-distance stratum: nats and bytes. What intervals are computed from."""
    cells = trained(setting, run, _arms(setting, main))
    return units_table((({"arm": n}, s, done) for n, s, _, done in cells), chosen(setting)[0].seq_len)


def _arms(setting: Setting, main: bool) -> tuple[str, ...]:
    profile = chosen(setting)[0]
    return profile.main_arms if main else profile.arms


def units_table(cells: Iterable[tuple[dict[str, str], int, Finished]], length: int) -> pd.DataFrame:
    """One row per cell, test window and copy-distance stratum: nats and bytes."""
    tables = []
    for names, seed, done in cells:
        scores = done.tensors("eval")
        nll, text = scores["nll"].double().numpy(), scores["tokens"].numpy()
        for stratum, mask in _strata(text.tobytes(), text.shape, length).items():
            sums = {"nats": np.where(mask, nll, 0.0).sum(axis=1), "bytes": mask.sum(axis=1)}
            about = {**names, "seed": seed, "unit": np.arange(len(nll)), "stratum": stratum}
            tables.append(pd.DataFrame({**about, **sums}))
    return pd.concat(tables, ignore_index=True)


@lru_cache(maxsize=8)
def _strata(text: bytes, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
    """The strata of test windows; every arm is scored on the same ones."""
    return strata(copy_distance(np.frombuffer(text, dtype=np.int32).reshape(shape)), length)


def memory_table(setting: Setting, names: Sequence[str], lengths: Sequence[int] = DOUBLINGS) -> pd.DataFrame:
    """Bytes of the tensors of real fp32 caches for one sequence, by arm and tokens; and of the local layers alone."""
    rows = []
    for name in names:
        decoder = model(name, chosen(setting)[0]).build()
        for length in lengths:
            layers = decoder.new_cache(1, length, device="cpu", dtype=torch.float32).layers
            local = sum(layer.bytes() for i, layer in enumerate(layers, start=1) if i % 4)  # the global one is the 4th
            parts = {name: sum(layer.bytes() for layer in layers)}
            if not name.startswith("full"):
                parts[f"{name.replace('@', ' ')}, local layers"] = local
            rows += [{"arm": arm, "tokens": length, "bytes": size, "seed": 0} for arm, size in parts.items()]
    return pd.DataFrame(rows)


def bits(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Bits per byte of each unit, for every value of ``by``, from rows of nats and bytes; no row where a unit has no byte."""
    sums = table.groupby([by, "seed", "unit"], sort=False)[["nats", "bytes"]].sum(skipna=False)
    sums = sums[sums["bytes"] > 0]
    return (sums["nats"] / np.log(2) / sums["bytes"]).rename("value").reset_index()


def difference(table: pd.DataFrame, by: str, first: str, second: str, part: str) -> pd.DataFrame:
    """Paired differences ``first`` - ``second`` in bits per byte, unit by unit, from rows of nats and bytes."""
    return paired(bits(table, by), by, first, second, units=["unit"], value="value", part=part)


def effect(units: pd.DataFrame, by: str, first: str, second: str) -> dict[str, float]:
    """Mean paired difference ``first`` - ``second`` in bits per byte with its 95 % interval: effect, low, high."""
    found = interval(difference(units, by, first, second, first))
    return {"effect": found.estimate, "low": found.low, "high": found.high}


def far(table: pd.DataFrame, window: int) -> pd.DataFrame:
    """Rows of the strata that lie wholly beyond a window: copying predicts the token, from further back than the window reaches."""
    lows = table["stratum"].str.extract(r"^(\d+)–")[0].astype(float)
    return table[lows > window]


def _length(units: pd.DataFrame) -> int:
    """The training length: where the farthest stratum ends."""
    return int(units["stratum"].str.extract(r"–(\d+)$")[0].astype(float).max())


def sweep_far(baseline: str, tables: Tables) -> pd.DataFrame:
    """``baseline``@w against rattn@w on the far stratum, for every window w <= T/4 that has both."""
    units = tables("window_sweep_units")
    windows = sorted({int(w) for w in map(_window, pd.unique(units["arm"])) if w <= _length(units) // 4})
    return together(
        difference(far(units, w), "arm", f"{baseline}@{w}", f"rattn@{w}", f"w = {w}") for w in windows
    )  # fmt: skip


def against_full(tables: Tables) -> pd.DataFrame:
    """rattn@T/8 against full attention with rotary positions, on all text."""
    units = tables("window_sweep_units")
    name = f"rattn@{_length(units) // 8}"
    return difference(units, "arm", name, "full_rope", f"{name} − full_rope")
