"""Long context: every arm trained on RULER-lite up to length T and tested, as it is, at T … 8T.

"Zero-shot" is about length alone: the tasks are trained, longer sequences are not. The mean over tasks is over RULER's own tasks;
``kv_overwrite`` is reported beside it. At a seed all arms see the same training sequences, the same lengths and the same test sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchard.nn import Decoder
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS, TASKS
from orchard.papers.rattention.experiments.profiles import PROFILES, family, model
from orchard.papers.rattention.runs.ruler import TrainRuler
from orchard.runs import Finished, Runner, Setting
from orchard.stats import spearman
from orchard.train import AdamW

Tables = Callable[[str], pd.DataFrame]
EVIDENCE_COLUMNS = ["part", "seed", "unit", "value"]
FAMILIES = ("full", "swa", "rattn")  # each has its own learning rate
REACHED = 0.9  # validation accuracy that counts as having learned a task


@dataclass(frozen=True)
class Size:
    """Sizes of the long-context experiment at one profile. The model's shape and T are those of the window sweep."""

    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    needles: str
    batch_size: int
    steps: int
    seeds: tuple[int, ...]
    learning_rates: dict[str, tuple[float, ...]]  # the grid of each family, judged by validation loss at the first seed
    test_examples: int  # sequences per task and length
    validations: int  # times during the training
    validation_examples: int = 32  # sequences per task
    multiples: tuple[int, ...] = (1, 2, 4, 8)


SIZES: dict[str, Size] = {
    # One token per needle: with two-token keys a model of this size stays at guessing level. The rates are the best of
    # {1, 2, 3, 4, 6, 8}e-3 for each family (NOTES.md, 2026-11-24): the grid takes longer than the rest of the series.
    "smoke": Size(
        arms=("rattn@16", "full_rope", "swa@16"), tasks=("niah_multikey_1", "kv_overwrite"), needles="pair", batch_size=16,
        steps=240, seeds=(0,), learning_rates={"full": (6e-3,), "swa": (4e-3,), "rattn": (3e-3,)}, test_examples=16, validations=6,
        validation_examples=16,
    ),
    "gpu": Size(
        arms=("full_rope", "full_rnope", "la", "swa@128", "swa@512", "swa_mem@128", "rattn@64", "rattn@128", "rattn@256"), tasks=TASKS,
        needles="words", batch_size=24, steps=1000, seeds=(0, 1, 2), test_examples=256, validations=20,
        learning_rates=dict.fromkeys(FAMILIES, (1e-3, 2e-3, 4e-3)),
    ),
    "paper": Size(
        arms=("full_rope", "swa@2048", "rattn@1024", "rattn@512"), tasks=TASKS, needles="words", batch_size=1020,
        steps=95_367, seeds=(0,), learning_rates=dict.fromkeys(FAMILIES, (1e-3,)), test_examples=500, validations=20,
    ),
}  # fmt: skip


