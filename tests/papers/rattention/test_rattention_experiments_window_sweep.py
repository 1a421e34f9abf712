"""The window sweep: one run for an arm wherever it is asked for, paired evidence, and what caches hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.papers.rattention.experiments import window_sweep
from orchard.papers.rattention.experiments.profiles import PROFILES, TUNING_SEED, tuning_table
from orchard.runs import Finished, Setting


class Told(Finished):
    """A finished run or trial that was not computed; its folder's name is its validation loss."""

    @property
    def result(self) -> dict[str, Any]:
        return {"validation_loss": float(self.folder.name), "failed": ""}


def test_the_model_of_the_notebook_is_a_run_of_the_sweep() -> None:
    """So that nothing is trained twice: same config, seed and rate as the sweep's own run of that arm."""
    asked: list[Any] = []

    def run(cfgs: Any) -> list[Any]:
        asked.append([cfg.fingerprint() for cfg in cfgs])
        rates = [getattr(cfg, "run", cfg).optim.learning_rate for cfg in cfgs]
        return [Told(Path(f"{abs(rate - 4e-3):.4f}")) for rate in rates]

    setting = Setting("smoke")
    cfg, _ = window_sweep.trained_arm(setting, run, "rattn@16")
    assert cfg.optim.learning_rate == 4e-3
    assert asked[-1] == [cfg.fingerprint()]
    window_sweep.trained(setting, run, PROFILES["smoke"].arms)
    assert cfg.fingerprint() in asked[-1]
    tuned = tuning_table(window_sweep.rates(setting, run))
    assert tuned.loc[tuned["chosen"], "learning_rate"].tolist() == [4e-3] * 3
    assert set(tuned["arm"]) == set(PROFILES["smoke"].main_arms)
    assert set(tuning_table(window_sweep.rates(Setting("laptop"), run))["arm"]) == set(PROFILES["laptop"].arms)


def test_rates_are_chosen_at_a_seed_that_no_compared_model_has() -> None:
    asked: list[Any] = []

    def run(cfgs: Any) -> list[Any]:
        asked.extend(getattr(cfg, "run", cfg) for cfg in cfgs)
        return [Told(Path("1.0")) for _ in cfgs]

    window_sweep.trained(Setting("laptop"), run, PROFILES["laptop"].arms)
    short = PROFILES["laptop"].tuning_steps
    assert {cfg.seed for cfg in asked if cfg.steps == short} == {TUNING_SEED}
    compared = {(cfg.label.split()[0], cfg.seed) for cfg in asked if cfg.steps > short}
    assert TUNING_SEED not in {seed for _, seed in compared}
    assert {name: sum(arm == name for arm, _ in compared) for name in ("full_rope", "rattn@16", "rattn@8")} == {
        "full_rope": 5, "rattn@16": 5, "rattn@8": 3,
    }  # fmt: skip


def units() -> pd.DataFrame:
    """T = 64; bits per byte by arm and stratum, with a part of each window that all arms share."""
    bits = {
        "full_rope": (2.0, 1.0),
        "swa@8": (2.0, 1.5),
        "swa@16": (2.0, 1.2),
        "rattn@8": (2.0, 1.1),
        "rattn@32": (2.0, 1.0),
    }
    return pd.DataFrame([
        {"arm": name, "seed": seed, "unit": unit, "stratum": stratum, "bytes": 10, "nats": 10 * np.log(2) * (value + unit + seed)}
        for name, values in bits.items() for seed in (0, 1) for unit in range(3)
        for stratum, value in zip(("none", "33–64"), values, strict=True)
    ])  # fmt: skip


def test_evidence_is_what_is_gained_beyond_the_window_and_not_anyway() -> None:
    table = units().sample(frac=1, random_state=0)
    far = window_sweep.sweep_clue("swa", window_sweep.far, lambda name: table)
    assert set(far["part"]) == {"w = 8"}  # rattn@16 and swa@32 are not there; 32 is more than T/4
    assert far["value"].tolist() == pytest.approx([0.4] * 6)
    behind = table.assign(
        nats=table["nats"] + 10 * np.log(2) * 0.3 * (table["arm"] == "swa@8")
    )  # everywhere: no far advantage
    assert window_sweep.sweep_clue("swa", window_sweep.far, lambda name: behind)["value"].tolist() == pytest.approx(
        [0.4] * 6
    )
    assert window_sweep.sweep_clue(
        "swa", window_sweep.near, lambda name: table
    ).empty  # no stratum lies inside a window
    assert window_sweep.sweep_clue("swa_mem", window_sweep.far, lambda name: table).empty
    full = window_sweep.against_full("rattn", lambda name: table)
    assert full["part"].unique().tolist() == ["rattn@8 − full_rope"]
    assert full["value"].tolist() == pytest.approx([0.05] * 6)  # both strata, as many bytes in each
    control = window_sweep.against_full("swa", lambda name: table)
    assert control["part"].unique().tolist() == ["rattn@8 − full_rope"]
    assert control["value"].tolist() == pytest.approx([0.25] * 6)
    assert window_sweep.effect(table, "arm", "swa@16", "full_rope")["effect"] == pytest.approx(0.1)


def test_a_rate_on_the_edge_of_its_grid_is_not_tuned_unless_the_grid_is_flat_there() -> None:
    losses = {
        "inside": [2.0, 1.0, 2.0],
        "edge": [1.0, 2.0, 3.0],
        "flat": [1.0, 1.001, 3.0],
        "failed": [float("nan"), 1.0, 2.0],
    }
    rows = [{"arm": arm, "learning_rate": rate, "validation_loss": loss}
            for arm, values in losses.items() for rate, loss in zip((1e-3, 2e-3, 4e-3), values, strict=True)]  # fmt: skip
    assert window_sweep.on_edge(pd.DataFrame(rows)) == ["edge"]
    assert window_sweep.on_edge(pd.DataFrame(rows[:1])) == []  # a grid of one rate is a choice, no search


def test_memory_table() -> None:
    table = window_sweep.memory_table(Setting("smoke"), ["full_rope", "rattn@16"], [64, 4096]).set_index(
        ["arm", "tokens"]
    )["bytes"]
    token, state = 2 * 2 * 16 * 4, 4 * 2 * 32 * 16
    assert table["full_rope", 4096] == 4 * 4096 * token
    assert table["rattn@16", 4096] == 4096 * token + 3 * (16 * token + state)
    assert table["rattn 16, local layers", 64] == table["rattn 16, local layers", 4096] == 3 * (16 * token + state)
