"""The window sweep on real text: learning rates, every arm and seed, the tidy tables they give, and the evidence of C7 and C8.

The learning rate of each family is chosen on a grid by validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from orchard.papers.rattention.data.strata import copy_distance, strata
from orchard.papers.rattention.experiments.profiles import Profile, chosen, family, model, run_config
from orchard.runs import Finished, Runner, Setting
from orchard.stats import paired_bootstrap
from orchard.train import TrainLM

Tables = Callable[[str], pd.DataFrame]
DOUBLINGS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)


def tuning(setting: Setting, run: Runner) -> pd.DataFrame:
    """Validation loss of one arm per family on the grid of learning rates, at the first seed."""
    profile, seeds = chosen(setting)
    grid = [(name, rate) for name in profile.main_arms for rate in profile.learning_rates]
    runs = run(
        [run_config(model(n, profile), profile, setting, seeds[0], r, f"{n} seed {seeds[0]} lr {r:g}") for n, r in grid]
    )
    return pd.DataFrame(
        [{"arm": n, "family": family(n), "learning_rate": r, "seed": seeds[0], "validation_loss": done.result["validation_loss"]}
         for (n, r), done in zip(grid, runs, strict=True)]
    )  # fmt: skip


def best_rates(setting: Setting, run: Runner) -> dict[str, float]:
    """The learning rate of each family with the lowest validation loss."""
    table = tuning(setting, run)
    best = table.loc[table.groupby("family")["validation_loss"].idxmin()]
    return dict(zip(best["family"], best["learning_rate"], strict=True))


def trained(setting: Setting, run: Runner, arms: Sequence[str]) -> list[tuple[str, int, TrainLM.Config, Finished]]:
    profile, seeds = chosen(setting)
    rates = best_rates(setting, run)
    cells = [(name, seed) for name in arms for seed in seeds]
    cfgs = [
        run_config(model(n, profile), profile, setting, s, rates[family(n)], f"{n} seed {s} lr {rates[family(n)]:g}")
        for n, s in cells
    ]
    return [(n, s, cfg, done) for (n, s), cfg, done in zip(cells, cfgs, run(cfgs), strict=True)]


def _facts(cells: list[tuple[str, int, TrainLM.Config, Finished]]) -> pd.DataFrame:
    columns = ("bits_per_byte", "loss", "validation_loss", "parameters", "tokens", "flops_per_token", "cache_bytes")
    return pd.DataFrame(
        [{"arm": n, "family": n.split("@")[0], "window": _window(n), "seed": s, "learning_rate": cfg.optim.learning_rate,
          **{k: done.result[k] for k in columns}} for n, s, cfg, done in cells]
    )  # fmt: skip


def training(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves of the main arms: arm, seed, step, loss, validation_loss (nats per token)."""
    cells = trained(setting, run, chosen(setting)[0].main_arms)
    return pd.concat([done.metrics().assign(arm=n, seed=s) for n, s, _, done in cells], ignore_index=True)


def training_facts(setting: Setting, run: Runner) -> pd.DataFrame:
    """The main arms, with the columns of :func:`window_sweep`."""
    return _facts(trained(setting, run, chosen(setting)[0].main_arms))


def training_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """The main arms, with the columns of :func:`window_sweep_units`."""
    return _units(setting, run, chosen(setting)[0].main_arms)


