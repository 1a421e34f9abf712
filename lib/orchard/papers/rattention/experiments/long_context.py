"""Long context: every arm trained on RULER-lite up to length T and tested, as it is, at T … 8T.

"Zero-shot" is about length alone: the tasks are trained, longer sequences are not. The mean over tasks is over RULER's own tasks;
``kv_overwrite`` is reported beside it. At a seed all arms see the same training sequences, the same lengths and the same test sequences.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from orchard.evidence import COLUMNS, Tables, paired, together
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS
from orchard.papers.rattention.experiments.profiles import PROFILES, chosen, family, model, tuned
from orchard.papers.rattention.runs.ruler import TrainRuler
from orchard.runs import Finished, Runner, Setting
from orchard.stats import spearman
from orchard.train import AdamW

REACHED = 0.9  # validation accuracy that counts as having learned a task


def arm_run(arm: str, setting: Setting, seed: int, learning_rate: float) -> TrainRuler.Config:
    """The run that trains an arm on the tasks of a profile and tests it."""
    profile = PROFILES[setting.profile]
    size = profile.ruler
    return TrainRuler.Config(
        model=model(arm, profile), tasks=list(size.tasks), needles=size.needles, length=profile.seq_len, batch_size=size.batch_size,
        steps=size.steps, optim=AdamW.Config(learning_rate=learning_rate), seed=seed, validate_every=max(1, size.steps // size.validations),
        log_every=max(1, size.steps // 50), multiples=list(size.multiples), test_examples=size.test_examples,
        validation_examples=size.validation_examples, label=f"ruler {arm} seed {seed} lr {learning_rate:g}",
    )  # fmt: skip


def rates(setting: Setting, run: Runner) -> dict[str, float]:
    """The learning rate of each family: a grid at the first seed, judged by validation loss."""
    profile, seeds = chosen(setting, "ruler")
    arms, grids = profile.main_arm, profile.ruler.learning_rates
    return tuned(setting, run, grids, lambda name, rate: arm_run(arms[name], setting, seeds[0], rate)).chosen


def trained(setting: Setting, run: Runner) -> list[tuple[str, int, TrainRuler.Config, Finished]]:
    """Every arm and seed with its config and its finished run."""
    (profile, seeds), rate = chosen(setting, "ruler"), rates(setting, run)
    cells = [(arm, seed) for arm in profile.ruler.arms for seed in seeds]
    cfgs = [arm_run(arm, setting, seed, rate[family(arm)]) for arm, seed in cells]
    return [(arm, seed, cfg, done) for (arm, seed), cfg, done in zip(cells, cfgs, run(cfgs), strict=True)]


def ruler(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, task and length: accuracy (0 … 1). ``multiple`` is length / T, ``ruler`` whether the task is RULER's."""
    rows = []
    for arm, seed, cfg, done in trained(setting, run):
        shared = {"arm": arm, "family": arm.split("@")[0], "window": float(arm.partition("@")[2] or math.nan), "seed": seed,
                  "learning_rate": cfg.optim.learning_rate, **{k: done.result[k] for k in ("tokens", "parameters")}}  # fmt: skip
        for task in cfg.tasks:
            for multiple in cfg.multiples:
                length = multiple * cfg.length
                place = {"task": task, "ruler": task in RULER_TASKS, "length": length, "multiple": multiple}
                rows.append({**shared, **place, "accuracy": done.result["accuracy"][task][str(length)]})
    return pd.DataFrame(rows)


def ruler_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed and query of the test: task, length, multiple, example, correct (0 … 1), depth (0 … 1), distance (tokens).

    Depth and distance are missing where the whole text is asked for.
    """
    parts = []
    for arm, seed, cfg, done in trained(setting, run):
        part = pd.DataFrame({name: column.numpy() for name, column in done.tensors("eval").items()})
        part["task"] = part["task"].map(dict(enumerate(cfg.tasks)))
        part["multiple"] = part["length"] // cfg.length
        part["distance"] = part["distance"].where(part["distance"] >= 0)
        parts.append(part.assign(arm=arm, seed=seed))
    return pd.concat(parts, ignore_index=True)


def ruler_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves: arm, seed, step, loss, validation_loss, validation_accuracy, ``accuracy <task>``; at length T."""
    cells = trained(setting, run)
    return pd.concat([done.metrics().assign(arm=arm, seed=seed) for arm, seed, _, done in cells], ignore_index=True)


def steps_to_reach(curves: pd.DataFrame, accuracy: float = REACHED) -> pd.DataFrame:
    """The first validated step at which each task is answered with ``accuracy`` at length T, per arm, seed and task; missing if never."""
    columns = [name for name in curves.columns if name.startswith("accuracy ")]
    tidy = curves.dropna(subset=["validation_accuracy"]).melt(["arm", "seed", "step"], columns, "task", "accuracy")
    tidy["task"] = tidy["task"].str.removeprefix("accuracy ")
    tidy["step"] = tidy["step"].where(tidy["accuracy"] >= accuracy)
    return tidy.groupby(["arm", "seed", "task"], sort=False)["step"].min().reset_index()


def against(others: tuple[str, ...], tables: Tables) -> pd.DataFrame:
    """Accuracy of rattn@T/8 minus that of other arms at 4T, on every test sequence of RULER's tasks: a part for each that is trained.

    ``{eighth}`` and ``{half}`` in a name stand for T/8 and T/2.
    """
    units = tables("ruler_units")
    length = int(units.loc[units["multiple"] == 1, "length"].iloc[0])
    arms, ours = [name.format(eighth=length // 8, half=length // 2) for name in others], f"rattn@{length // 8}"
    rows = units[(units["multiple"] == 4) & units["task"].isin(RULER_TASKS)]
    return together(
        paired(rows, "arm", ours, arm, units=["task", "example"], value="correct", part=f"{ours} − {arm}")
        for arm in arms
    )


def smaller_windows(tables: Tables) -> pd.DataFrame:
    """Spearman's correlation of window and accuracy over the rattn arms, for every seed and RULER task at 4T and at 8T.

    Where all windows do equally well (or equally badly) the correlation is 0, which a sign test leaves out as a tie.
    """
    table = tables("ruler")
    table = table[(table["family"] == "rattn") & table["ruler"]]
    if table["window"].nunique() < 3:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for (multiple, seed, task), arms in table[table["multiple"].isin([4, 8])].groupby(["multiple", "seed", "task"]):
        rho = spearman(arms["window"].to_numpy(), arms["accuracy"].to_numpy()).rho
        rows.append({"part": f"{multiple}T", "seed": seed, "unit": task, "value": 0.0 if np.isnan(rho) else rho})
    return pd.DataFrame(rows, columns=COLUMNS)
