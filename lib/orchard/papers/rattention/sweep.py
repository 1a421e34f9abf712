"""The window sweep on real text: learning rates, every arm and seed, and the tidy tables they give.

The learning rate of each family is chosen on a grid by validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from orchard.papers.rattention.data import copy_distance, strata
from orchard.papers.rattention.profiles import Profile, chosen, family, model, run_config
from orchard.runs import Finished, Runner, Setting
from orchard.train import TrainLM


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
