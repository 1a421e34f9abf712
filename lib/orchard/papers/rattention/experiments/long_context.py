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
from orchard.papers.rattention.experiments.profiles import (
    PROFILES,
    TUNING_SEED,
    chosen,
    family,
    model,
    rate_of,
    tuned,
    tuned_arms,
)
from orchard.papers.rattention.experiments.window_sweep import edges, on_edge
from orchard.papers.rattention.runs.ruler import TrainRuler
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best
from orchard.stats import spearman
from orchard.train import AdamW

REACHED = 0.9  # validation accuracy that counts as having learned a task


def arm_run(arm: str, setting: Setting, seed: int, learning_rate: float, trial: bool = False) -> TrainRuler.Config:
    """The run that trains an arm on the tasks of a profile and tests it; a trial of a rate is tested at T alone."""
    profile = PROFILES[setting.profile]
    size = profile.ruler
    return TrainRuler.Config(
        model=model(arm, profile), tasks=list(size.tasks), needles=size.needles, length=profile.seq_len, batch_size=size.batch_size,
        steps=size.steps, optim=AdamW.Config(learning_rate=learning_rate), seed=seed, validate_every=max(1, size.steps // size.validations),
        log_every=max(1, size.steps // 50), multiples=[1] if trial else list(size.multiples),
        test_examples=4 if trial else size.test_examples, validation_examples=size.validation_examples,
        label=f"ruler {'tuning ' if trial else ''}{arm} seed {seed} lr {learning_rate:g}",
    )  # fmt: skip


def rates(setting: Setting, run: Runner) -> Best:
    """The learning rate of each arm that has a grid, judged by validation loss at a seed of its own."""
    profile = chosen(setting, "ruler")[0]
    names = tuned_arms(profile, profile.ruler.arms)
    grids = {name: profile.ruler.learning_rates[family(name)] for name in names}
    return tuned(setting, run, grids, lambda name, rate: arm_run(name, setting, TUNING_SEED, rate, trial=True))


def trained(setting: Setting, run: Runner) -> list[tuple[str, int, TrainRuler.Config, Finished]]:
    """Every arm and seed with its config and its finished run."""
    (profile, seeds), found = chosen(setting, "ruler"), rates(setting, run)
    cells = [(arm, seed) for arm in profile.ruler.arms for seed in seeds]
    cfgs = [arm_run(arm, setting, seed, rate_of(found, profile, arm)) for arm, seed in cells]
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


def against(others: tuple[str, ...], tables: Tables, *, multiple: int = 4, instead: str = "") -> pd.DataFrame:
    """Accuracy of rattn@T/8 minus that of other arms at 4T, on every test sequence of RULER's tasks: a part for each that is trained.

    ``{eighth}`` and ``{half}`` in a name stand for T/8 and T/2. For controls: ``multiple`` is another length; with ``instead`` the value
    is the accuracy of the other arm minus that of this one.
    """
    units = tables("ruler_units")
    length = int(units.loc[units["multiple"] == 1, "length"].iloc[0])
    arms = [name.format(eighth=length // 8, half=length // 2) for name in (*others, instead)]
    ours, rows = f"rattn@{length // 8}", units[(units["multiple"] == multiple) & units["task"].isin(RULER_TASKS)]
    pairs = [(arm, (arm, arms[-1]) if instead else (ours, arm)) for arm in arms[:-1]]
    return together(
        paired(rows, "arm", *pair, units=["task", "example"], value="correct", part=f"{ours} − {arm}")
        for arm, pair in pairs
    )


def smaller_windows(tables: Tables, multiples: tuple[int, int] = (4, 8)) -> pd.DataFrame:
    """Spearman's correlation of window and accuracy over the rattn arms, for every seed and RULER task at 4T and at 8T.

    Where all windows do equally well (or equally badly) the correlation is 0, which a sign test leaves out as a tie. ``multiples``:
    the lengths that stand for the two (for the control: 1 and 1).
    """
    table = tables("ruler")
    table = table[(table["family"] == "rattn") & table["ruler"]]
    if table["window"].nunique() < 3:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for part, multiple in zip(("4T", "8T"), multiples, strict=True):
        for (seed, task), arms in table[table["multiple"] == multiple].groupby(["seed", "task"]):
            rho = spearman(arms["window"].to_numpy(), arms["accuracy"].to_numpy()).rho
            rows.append({"part": part, "seed": seed, "unit": task, "value": 0.0 if np.isnan(rho) else rho})
    return pd.DataFrame(rows, columns=COLUMNS)


LEARNED, BEGUN = 0.7, 0.5  # mean accuracy over RULER's tasks at T: learned; well above guessing


def learned(least: dict[str, float], tables: Tables) -> tuple[bool, str]:
    """Gate of C9 to C11: these arms (or families, by a name without a window) have learned the tasks at T, and are tuned."""
    table, untuned = tables("ruler"), on_edge(tables("ruler_tuning"))
    length = int(table.loc[table["multiple"] == 1, "length"].iloc[0])
    at_length = table[(table["multiple"] == 1) & table["ruler"]]
    holds, said = not untuned, []
    for name, needed in least.items():
        arm = name.format(eighth=length // 8, half=length // 2)
        means = at_length[(at_length["arm"] == arm) | (at_length["family"] == arm)].groupby("arm")["accuracy"].mean()
        holds = holds and bool(means.min() >= needed)
        said.append(f"{arm} answers {means.min():.2f} at T, {needed:g} needed")
    return holds, "; ".join(said) + edges(untuned)
