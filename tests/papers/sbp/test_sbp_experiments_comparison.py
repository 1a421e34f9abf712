"""The comparison: what is tuned, and that arms differ in what they read alone."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.experiments import regularisation
from orchard.papers.sbp.experiments.arms import ARMS, COMPARED, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Regular, cells
from orchard.papers.sbp.figures.training import recovery
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Setting
from sbp_runs import FakeRuns

SMOKE = Setting("smoke")
CELL = Cell("dep", 0, 0)


def test_every_arm_is_tuned_by_itself_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm has an optimum of its own; grids grow towards those beyond their edge."""
    monkeypatch.setitem(
        PROFILES, "smoke", replace(PROFILES["smoke"], dropouts=(0.0, 0.1, 0.2), tuned=COMPARED, widen=2)
    )
    best = {
        "repetition": Regular(4.0, 0.2, 8e-3),
        "sbp-nn-lm": Regular(1.0, 0.1, 16e-3),
        "uncond": Regular(2.0, 0.1, 32e-3),
    }

    def of(cfg: Any) -> Regular:
        return Regular(cfg.optim.weight_decay, cfg.model.layers[0].dropout, cfg.optim.learning_rate)

    def loss(cfg: Pretrain.Config) -> float:
        wanted = best.get(cfg.label.partition(";")[0], best["repetition"])
        away = np.log(np.array(astuple(of(cfg))) + 1e-9) - np.log(np.array(astuple(wanted)) + 1e-9)
        return float(np.abs(away).sum())

    run = FakeRuns(tmp_path, loss)
    found = regularisation.tuned(SMOKE, run, ["dep"])["dep"]
    assert {arm: found.regular_of(arm) for arm in best} == best
    assert found.regular_of("oracle") == replace(best["repetition"], dropout=0.0)  # it repeats nothing
    assert found.regular_of("sbp-true") == best["repetition"]  # not asked to be tuned here
    synthesizer: Any = found.sampled("sbp-nn-lm")
    assert of(synthesizer.tuned.pretrained) == best["repetition"]
    table = regularisation.tuning(SMOKE, run, ["dep"]).set_index("arm")
    assert sorted(table[table["chosen"]].index) == sorted(COMPARED)
    assert table[table["chosen"]]["edge"].to_dict() == {
        arm: arm in ("repetition", "sbp-random") for arm in COMPARED
    }  # their dropout
    assert {cfg.seed for cfg in run.of(Pretrain.Config)} == {regularisation.TRIAL_SEED}
    assert not set(PROFILES["laptop"].seeds) & {regularisation.TRIAL_SEED}


def test_arms_differ_in_their_mixture_alone() -> None:
    chosen = study(SMOKE, CELL)
    arms = {name: chosen.arm(name) for name in ARMS}
    chosen = chosen.regularised("sbp-true", other := Regular(1.0, 0.2, 8e-3))
    assert chosen.arm("sbp-true").optim.weight_decay == other.weight_decay
    assert chosen.arm("sbp-nn-lm") == arms["sbp-nn-lm"]
    arms.pop("oracle")  # has another start
    for cfg in arms.values():
        assert (cfg.seed, cfg.optim, cfg.model) == (0, arms["repetition"].optim, arms["repetition"].model)
        assert (cfg.mix.budget, cfg.mix.steps) == (chosen.budget, chosen.steps)
    assert len({cfg.fingerprint() for cfg in arms.values()}) == len(ARMS) - 1


def test_a_synthesizer_starts_from_the_repetition_model_and_the_joint_model_from_nothing() -> None:
    chosen = study(SMOKE, CELL)
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
