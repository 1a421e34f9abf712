"""Associative recall: does a model find again what has left the window? Beside text, where this is rare, the decisive task for R1.

Two local layers and no global one, which would recall for every arm; beside them (``ALSO_GLOBAL``) a pattern that has one: the control,
in which no state is needed. Every arm has the same short convolution and is tuned by itself. What is compared is the accuracy of values
whose key lies beyond everything that a window reaches through its layers.
"""

from __future__ import annotations

import pandas as pd

from orchard.evidence import Tables, paired, together
from orchard.papers.rattention.data.recall import vocab_size
from orchard.papers.rattention.experiments.profiles import PROFILES, TUNING_SEED, chosen, tuned
from orchard.papers.rattention.experiments.window_sweep import edges, on_edge
from orchard.papers.rattention.method.models import arm, shifted
from orchard.papers.rattention.runs.recall import TrainRecall
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best
from orchard.train import AdamW

ALSO_GLOBAL = "+global"  # behind the name of an arm: its second layer is global
ARMS = (
    "full_rope",
    "rattn@{w}",
    "la",
    "swa@{w}",
    "swa_mem@{w}",
    *(f"{kind}@{{w}}{ALSO_GLOBAL}" for kind in ("rattn", "swa", "swa_mem")),
)
RECALLED = 0.9  # accuracy of an arm that has learned the task


def arms(setting: Setting) -> list[str]:
    """The arms of a profile."""
    return [name.format(w=PROFILES[setting.profile].recall.window) for name in ARMS]


def arm_run(name: str, setting: Setting, seed: int, rate: float, trial: bool = False) -> TrainRecall.Config:
    """The run that trains an arm; a trial of a rate is hardly tested."""
    size = PROFILES[setting.profile].recall
    period = size.shape.num_layers + (not name.endswith(ALSO_GLOBAL))
    kind = name.removesuffix(ALSO_GLOBAL)
    decoder = arm(kind, **size.shape.sizes, vocab_size=vocab_size(size.keys), period=period, qk_norm=False)
    return TrainRecall.Config(
        model=shifted(decoder), keys=size.keys, pairs=list(size.pairs), fillers=list(size.fillers), batch_size=size.batch_size,
        steps=size.steps, optim=AdamW.Config(learning_rate=rate), seed=seed, validate_every=max(1, size.steps // size.validations),
        log_every=max(1, size.steps // 50), test_examples=1 if trial else size.test_examples,
        label=f"recall {name} seed {seed} lr {rate:g}",
    )  # fmt: skip


def rates(setting: Setting, run: Runner) -> Best:
    """The learning rate of every arm, judged by validation loss at a seed of its own."""
    grids = dict.fromkeys(arms(setting), PROFILES[setting.profile].recall.learning_rates)
    return tuned(setting, run, grids, lambda name, rate: arm_run(name, setting, TUNING_SEED, rate, trial=True))


def _trained(setting: Setting, run: Runner) -> list[tuple[str, int, Finished]]:
    (_, seeds), rate = chosen(setting, "recall"), rates(setting, run).chosen
    cells = [(name, seed) for name in arms(setting) for seed in seeds]
    done = run([arm_run(name, setting, seed, rate[name]) for name, seed in cells])
    return [(*cell, d) for cell, d in zip(cells, done, strict=True)]


def recall_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed and test sequence: pairs, filler, example, near and far (shares of right answers)."""
    tables = [
        pd.DataFrame({column: values.numpy() for column, values in done.tensors("eval").items()}).assign(
            arm=name, seed=seed
        )
        for name, seed, done in _trained(setting, run)
    ]
    return pd.concat(tables, ignore_index=True)


def recall_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves: arm, seed, step, loss, validation_loss, validation_accuracy (of the far values, longest filler)."""
    tables = [done.metrics().assign(arm=name, seed=seed) for name, seed, done in _trained(setting, run)]
    return pd.concat(tables, ignore_index=True)


def decisive(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`recall_units` that decide claims: the middle number of pairs, the decisive fillers."""
    units, size = recall_units(setting, run), PROFILES[setting.profile].recall
    middle = size.pairs[len(size.pairs) // 2]
    return units[(units["pairs"] == middle) & units["filler"].isin(size.decisive)]


def recalled(baseline: str, tables: Tables, pattern: str = "") -> pd.DataFrame:
    """Accuracy of RAttention minus that of ``baseline`` on far values, a part per filler; ``ALSO_GLOBAL``: where both have a global
    layer that recalls for them (the control)."""
    units = tables("recall_decisive")
    ours = next((name for name in units["arm"] if name.startswith("rattn@")), "") + pattern
    theirs = ours.replace("rattn", baseline)
    return together(
        paired(rows, "arm", ours, theirs, units=["example"], value="far", part=f"filler {filler}")
        for filler, rows in units.groupby("filler")
    )


def task_is_learned(baseline: str, tables: Tables) -> tuple[bool, str]:
    """Gate of C7r and C7br: full attention recalls beyond the window, the baseline inside it, and both are tuned."""
    units, tuning = tables("recall_decisive"), tables("recall_tuning")
    means = units.groupby("arm", sort=False)[["far", "near"]].mean()
    theirs = next((name for name in means.index if name.startswith(f"{baseline}@")), "")
    far, near = float(means["far"].get("full_rope", 0.0)), float(means["near"].get(theirs, 0.0))
    untuned = on_edge(tuning[tuning["arm"].isin(["full_rope", theirs])])
    said = (
        f"full attention recalls {far:.2f} of the far values, {theirs} {near:.2f} of the near ones, {RECALLED:g} needed"
    )
    return min(far, near) >= RECALLED and not untuned, said + edges(untuned)
