"""Tuning of every arm by itself before anything is compared: its synthesizer's weight decay, then weight decay, rate and dropout of the
model that is compared.

A badly regularised baseline is the commonest way to make synthetic data look good, and arms that take the regularisation of another are
the commonest way to make it look bad. Each stage keeps the best of the one before, judged by the loss on validation documents at the best
checkpoint (of a synthesizer: on held-out pairs), in the first world of a variant at `TRIAL_SEED`; what is compared is trained anew on
other seeds. Repetition comes first: synthesizers start from its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd

from orchard.papers.sbp.experiments.arms import ARMS, COMPARED, REFERENCES, TUNED, Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Profile, Regular
from orchard.runs import Run, Runner, Setting
from orchard.runs.finished import Finished
from orchard.runs.grid import best_of

STAGES = ("tuning_decay", "weight_decay", "learning_rate", "dropout")
COLUMNS = ["study", "arm", *STAGES, "pair_loss", "loss", "validation_loss", "best_step", "last_loss", "edge", "chosen"]
TRIAL_SEED = 0  # of all trials; from `laptop` on no cell has it


_TUNED: WeakKeyDictionary[Any, dict[tuple[Setting, str], Study]] = WeakKeyDictionary()


def trial_study(setting: Setting, variant: str, **changes: Any) -> Study:
    """The study in which a variant is tuned; ``changes`` are those of `arms.study`."""
    return study(setting, Cell(variant, PROFILES[setting.profile].worlds[0], TRIAL_SEED), **changes)


def tuned(setting: Setting, run: Runner, variants: Sequence[str]) -> dict[str, Study]:
    """The study of each variant in which its arms were tuned, with what was best for each; every table asks, so it is kept with the
    runner that found it."""
    known = _TUNED.setdefault(getattr(run, "__self__", run), {})
    missing = [variant for variant in variants if (setting, variant) not in known]
    found = regularised(run, _wanted(setting, missing))[0] if missing else []
    known |= {(setting, variant): study for variant, study in zip(missing, found, strict=True)}
    return {variant: known[setting, variant] for variant in variants}


def tuning(setting: Setting, run: Runner, variants: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per trial: variant (of all of the profile, or of those named), arm, tuning_decay, weight_decay, learning_rate, dropout,
    pair_loss of a synthesizer or loss, validation_loss and last_loss of a model (nats per document), whether the trial was chosen, and
    whether what was chosen lies at the ``edge`` of what was tried."""
    variants = variants or PROFILES[setting.profile].variants
    names = {trial_study(setting, variant).name: variant for variant in variants}
    trials = regularised(run, _wanted(setting, variants))[1]
    return trials.assign(variant=trials.pop("study").map(names))


def _wanted(setting: Setting, variants: Sequence[str]) -> list[tuple[Study, Sequence[str]]]:
    return [(trial_study(setting, variant), ARMS if variant == "dep" else COMPARED) for variant in variants]


def regularised(
    run: Runner, wanted: Iterable[tuple[Study, Sequence[str]]], stages: Sequence[str] = STAGES
) -> tuple[list[Study], pd.DataFrame]:
    """The studies with what is best for each of the named arms, and a row per trial as of :func:`tuning`, with the name of its ``study``.

    A stage of all studies and arms is one batch of runs, references before the arms whose synthesizers start from them."""
    asked = list(wanted)
    found = [base for base, _ in asked]
    trials: dict[tuple[str, str, Regular], dict[str, Any]] = {}
    for references in (True, False):
        families = {
            f"{base.name}, {arm}": (number, arm)
            for number, (base, arms) in enumerate(asked)
            for arm in arms
            if (arm in REFERENCES) is references and (not base.profile.tuned or arm in base.profile.tuned)
        }
        for stage in stages:
            trials |= _stage(run, found, families, stage)
    best = {(base.name, arm): base.regular_of(arm) for base in found for arm in ARMS}
    rows = [
        {"study": name, "arm": arm, **asdict(regular), **row, "chosen": best[name, arm] == regular}
        for (name, arm, regular), row in trials.items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    values = table[list(STAGES)]
    groups = values.groupby([table["study"], table["arm"]])
    low, high = groups.transform("min"), groups.transform("max")
    outermost = (values == high) | ((values == low) & (low > 0))
    table["edge"] = table["chosen"] & (outermost & (low < high)).any(axis=1)
    return found, table


def _stage(
    run: Runner, found: list[Study], families: dict[str, tuple[int, str]], stage: str
) -> dict[tuple[str, str, Regular], dict[str, Any]]:
    """One stage of all families: what its trials gave, by study, arm and regularisation. Puts what is best into ``found``."""
    before = list(found)

    def with_value(family: str, value: float) -> tuple[Study, str, Regular]:
        number, arm = families[family]
        return before[number], arm, replace(before[number].regular_of(arm), **{stage: value})

    def trial(family: str, value: float) -> Run.Config:
        base, arm, regular = with_value(family, value)
        own = base.regularised(arm, regular)
        return own.synthesizer(arm) if stage == "tuning_decay" else own.arm(arm)

    grids = {family: _grid(found[number].profile, arm, stage) for family, (number, arm) in families.items()}
    grids = {family: grid for family, grid in grids.items() if grid}
    widen = 0 if stage == "dropout" else max((base.profile.widen for base in found), default=0)  # a dropout is below 1
    best = best_of(grids, trial, validation_loss, run, widen=widen)
    for family, value in best.chosen.items():
        number, arm = families[family]
        found[number] = found[number].regularised(arm, with_value(family, value)[2])
    tried = [(*with_value(*key), done) for key, (done, *_) in best.runs.items()]
    return {(base.name, arm, regular): losses(done) for base, arm, regular, done in tried}


def validation_loss(done: Finished) -> float:
    """What trials are compared by: nats per validation document at the best checkpoint, or per held-out second document of a tuning."""
    return float(done.result["best"]["validation_loss"] if "best" in done.result else done.result["loss"])


def losses(done: Finished) -> dict[str, Any]:
    """The columns of a trial; of one of a synthesizer the loss on held-out pairs alone."""
    if "best" not in done.result:
        return {"pair_loss": done.result["loss"]}
    best = done.result["best"]
    return {
        "loss": best["loss"], "validation_loss": best["validation_loss"], "best_step": best["step"],
        "last_loss": done.result["last"]["loss"],
    }  # fmt: skip


def _grid(profile: Profile, arm: str, stage: str) -> tuple[float, ...]:
    """The values of a stage; the oracle repeats nothing and has no dropout, and some arms have no synthesizer."""
    if stage == "tuning_decay":
        return profile.tuning_decays if arm in TUNED else ()
    if stage == "dropout":
        return () if arm == "oracle" else profile.dropouts
    grid: tuple[float, ...] = getattr(profile, f"oracle_{stage}s" if arm == "oracle" else f"{stage}s")
    return grid