def window_sweep(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and seed: loss, bits per byte, what the cache holds and what a token costs."""
    return _facts(trained(setting, run, chosen(setting)[0].arms()))


def window_sweep_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, test window and copy-distance stratum: nats and bytes. What intervals are computed from."""
    return _units(setting, run, chosen(setting)[0].arms())


def _units(setting: Setting, run: Runner, arms: Sequence[str]) -> pd.DataFrame:
    return units_table([({"arm": n}, s, done) for n, s, _, done in trained(setting, run, arms)], chosen(setting)[0])


def _window(name: str) -> float:
    label = name.partition("@")[2]
    return float(label) if label else math.nan


def units_table(cells: list[tuple[dict[str, str], int, Finished]], profile: Profile) -> pd.DataFrame:
    """One row per cell, test window and copy-distance stratum: nats and bytes."""
    rows = []
    for names, seed, done in cells:
        scores = done.tensors("eval")
        nll = scores["nll"].double().numpy()
        text = scores["tokens"].numpy()
        masks = _strata(text.tobytes(), text.shape, profile.seq_len)
        for stratum, mask in masks.items():
            count = mask.sum(axis=1)
            nats = np.where(mask, nll, 0.0).sum(axis=1)
            rows.append(
                pd.DataFrame(
                    {
                        **names,
                        "seed": seed,
                        "unit": np.arange(len(nll)),
                        "stratum": stratum,
                        "nats": nats,
                        "bytes": count,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


@lru_cache(maxsize=8)
def _strata(text: bytes, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
    """The strata of test windows; every arm is scored on the same ones."""
    return strata(copy_distance(np.frombuffer(text, dtype=np.int32).reshape(shape)), length)


def trained_arm(setting: Setting, run: Runner, name: str) -> tuple[TrainLM.Config, Finished]:
    """The run of the window sweep that trains an arm at its family's best learning rate, at the first seed."""
    profile, seeds = chosen(setting)
    rate = best_rates(setting, run)[family(name)]
    label = f"{name} seed {seeds[0]} lr {rate:g}"
    cfg = run_config(model(name, profile), profile, setting, seeds[0], rate, label)
    return cfg, run([cfg])[0]


def memory_table(setting: Setting, names: Sequence[str], lengths: Sequence[int] = DOUBLINGS) -> pd.DataFrame:
    """Bytes of the tensors of real fp32 caches for one sequence, by arm and tokens; and of the local layers alone."""
    profile, _ = chosen(setting)
    rows = []
    for name in names:
        decoder = model(name, profile).build()
        for length in lengths:
            layers = decoder.new_cache(1, length, device="cpu", dtype=torch.float32).layers
            local = sum(layer.bytes() for i, layer in enumerate(layers, start=1) if i % 4)  # the global one is the 4th
            parts = {name: sum(layer.bytes() for layer in layers)}
            if not name.startswith("full"):
                parts[f"{name.replace('@', ' ')}, local layers"] = local
            rows += [{"arm": arm, "tokens": length, "bytes": size, "seed": 0} for arm, size in parts.items()]
    return pd.DataFrame(rows)


def bits(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Bits per byte of each unit, for every value of ``by``, from rows of nats and bytes."""
    sums = table.groupby([by, "seed", "unit"], sort=False)[["nats", "bytes"]].sum()
    return (sums["nats"] / np.log(2) / sums["bytes"].where(sums["bytes"] > 0)).rename("value").reset_index()


def difference(table: pd.DataFrame, by: str, first: str, second: str, part: str) -> pd.DataFrame:
    """Paired differences ``first`` - ``second`` in bits per byte, unit by unit; units without a byte in the stratum are left out."""
    values = bits(table, by).pivot(index=["seed", "unit"], columns=by, values="value")
    paired = (values[first] - values[second]).dropna().rename("value").reset_index()
    return paired.assign(part=part)[["part", "seed", "unit", "value"]]


def interval(units: pd.DataFrame, by: str, first: str, second: str) -> dict[str, float]:
    """Mean paired difference ``first`` - ``second`` in bits per byte with its 95 % interval: effect, low, high."""
    paired = difference(units, by, first, second, first)
    found = paired_bootstrap(paired["value"].to_numpy(), paired["seed"].to_numpy())
    return {"effect": found.estimate, "low": found.low, "high": found.high}


def far(table: pd.DataFrame, window: int) -> pd.DataFrame:
    """Rows of the strata that lie wholly beyond a window: copying predicts the token, from further back than the window reaches."""
    lows = table["stratum"].str.extract(r"^(\d+)–")[0].astype(float)
    return table[lows > window]


def sweep_far(baseline: str, tables: Tables) -> pd.DataFrame:
    """``baseline``@w against rattn@w on the far stratum, for every window w <= T/4 that has both."""
    units, sweep = tables("window_sweep_units"), tables("window_sweep")
    length = int(units.loc[units["stratum"].str.contains("–"), "stratum"].str.split("–").str[1].astype(int).max())
    arms = set(sweep["arm"])
    windows = [
        int(w)
        for w in sorted(sweep["window"].dropna().unique())
        if w <= length // 4 and {f"{baseline}@{w:g}", f"rattn@{w:g}"} <= arms
    ]
    parts = [difference(far(units, w), "arm", f"{baseline}@{w}", f"rattn@{w}", f"w = {w}") for w in windows]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["part", "seed", "unit", "value"])


def against_full(tables: Tables) -> pd.DataFrame:
    """rattn@T/8 against full attention with rotary positions, on all text."""
    units = tables("window_sweep_units")
    length = int(units.loc[units["stratum"].str.contains("–"), "stratum"].str.split("–").str[1].astype(int).max())
    name = f"rattn@{length // 8}"
    return difference(units, "arm", name, "full_rope", f"{name} − full_rope")
