"""Tuning of the references before anything is compared: weight decay, then learning rate, then dropout (specification, 6.3 and 10).

A badly regularised baseline is the commonest way to make synthetic data look good. Each stage keeps the best of the one before, judged
by the loss on validation documents at the best checkpoint, in the first cell of a variant. Repetition and oracle are tuned apart; every
synthetic arm takes what was best for repetition, so it is the synthetic arms that are tuned less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any

import pandas as pd

from orchard.papers.sbp.arms import Study, study
from orchard.papers.sbp.pretrain import Pretrain
from orchard.papers.sbp.profiles import PROFILES, Profile, Regular, cells
from orchard.runs import Runner, Setting


def tuned(setting: Setting, run: Runner, variant: str) -> tuple[Regular, Regular]:
    """What is best for repetition and for the oracle in a variant."""
    found = tuning(setting, run, variant)
    chosen = found[found["chosen"]]
    return tuple(  # type: ignore[return-value]
        Regular(*chosen.loc[chosen["arm"] == arm, ["weight_decay", "dropout", "learning_rate"]].iloc[0])
        for arm in ("repetition", "oracle")
    )


def tuning(setting: Setting, run: Runner, variant: str) -> pd.DataFrame:
    """One row per trial: arm, weight_decay, dropout, learning_rate, loss and validation_loss (nats per document) at the best and the
    last checkpoint, and whether the trial was chosen."""
    profile = PROFILES[setting.profile]
    base = study(setting, cells(setting, variant)[0], profile.start)
    best = {"repetition": profile.start, "oracle": profile.oracle_start}
    tables: dict[tuple[str, Regular], dict[str, Any]] = {}
    for stage in ("weight_decay", "learning_rate", "dropout"):
        trials = [(arm, regular) for arm in best for regular in _trials(profile, arm, best[arm], stage)]
        done = run([trial(base, arm, regular) for arm, regular in trials])
        for (arm, regular), finished in zip(trials, done, strict=True):
            tables[arm, regular] = {"arm": arm, **_fields(regular), **_losses(finished.result)}
        for arm in best:
            own = [regular for other, regular in tables if other == arm]
            best[arm] = min(own, key=lambda regular: float(tables[arm, regular]["validation_loss"]))
    rows = [row | {"chosen": best[arm] == regular} for (arm, regular), row in tables.items()]
    return pd.DataFrame(rows).assign(variant=variant)


def trial(base: Study, arm: str, regular: Regular) -> Pretrain.Config:
    """The training of one trial: the very run that the comparison uses if it is chosen."""
    return base.with_(regular=regular, oracle_regular=regular).arm(arm)


def _trials(profile: Profile, arm: str, best: Regular, stage: str) -> Iterator[Regular]:
    if stage == "weight_decay":
        for value in profile.weight_decays if arm == "repetition" else profile.oracle_weight_decays:
            yield replace(best, weight_decay=value)
    elif stage == "dropout" and arm == "repetition":  # nothing is repeated by the oracle
        for value in profile.dropouts:
            yield replace(best, dropout=value)
    elif stage == "learning_rate":
        for value in profile.learning_rates:
            yield replace(best, learning_rate=value)


def _fields(regular: Regular) -> dict[str, object]:
    return dict(zip(("weight_decay", "dropout", "learning_rate"), astuple(regular), strict=True))


def _losses(result: dict[str, dict[str, float]]) -> dict[str, object]:
    return {
        "loss": result["best"]["loss"], "validation_loss": result["best"]["validation_loss"], "best_step": result["best"]["step"],
        "last_loss": result["last"]["loss"],
    }  # fmt: skip