def run_config(
    decoder: Decoder.Config, setting: Setting, seed: int, learning_rate: float, label: str
) -> TrainRuler.Config:
    """The run that trains a decoder on the tasks of a profile and tests it."""
    size = SIZES[setting.profile]
    return TrainRuler.Config(
        model=decoder, tasks=list(size.tasks), needles=size.needles, length=PROFILES[setting.profile].seq_len, batch_size=size.batch_size,
        steps=size.steps, optim=AdamW.Config(learning_rate=learning_rate), seed=seed, validate_every=max(1, size.steps // size.validations),
        log_every=max(1, size.steps // 50), multiples=list(size.multiples), test_examples=size.test_examples,
        validation_examples=size.validation_examples, label=label,
    )  # fmt: skip


def _configs(setting: Setting, cells: list[tuple[str, int, float]]) -> list[TrainRuler.Config]:
    profile = PROFILES[setting.profile]
    return [run_config(model(arm, profile), setting, seed, rate, f"ruler {arm} seed {seed} lr {rate:g}")
            for arm, seed, rate in cells]  # fmt: skip


def _seeds(setting: Setting) -> tuple[int, ...]:
    return setting.seeds or SIZES[setting.profile].seeds


def tuning(setting: Setting, run: Runner) -> pd.DataFrame:
    """Validation loss of one arm per family on the grid of learning rates, at the first seed."""
    eighth, seed = PROFILES[setting.profile].eighth, _seeds(setting)[0]
    arms, grids = ("full_rope", f"swa@{eighth}", f"rattn@{eighth}"), SIZES[setting.profile].learning_rates
    cells = [(arm, seed, rate) for arm in arms for rate in grids[family(arm)]]
    runs = run(_configs(setting, cells))
    return pd.DataFrame(
        [{"arm": arm, "family": family(arm), "learning_rate": rate, "seed": seed, "validation_loss": done.result["validation_loss"],
          "validation_accuracy": done.result["validation_accuracy"]} for (arm, _, rate), done in zip(cells, runs, strict=True)]
    )  # fmt: skip


def _rates(setting: Setting, run: Runner) -> dict[str, float]:
    """The learning rate of each family with the lowest validation loss; nothing is trained where every grid has one value."""
    grids = SIZES[setting.profile].learning_rates
    if all(len(grid) == 1 for grid in grids.values()):
        return {name: grid[0] for name, grid in grids.items()}
    table = tuning(setting, run)
    best = table.loc[table.groupby("family")["validation_loss"].idxmin()]
    return dict(zip(best["family"], best["learning_rate"], strict=True))


def trained(setting: Setting, run: Runner) -> list[tuple[str, int, TrainRuler.Config, Finished]]:
    """Every arm and seed with its config and its finished run."""
    rates = _rates(setting, run)
    cells = [(arm, seed, rates[family(arm)]) for arm in SIZES[setting.profile].arms for seed in _seeds(setting)]
    cfgs = _configs(setting, cells)
    return [(arm, seed, cfg, done) for (arm, seed, _), cfg, done in zip(cells, cfgs, run(cfgs), strict=True)]


def ruler(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, task and length: accuracy (0 … 1). ``multiple`` is length / T, ``ruler`` whether the task is RULER's."""
    rows = []
    for arm, seed, cfg, done in trained(setting, run):
        label = arm.partition("@")[2]
        shared = {"arm": arm, "family": arm.split("@")[0], "window": float(label) if label else math.nan, "seed": seed,
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
    return pd.concat(
        [done.metrics().assign(arm=arm, seed=seed) for arm, seed, _, done in trained(setting, run)], ignore_index=True
    )


def steps_to_reach(curves: pd.DataFrame, accuracy: float = REACHED) -> pd.DataFrame:
    """The first validated step at which each task is answered with ``accuracy`` at length T, per arm, seed and task; missing if never."""
    columns = [name for name in curves.columns if name.startswith("accuracy ")]
    tidy = curves.dropna(subset=["validation_accuracy"]).melt(["arm", "seed", "step"], columns, "task", "accuracy")
    tidy["task"] = tidy["task"].str.removeprefix("accuracy ")
    tidy["step"] = tidy["step"].where(tidy["accuracy"] >= accuracy)
    return tidy.groupby(["arm", "seed", "task"], sort=False)["step"].min().reset_index()


def advantage(other: str, multiple: int, method: str, units: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of ``method`` minus that of ``other`` on every test sequence of RULER's tasks at ``multiple`` times T: one part."""
    rows = units[(units["multiple"] == multiple) & units["task"].isin(RULER_TASKS) & units["arm"].isin([method, other])]
    means = rows.groupby(["seed", "task", "example", "arm"])["correct"].mean().unstack("arm")
    values = (means[method] - means[other]).rename("value").reset_index()
    values["unit"] = values["task"] + " " + values["example"].astype(str)
    return values.assign(part=f"{method} − {other}")[EVIDENCE_COLUMNS]


def against(others: tuple[str, ...], tables: Tables) -> pd.DataFrame:
    """rattn@T/8 against other arms at 4T, a part for each that the profile trains. ``{eighth}`` and ``{half}`` stand for T/8 and T/2."""
    units = tables("ruler_units")
    length = int(units.loc[units["multiple"] == 1, "length"].iloc[0])
    arms = [name.format(eighth=length // 8, half=length // 2) for name in others]
    parts = [advantage(arm, 4, f"rattn@{length // 8}", units) for arm in arms if arm in set(units["arm"])]
    return pd.concat(parts) if parts else pd.DataFrame(columns=EVIDENCE_COLUMNS)


def smaller_windows(tables: Tables) -> pd.DataFrame:
    """Spearman's correlation of window and accuracy over the rattn arms, for every seed and RULER task at 4T and at 8T.

    Where all windows do equally well (or equally badly) the correlation is 0, which a sign test leaves out as a tie.
    """
    table = tables("ruler")
    table = table[(table["family"] == "rattn") & table["ruler"]]
    if table["window"].nunique() < 3:
        return pd.DataFrame(columns=EVIDENCE_COLUMNS)
    rows = []
    for (multiple, seed, task), arms in table[table["multiple"].isin([4, 8])].groupby(["multiple", "seed", "task"]):
        rho = spearman(arms["window"].to_numpy(), arms["accuracy"].to_numpy()).rho
        rows.append({"part": f"{multiple}T", "seed": seed, "unit": task, "value": 0.0 if np.isnan(rho) else rho})
    return pd.DataFrame(rows, columns=EVIDENCE_COLUMNS)
