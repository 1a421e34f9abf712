"""Tuning of the references before anything is compared: weight decay, then learning rate, then dropout.

A badly regularised baseline is the commonest way to make synthetic data look good. Each stage keeps the best of the one before, judged
by the loss on validation documents at the best checkpoint, in the first cell of a variant. Repetition and oracle are tuned apart; every
synthetic arm takes what was best for repetition, so it is the synthetic arms that are tuned less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from typing import Any

import pandas as pd

from orchard.papers.sbp.experiments.arms import Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Profile, Regular, cells
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Runner, Setting


def tuned(setting: Setting, run: Runner, variants: Sequence[str]) -> dict[str, tuple[Regular, Regular]]:
    """What is best for repetition and for the oracle in each variant."""
    found = tuning(setting, run, variants)
    best = {
        (row["variant"], row["arm"]): Regular(row["weight_decay"], row["dropout"], row["learning_rate"])
        for row in found[found["chosen"]].to_dict("records")
    }
    return {variant: (best[variant, "repetition"], best[variant, "oracle"]) for variant in variants}


def tuning(setting: Setting, run: Runner, variants: Sequence[str]) -> pd.DataFrame:
    """One row per trial: variant, arm, weight_decay, dropout, learning_rate, loss and validation_loss (nats per document) at the best
    and the last checkpoint, and whether the trial was chosen. A stage of all variants and arms is one batch of runs."""
    profile = PROFILES[setting.profile]
    bases = {variant: study(setting, cells(setting, variant)[0], profile.start) for variant in variants}
    starts = {"repetition": profile.start, "oracle": profile.oracle_start}
    best = {(variant, arm): regular for variant in variants for arm, regular in starts.items()}
    rows: dict[tuple[str, str, Regular], dict[str, Any]] = {}
    for stage in ("weight_decay", "learning_rate", "dropout"):
        trials = [
            (v, arm, regular) for (v, arm), so_far in best.items() for regular in _trials(profile, arm, so_far, stage)
        ]
        done = run([trial(bases[variant], arm, regular) for variant, arm, regular in trials])
        for (variant, arm, regular), finished in zip(trials, done, strict=True):
            rows[variant, arm, regular] = {
                "variant": variant, "arm": arm, **_fields(regular), **_losses(finished.result)
            }  # fmt: skip
        for variant, arm in best:
            own = [regular for v, a, regular in rows if (v, a) == (variant, arm)]
            best[variant, arm] = min(own, key=lambda regular: float(rows[variant, arm, regular]["validation_loss"]))
    return pd.DataFrame([row | {"chosen": best[v, arm] == regular} for (v, arm, regular), row in rows.items()])


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
        for value in profile.learning_rates if arm == "repetition" else profile.oracle_learning_rates:
            yield replace(best, learning_rate=value)


def _fields(regular: Regular) -> dict[str, object]:
    return dict(zip(("weight_decay", "dropout", "learning_rate"), astuple(regular), strict=True))


def _losses(result: dict[str, Any]) -> dict[str, object]:
    return {
        "loss": result["best"]["loss"], "validation_loss": result["best"]["validation_loss"], "best_step": result["best"]["step"],
        "last_loss": result["last"]["loss"],
    }  # fmt: skip
