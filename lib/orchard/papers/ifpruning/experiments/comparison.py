"""The comparison: every arm in FactGrid, at equal optimizer steps, and the evidence for the claims that it decides.

Scores are shares of right answers (exact match) to questions about every key of every domain, asked in wordings that no training
has read. ``R`` is the share of the gap between dense_k and dense_D that an arm recovers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard import evidence
from orchard.evidence import Tables
from orchard.papers.ifpruning.experiments.arms import ARMS, studies
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Cell
from orchard.papers.ifpruning.method.overlap import COLLAPSED, IN_USE, by_domain
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Finished, Runner, Setting

PERMUTATIONS = 9999  # of groups
RELATED = 0.05  # by which related domains have to overlap more
VARIANTS: dict[str, dict[str, float | int]] = {
    "win": {},  # half of the keys shared within a group
    "null": {"rho_all": 1.0, "rho_grp": 0.0},  # everything shared, and as much of it: nothing for a mask to do
    "kin": {"rho_grp": 0.75, "mix": 2, "mix_share": 0.25},  # much shared within a group, and examples of two domains
}


def finished(setting: Setting, run: Runner, variant: str = "win") -> list[tuple[Cell, str, Train.Config, Finished]]:
    """Every arm of every cell of a variant with its finished last stage."""
    profile, wanted = PROFILES[setting.profile], []
    for number, (cell, study) in enumerate(studies(setting, run, **VARIANTS[variant])):
        arms = profile.other_seeds if number else ARMS
        if variant != "win":
            arms = profile.elsewhere.get(variant, ()) + (() if number else profile.once.get(variant, ()))
        wanted += [(cell, arm, study.arm(arm)) for arm in arms]
    return [(*want, done) for want, done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True)]


def arms(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, seed and arm: accuracy per evaluation (``test``, ``seen``, ``swapped``, ``task``, ``mixed``), the gauge of its
    masks, and both ledgers: active parameters and training FLOPs (``reader_flops`` apart); ``bits`` of the facts of its world."""
    rows = []
    for variant in VARIANTS:
        for cell, arm, cfg, done in finished(setting, run, variant):
            result: dict[str, Any] = done.result
            rows.append({
                "variant": variant, "seed": cell.seed, "arm": arm, "bits": cfg.corpus.build().bits, **result["accuracy"], **result["gauge"],
                "active_parameters": result["active_parameters"],
                "training_flops": result["training_flops"] + result["flops_before"], "reader_flops": result["reader_flops"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def answers(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, seed, arm, evaluation and question: variant, seed, arm, evaluation, question, domain, right (0 or 1)."""
    tables = []
    for variant in VARIANTS:
        for cell, arm, _, done in finished(setting, run, variant):
            kept = done.tensors("answers")
            for name in sorted({key.partition(".")[0] for key in kept}):
                right, domain = kept[f"{name}.right"].numpy(), kept[f"{name}.domain"].numpy()
                table = pd.DataFrame(
                    {"question": np.arange(len(right)), "domain": domain, "right": right.astype(float)}
                )
                tables.append(table.assign(variant=variant, seed=cell.seed, arm=arm, evaluation=name))
    return pd.concat(tables, ignore_index=True)


def curves(setting: Setting, run: Runner, variant: str = "win") -> pd.DataFrame:
    """One row per seed, arm and logged step of all stages of a variant: stage, step (over all stages), loss (nats per token), validation
    accuracy, and the gauge. Empty where a profile has no arm there."""
    done = finished(setting, run, variant)
    tables = [chain_metrics(cfg, run).assign(arm=arm, seed=cell.seed) for cell, arm, cfg, _ in done]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def chain_metrics(cfg: Train.Config, run: Runner) -> pd.DataFrame:
    """What was logged in a stage and in all that it starts from, in one count of steps; columns of the metrics, and stage."""
    chain: list[Train.Config] = [cfg]
    while chain[0].start is not None:
        chain.insert(0, chain[0].start)
    tables, before = [], 0
    for stage, done in zip(chain, run(chain), strict=True):
        metrics = done.metrics()
        tables.append(metrics.assign(step=metrics["step"] + before, stage=stage.stage))
        before += stage.steps
    return pd.concat(tables, ignore_index=True)


def mask_overlaps(setting: Setting, run: Runner) -> pd.DataFrame:
    """Mean overlap of the masks of two domains on held-out wordings: seed, arm, layer (from 1), row, column, row_block, column_block (their
    groups), overlap, chance. On the diagonal of different prompts."""
    tables = []
    for cell, arm, cfg, done in finished(setting, run):
        if not done.result["gauge"] or arm not in ("ifp", "ifp_st", "oracle", "rand_mask", "rand_lsh"):
            continue
        corpus, kept = cfg.corpus.build(), done.tensors("masks")
        held_out, group = kept["split"] > 0, torch.tensor(corpus.groups)
        means = by_domain(kept["masks"][held_out], kept["domain"][held_out], len(corpus.domains))
        layer, row, column = np.indices(means.shape).reshape(3, -1)
        tables.append(
            pd.DataFrame({
                "layer": layer + 1, "row": [corpus.domains[i] for i in row], "column": [corpus.domains[i] for i in column],
                "row_block": [chr(65 + g) for g in group[row]], "column_block": [chr(65 + g) for g in group[column]],
                "overlap": means.flatten(), "chance": done.result["gauge"]["chance"],
            }).assign(seed=cell.seed, arm=arm)
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def difference(
    tables: Tables, second: str, first: str = "ifp", variant: str = "win", evaluation: str = "test", against: str | None = None,
    part: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Right answers of one arm minus those of another, question by question; ``against`` is another evaluation of the second."""
    table = tables("answers").query("variant == @variant")

    def right(arm: str, name: str) -> pd.Series:
        chosen = table[(table["arm"] == arm) & (table["evaluation"] == name)]
        return chosen.set_index(["seed", "question"])["right"]

    return evidence.difference(right(first, evaluation), right(second, against or evaluation), part or first)


beats_dense = partial(difference, second="dense_k")  # C1
beats_longer = partial(difference, second="dense_k_long")  # C1f: 1.8 times the pre-training
nothing_to_gain = partial(difference, second="dense_k", variant="null")  # C1n: all domains share everything
beats_static = partial(difference, second="static_kd")  # C2: static pruning with distillation
gates_agree = partial(difference, second="hard_concrete")  # C10: SoftTopK minus HardConcrete
beats_one_mask = partial(difference, second="static")  # the control of C10
per_task = partial(difference, second="ifp", against="task")  # C5: one mask per input minus one per task
masks_matter = partial(difference, second="ifp", against="swapped")  # C6d: own masks minus those of another domain


def beats_dense_by_seed(tables: Tables, variant: str = "win") -> pd.DataFrame:
    """C1s: minus dense_k, the mean of every seed."""
    found = beats_dense(tables, variant=variant).groupby(["part", "seed"])["value"].mean()
    return evidence.of(found, unit="all questions")


def learned_selection(tables: Tables, first: str = "ifp") -> pd.DataFrame:
    """C2s: minus random masks that read the prompt, on held-out wordings and on prompts of two domains."""
    minus = partial(difference, tables, "rand_lsh", first, "kin")
    return evidence.together([minus("test", part="held-out wordings"), minus("mixed", part="two domains")])


def pretraining_matters(tables: Tables, first: str = "ifp") -> pd.DataFrame:
    """C8: minus fine-tuning alone, with both budgets."""
    parts = {"sft_only": "equal total steps", "sft_short": "equal fine-tuning steps"}
    return evidence.together(difference(tables, f"{first}_{arm}", first, part=part) for arm, part in parts.items())


def recovery(tables: Tables, arm: str = "ifp") -> pd.DataFrame:
    """C3: R of every seed."""
    mean = tables("arms").query("variant == 'win'").pivot(index="seed", columns="arm", values="test")
    if not {arm, "dense_k", "dense_D"} <= set(mean):
        return evidence.together([])
    found = (mean[arm] - mean["dense_k"]) / (mean["dense_D"] - mean["dense_k"])
    return evidence.of(found[mean[[arm, "dense_D"]].notna().all(axis=1)], part=arm, unit="seed")


def structure(tables: Tables, arm: str = "ifp") -> pd.DataFrame:
    """C6a: how often domains that are dealt out to groups at random overlap more within groups than across them, in the last layer and
    all seeds at once; ``RELATED`` is first taken from what overlaps within the true groups."""
    table = tables("mask_overlaps").query("arm == @arm and row < column")
    last = table[table["layer"] == table["layer"].max()]
    if last.empty:
        return evidence.together([])
    random, true, drawn = np.random.default_rng(0), 0.0, np.zeros(PERMUTATIONS)
    for _, own in last.groupby("seed"):
        names = sorted({*own["row"], *own["column"]})
        row, column = (own[name].map(names.index).to_numpy() for name in ("row", "column"))
        blocks = dict(zip([*own["row"], *own["column"]], [*own["row_block"], *own["column_block"]], strict=True))
        groups = np.array([blocks[name] for name in names])
        overlap = own["overlap"].to_numpy() - RELATED * (groups[row] == groups[column])
        dealt = np.stack([groups, *(random.permutation(groups) for _ in range(PERMUTATIONS))])
        within = dealt[:, row] == dealt[:, column]
        gap = (within * overlap).sum(1) / within.sum(1) - (~within * overlap).sum(1) / (~within).sum(1)
        true, drawn = true + gap[0], drawn + gap[1:]
    p = (1 + (drawn >= true - 1e-12).sum()) / (1 + PERMUTATIONS)
    return evidence.rows(arm, np.sort(last["seed"].unique()), "all seeds at once", p)


def above_chance(tables: Tables, arm: str = "ifp") -> pd.DataFrame:
    """C6a2: overlap of every two domains of different groups in the last layer, minus chance."""
    table = tables("mask_overlaps").query("arm == @arm and row < column and row_block != column_block")
    last = table[table["layer"] == table["layer"].max()].set_index(["seed", "row", "column"])
    return evidence.difference(last["overlap"], last["chance"], arm)


def early_layers_agree(tables: Tables, arm: str = "ifp") -> pd.DataFrame:
    """C6b: overlap of two domains in the first layer minus that in the last, all pairs."""
    table = tables("mask_overlaps").query("arm == @arm and row < column")
    wide = table.pivot_table(index=["seed", "row", "column"], columns="layer", values="overlap")
    return evidence.difference(wide[wide.columns.min()], wide[wide.columns.max()], arm)


def not_collapsed(tables: Tables) -> pd.DataFrame:
    """C6c: 0.9 minus the overlap across domains, and the union minus 1.5 k/D; both must be positive."""
    return _distances(tables("arms").query("variant == 'win' and arm in ('ifp', 'ifp_st')"))


def collapse_is_seen(tables: Tables) -> pd.DataFrame:
    """The control of C6c: the same of a run whose predictor has to learn to read while it selects."""
    return _distances(tables("collapse").query("arm == 'ifp_unread'").groupby(["seed", "arm"], as_index=False).last())


def _distances(table: pd.DataFrame) -> pd.DataFrame:
    parts = {"overlap": COLLAPSED - table["across"], "union": table["union"] - IN_USE * table["chance"]}
    return evidence.together(evidence.rows(name, table["seed"], table["arm"], value) for name, value in parts.items())
