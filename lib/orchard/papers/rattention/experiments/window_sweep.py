"""The window sweep on real text: learning rates, every arm and seed, the tidy tables they give, and the evidence of C7 and C8.

The learning rate of each arm (or of each family, where a profile says so) is chosen on a grid by validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard import evidence
from orchard.evidence import Tables, interval, paired, together
from orchard.papers.rattention.data.strata import copy_distance, strata
from orchard.papers.rattention.experiments.profiles import (
    TUNING_SEED,
    chosen,
    model,
    rate_of,
    run_config,
    seeds_of,
    tuned,
    tuned_arms,
)
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best
from orchard.train import TrainLM

DOUBLINGS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
Cell = tuple[str, int, TrainLM.Config, Finished]  # arm, seed, its config and its finished run


def rates(setting: Setting, run: Runner) -> Best:
    """The learning rate of each arm that has a grid, judged by validation loss at a seed of its own."""
    profile = chosen(setting)[0]
    short = replace(profile, steps=profile.tuning_steps)

    def trial(arm: str, rate: float) -> TrainLM.Config:
        return run_config(model(arm, profile), short, setting, TUNING_SEED, rate, f"tuning {arm} lr {rate:g}")

    return tuned(setting, run, dict.fromkeys(tuned_arms(profile, profile.arms), profile.learning_rates), trial)


def trained(setting: Setting, run: Runner, arms: Sequence[str]) -> list[Cell]:
    """Arms at their best rate, at every seed."""
    profile, found = chosen(setting)[0], rates(setting, run)
    cells = [(name, seed, rate_of(found, profile, name)) for name in arms for seed in seeds_of(setting, name)]
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


def effect(units: pd.DataFrame, by: str, first: str, second: str) -> dict[str, Any]:
    """Mean paired difference ``first`` - ``second`` in bits per byte with its 95 % interval, and of each seed: effect, low, high, seeds."""
    gaps = difference(units, by, first, second, first)
    found = interval(gaps)
    seeds = gaps.groupby("seed")["value"].mean().tolist()
    return {"effect": found.estimate, "low": found.low, "high": found.high, "seeds": seeds}


def _distances(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The least and the largest copy distance of each row's stratum; missing where copying does not predict the byte."""
    ends = table["stratum"].str.extract(r"^(\d+)–(\d+)$").astype(float)
    return ends[0], ends[1]


def far(table: pd.DataFrame, window: int) -> pd.DataFrame:
    """Rows of the strata that lie wholly beyond a window: copying predicts the token, from further back than the window reaches."""
    return table[_distances(table)[0] > window]


def near(table: pd.DataFrame, window: int) -> pd.DataFrame:
    """Rows of the strata that lie wholly inside a window."""
    return table[_distances(table)[1] <= window]


def _length(units: pd.DataFrame) -> int:
    """The training length: where the farthest stratum ends."""
    return int(_distances(units)[1].max())


def clue(rows: pd.DataFrame, units: pd.DataFrame, first: str, second: str, part: str) -> pd.DataFrame:
    """``first`` - ``second`` in bits per byte on ``rows`` minus the same where nothing can be copied (stratum ``none``).

    Window by window of the text: an arm that is ahead everywhere, whatever stands where, has no advantage here.
    """
    keys = ["part", "seed", "unit"]
    gain, anyway = (
        difference(table, "arm", first, second, part).set_index(keys)["value"]
        for table in (rows, units[units["stratum"] == "none"])
    )
    return evidence.difference(gain, anyway)


def sweep_clue(baseline: str, where: Callable[[pd.DataFrame, int], pd.DataFrame], tables: Tables) -> pd.DataFrame:
    """``baseline``@w against rattn@w where the clue is `far` (or `near`) minus where there is none, for every window w <= T/4."""
    units = tables("window_sweep_units")
    windows = sorted({int(w) for w in map(_window, pd.unique(units["arm"])) if w <= _length(units) // 4})
    return together(
        clue(where(units, w), units, f"{baseline}@{w}", f"rattn@{w}", f"w = {w}") for w in windows
    )  # fmt: skip


def against_full(arm: str, tables: Tables) -> pd.DataFrame:
    """``arm``@T/8 against full attention with rotary positions, on all text; the part is named after RAttention's."""
    units = tables("window_sweep_units")
    eighth = _length(units) // 8
    return difference(units, "arm", f"{arm}@{eighth}", "full_rope", f"rattn@{eighth} − full_rope")


FLAT = 0.005  # share of the loss within which two rates are as good


def on_edge(tuning: pd.DataFrame, by: str = "arm") -> list[str]:
    """Arms of a table of tuning that are not tuned: the best value is the least or the largest that was tried, and the one beside it
    is worse by more than ``FLAT``."""
    found = []
    for name, grid in tuning.groupby(by, sort=False):
        losses = grid.set_index("learning_rate")["validation_loss"].sort_index().to_list()
        if len(losses) > 1:
            inward = {0: losses[1], len(losses) - 1: losses[-2]}.get(int(np.nanargmin(losses)))
            if inward is not None and not inward <= (1 + FLAT) * np.nanmin(losses):
                found.append(str(name))
    return found


def edges(names: list[str]) -> str:
    """What a gate says of arms that are not tuned; nothing where there are none."""
    return f"; the rate of {', '.join(names)} lies on the edge of its grid" if names else ""


def something_to_recall(tables: Tables) -> tuple[bool, str]:
    """Gate of C7 and C7b: full attention gains on the smallest window beyond T/4, more than where nothing can be copied."""
    units, untuned = tables("window_sweep_units"), on_edge(tables("tuning"))
    window = int(units["arm"].str.extract(r"^swa@(\d+)$")[0].dropna().astype(int).min())
    found = interval(clue(far(units, _length(units) // 4), units, f"swa@{window}", "full_rope", ""))
    gain = f"{found.estimate:+.3f} bits/byte [{found.low:+.3f}, {found.high:+.3f}]"
    said = f"beyond T/4 full attention gains {gain} on a window of {window}"
    return bool(found.low > 0) and not untuned, said + edges(untuned)


LEARNED = 2.1  # bits per byte of full attention; a byte alone takes 4.6, and 400 steps end at 2.5


def full_has_learned(tables: Tables) -> tuple[bool, str]:
    """Gate of C8: full attention is tuned and has learned the text."""
    table, untuned = tables("window_sweep"), on_edge(tables("tuning"))
    loss = float(table.loc[table["arm"] == "full_rope", "bits_per_byte"].mean())
    said = f"full attention needs {loss:.3f} bits/byte, {LEARNED:g} at most"
    return loss <= LEARNED and not untuned, said + edges(untuned)
