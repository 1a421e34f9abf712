"""The comparison: what is tuned, and that arms differ in what they read alone."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.experiments import regularisation
from orchard.papers.sbp.experiments.arms import ARMS, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Regular, cells
from orchard.papers.sbp.figures.training import recovery
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Setting
from sbp_runs import FakeRuns

SMOKE = Setting("smoke")
CELL = Cell("dep", 0, 0)


def test_stages_of_tuning_keep_the_best_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], dropouts=(0.1, 0.2)))
    best = Regular(4.0, 0.2, 8e-3)  # in both grids

    def of(cfg: Any) -> Regular:
        return Regular(cfg.optim.weight_decay, cfg.model.layers[0].dropout, cfg.optim.learning_rate)

    def loss(cfg: Pretrain.Config) -> float:
        away = np.log(np.array(astuple(of(cfg))) + 1e-9) - np.log(np.array(astuple(best)) + 1e-9)
        return float(np.abs(away).sum())

    run = FakeRuns(tmp_path, loss)
    repetition, oracle = regularisation.tuned(SMOKE, run, ["dep"])["dep"]
    assert repetition == best
    assert oracle == replace(best, dropout=PROFILES["smoke"].oracle_start.dropout)  # the oracle repeats nothing
    assert len({of(cfg) for cfg in run.of(Pretrain.Config)}) < 2 * 2 * 2 + 2 * 2  # stages, not a grid
    table = regularisation.tuning(SMOKE, run, ["dep"])
    assert sorted(table[table["chosen"]]["arm"]) == ["oracle", "repetition"]


def test_arms_differ_in_their_mixture_alone() -> None:
    chosen = study(SMOKE, CELL, PROFILES["smoke"].start)
    arms = {name: chosen.arm(name) for name in ARMS}
    for cfg in arms.values():
        assert (cfg.seed, cfg.optim, cfg.model) == (0, arms["repetition"].optim, arms["repetition"].model)
        assert (cfg.mix.budget, cfg.mix.steps) == (chosen.budget, chosen.steps)
    assert len({cfg.fingerprint() for cfg in arms.values()}) == len(ARMS)
    assert chosen.arm("sbp-nn-lm", share=0.0).fingerprint() == chosen.repetition().fingerprint()


def test_a_synthesizer_starts_from_the_repetition_model_and_the_joint_model_from_nothing() -> None:
    chosen = study(SMOKE, CELL, PROFILES["smoke"].start)
    sampled: Any = chosen.sampled("sbp-nn-lm")
    assert sampled.tuned.pretrained.fingerprint() == chosen.repetition().fingerprint()
    assert not sampled.tuned.scratch
    assert {name for name in chosen.arm("sbp-nn-lm").to_dict() if "pretrained" in name} == set()


def table(gains: dict[str, float], variant: str = "dep", seeds: int = 6, documents: int = 40) -> pd.DataFrame:
    """Per-document losses: the arm's mean, a level per document, and a little noise of its own."""
    random = np.random.default_rng(len(variant))
    rows = []
    for seed in range(seeds):
        level = random.normal(20, 5, documents)
        for arm, gain in gains.items():
            loss = level + gain + random.normal(0, 0.2, documents)
            rows.append(
                pd.DataFrame({"document": range(documents), "best": loss, "last": loss + 1}).assign(arm=arm, seed=seed)
            )
    return pd.concat(rows, ignore_index=True).assign(variant=variant, world=0)


def test_recovery_depends_on_the_checkpoint_of_the_baseline() -> None:
    found = table({"repetition": 0.0, "oracle": -4.0, "sbp-nn-lm": -2.0}, seeds=1)
    found.loc[found["arm"] == "repetition", "last"] += 10
    shares = recovery(found).set_index("against")["share"]
    assert shares["best"] == pytest.approx(50, abs=3)
    assert shares["last"] == pytest.approx(100 * 12 / 15, abs=3)  # the last checkpoint of both


def test_cells_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], seeds=(0, 1)))
    assert cells(SMOKE, "dep") == [Cell("dep", 0, 0), Cell("dep", 0, 1)]
    assert cells(SMOKE, "indep") == [Cell("indep", 0, 0)]  # fewer seeds than the first variant
    assert len(cells(Setting("smoke", seeds=(3, 4)))) == 4  # but all that are asked for
    assert len(cells(Setting("gpu"), "dep")) == 6
