"""Tuning of the references before anything is compared: weight decay, then learning rate, then dropout.

A badly regularised baseline is the commonest way to make synthetic data look good. Each stage keeps the best of the one before, judged
by the loss on validation documents at the best checkpoint, in the first cell of a variant. Repetition and oracle are tuned apart; every
synthetic arm takes what was best for repetition, so it is the synthetic arms that are tuned less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from orchard.papers.sbp.experiments.arms import Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Profile, Regular, cells
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Runner, Setting
from orchard.runs.finished import Finished
from orchard.runs.grid import best_of

STAGES = ("weight_decay", "learning_rate", "dropout")


def tuned(setting: Setting, run: Runner, variants: Sequence[str]) -> dict[str, tuple[Regular, Regular]]:
    """What is best for repetition and for the oracle in each variant."""
    best = _search(setting, run, variants)[0]
    return {variant: (best[variant, "repetition"], best[variant, "oracle"]) for variant in variants}


def tuning(setting: Setting, run: Runner, variants: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per trial: variant (of all of the profile, or of those named), arm, weight_decay, dropout, learning_rate, loss and
    validation_loss (nats per document) at the best and the last checkpoint, and whether the trial was chosen."""
    best, trials = _search(setting, run, variants or PROFILES[setting.profile].variants)
    return pd.DataFrame([
        {"variant": variant, "arm": arm, **asdict(regular), **losses(done), "chosen": best[variant, arm] == regular}
        for (variant, arm, regular), done in trials.items()
    ])  # fmt: skip


def _search(
    setting: Setting, run: Runner, variants: Sequence[str]
) -> tuple[dict[tuple[str, str], Regular], dict[tuple[str, str, Regular], Finished]]:
    """The best of every variant and arm, and every finished trial. A stage of all variants and arms is one batch of runs."""
    profile = PROFILES[setting.profile]
    bases = {variant: study(setting, cells(setting, variant)[0], profile.start) for variant in variants}
    starts = {"repetition": profile.start, "oracle": profile.oracle_start}
    best = {(variant, arm): regular for variant in variants for arm, regular in starts.items()}
    trials: dict[tuple[str, str, Regular], Finished] = {}
    for stage in STAGES:
        families = {f"{variant}, {arm}": (variant, arm) for variant, arm in best if _grid(profile, arm, stage)}
        tried = {family: best[key] for family, key in families.items()}

        def trial(family: str, value: float) -> Pretrain.Config:
            regular = replace(tried[family], **{stage: value})  # noqa: B023  # called within this turn
            variant, arm = families[family]  # noqa: B023
            return of_trial(bases[variant], arm, regular)

        grids = {family: _grid(profile, arm, stage) for family, (_, arm) in families.items()}
        widen = 0 if setting.profile == "smoke" or stage == "dropout" else 2  # a dropout is below 1
        found = best_of(grids, trial, validation_loss, run, widen=widen)
        for (family, value), (done, *_) in found.runs.items():
            trials[*families[family], replace(tried[family], **{stage: value})] = done
        for family, key in families.items():
            best[key] = replace(tried[family], **{stage: found.chosen[family]})
    return best, trials


def of_trial(base: Study, arm: str, regular: Regular) -> Pretrain.Config:
    """The training of one trial: the very run that the comparison uses if it is chosen."""
    return base.with_(regular=regular, oracle_regular=regular).arm(arm)


def validation_loss(done: Finished) -> float:
    """What trials are compared by: nats per validation document at the best checkpoint."""
    return float(done.result["best"]["validation_loss"])


def losses(done: Finished) -> dict[str, Any]:
    """The columns of a trial."""
    best = done.result["best"]
    return {
        "loss": best["loss"], "validation_loss": best["validation_loss"], "best_step": best["step"],
        "last_loss": done.result["last"]["loss"],
    }  # fmt: skip


def _grid(profile: Profile, arm: str, stage: str) -> tuple[float, ...]:
    """The values of a stage; the oracle repeats nothing and has no dropout."""
    if stage == "dropout":
        return () if arm == "oracle" else profile.dropouts
    grid: tuple[float, ...] = getattr(profile, f"oracle_{stage}s" if arm == "oracle" else f"{stage}s")
    return grid
