"""The comparison: every arm in FactGrid, at equal optimizer steps, and the evidence for the claims that it decides.

Scores are shares of right answers (exact match) to questions about every key of every domain, asked in wordings that no training
has read. ``R`` is the share of the gap between dense_k and dense_D that an arm recovers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard.papers.ifpruning.experiments.arms import ARMS, studies
from orchard.papers.ifpruning.experiments.profiles import Cell
from orchard.papers.ifpruning.method.overlap import by_domain
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Finished, Runner, Setting

Tables = Callable[[str], pd.DataFrame]
VARIANTS: dict[str, dict[str, float | int]] = {
    "win": {},  # half of the keys shared within a group
    "null": {"rho_all": 1.0, "rho_grp": 0.0},  # everything shared: nothing for a mask to do
    "kin": {"rho_grp": 0.75, "mix": 2, "mix_share": 0.25},  # much shared within a group, and examples of two domains
    "skills": {"skills": True},  # every group owns two tasks over the values too
}
FIRST_SEED = {"smoke": ARMS, "gpu": ARMS, "paper": ARMS}
OTHER_SEEDS = {
    "smoke": ("dense_k", "ifp", "ifp_st"),
    "gpu": tuple(arm for arm in ARMS if arm not in ("static", "ifp_contrast", "prefix_cond", "moe_seq")), "paper": ARMS,
}  # fmt: skip
ELSEWHERE = {  # arms in the variants after the first
    "smoke": {}, "paper": {},
    "gpu": {
        "null": ("dense_k", "ifp"), "kin": ("dense_k", "film_k", "rand_lsh", "ifp", "ifp_st"), "skills": ("dense_k", "rand_mask", "ifp"),
    },
}  # fmt: skip


def finished(setting: Setting, run: Runner, variant: str = "win") -> list[tuple[Cell, str, Train.Config, Finished]]:
    """Every arm of every cell of a variant with its finished last stage."""
    wanted = []
    for number, (cell, study) in enumerate(studies(setting, run, **VARIANTS[variant])):
        arms: Sequence[str] = (OTHER_SEEDS if number else FIRST_SEED)[setting.profile]
        if variant != "win":
            arms = ELSEWHERE[setting.profile].get(variant, ())
        wanted += [(cell, arm, study.arm(arm)) for arm in arms]
    return [(*want, done) for want, done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True)]


def arms(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, seed and arm: accuracy per evaluation (``test``, ``seen``, ``swapped``, ``task``, ``mixed``), the gauge of its
    masks, and both ledgers: active parameters and training FLOPs (``reader_flops`` apart)."""
    rows = []
    for variant in VARIANTS:
        for cell, arm, _, done in finished(setting, run, variant):
            result: dict[str, Any] = done.result
            rows.append({
                "variant": variant, "seed": cell.seed, "arm": arm, **result["accuracy"], **result["gauge"],
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
                tables.append(
                    pd.DataFrame({"question": np.arange(len(right)), "domain": domain, "right": right.astype(float)})
                    .assign(variant=variant, seed=cell.seed, arm=arm, evaluation=name)
                )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, arm and logged step of all stages of the first variant: stage, step (over all stages), loss (nats per token),
    validation accuracy, and the gauge."""
    tables = [chain_metrics(cfg, run).assign(arm=arm, seed=cell.seed) for cell, arm, cfg, _ in finished(setting, run)]
    return pd.concat(tables, ignore_index=True)


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
        corpus = cfg.corpus.build()
        kept = done.tensors("masks")
        held_out = kept["split"] > 0
        means = by_domain(kept["masks"][held_out], kept["domain"][held_out], len(corpus.domains))
        layer, row, column = (
            index.flatten() for index in torch.meshgrid(*map(torch.arange, means.shape), indexing="ij")
        )
        group = torch.tensor(corpus.groups)
        tables.append(
            pd.DataFrame({
                "layer": layer + 1, "row": [corpus.domains[i] for i in row], "column": [corpus.domains[i] for i in column],
                "row_block": [chr(65 + g) for g in group[row]], "column_block": [chr(65 + g) for g in group[column]],
                "overlap": means.flatten(), "chance": done.result["gauge"]["chance"],
            }).assign(seed=cell.seed, arm=arm)
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def difference(
    tables: Tables, first: str, second: str, variant: str = "win", evaluation: str = "test", against: str | None = None
) -> pd.DataFrame:
    """seed, unit and value: right answers of the first arm minus those of the second, question by question; ``against`` is another
    evaluation of the second."""
    table = tables("answers").query("variant == @variant")

    def right(arm: str, name: str) -> pd.Series:
        chosen = table[(table["arm"] == arm) & (table["evaluation"] == name)]
        return chosen.set_index(["seed", "question"])["right"]

    value = (right(first, evaluation) - right(second, against or evaluation)).dropna().rename("value").reset_index()
    return value.rename(columns={"question": "unit"})


def beats_dense(tables: Tables) -> pd.DataFrame:
    """C1: minus dense_k."""
    return difference(tables, "ifp", "dense_k").assign(part="ifp")


def beats_dense_by_seed(tables: Tables) -> pd.DataFrame:
    """C1s: the same, the mean of every seed."""
    return beats_dense(tables).groupby(["part", "seed"], as_index=False)["value"].mean().assign(unit="all questions")


def beats_longer(tables: Tables) -> pd.DataFrame:
    """C1f: minus dense_k with 1.8 times the pre-training."""
    return difference(tables, "ifp", "dense_k_long").assign(part="ifp")


def nothing_to_gain(tables: Tables) -> pd.DataFrame:
    """C1n: minus dense_k where all domains share everything."""
    return difference(tables, "ifp", "dense_k", "null").assign(part="ifp")


def beats_static(tables: Tables) -> pd.DataFrame:
    """C2: minus static pruning with distillation."""
    return difference(tables, "ifp", "static_kd").assign(part="ifp")


def learned_selection(tables: Tables) -> pd.DataFrame:
    """C2s: minus random masks that read the prompt, on held-out wordings and on prompts of two domains."""
    parts = [
        difference(tables, "ifp", "rand_lsh", "kin", evaluation).assign(part=name)
        for evaluation, name in (("test", "held-out wordings"), ("mixed", "two domains"))
    ]
    return pd.concat(parts, ignore_index=True)


def recovery(tables: Tables) -> pd.DataFrame:
    """C3: R of every seed."""
    mean = tables("arms").query("variant == 'win'").pivot(index="seed", columns="arm", values="test")
    value = (mean["ifp"] - mean["dense_k"]) / (mean["dense_D"] - mean["dense_k"])
    return value.rename("value").dropna().reset_index().assign(part="ifp", unit="seed")


def per_task(tables: Tables) -> pd.DataFrame:
    """C5: one mask per input minus one per task."""
    return difference(tables, "ifp", "ifp", against="task").assign(part="ifp")


def structure(tables: Tables) -> pd.DataFrame:
    """C6a: in the last layer, overlap of every two domains of one group minus the mean overlap of each with the other groups."""
    table = tables("mask_overlaps").query("arm == 'ifp'")
    last = table[(table["layer"] == table["layer"].max()) & (table["row"] != table["column"])]
    outside = last[last["row_block"] != last["column_block"]].groupby(["seed", "row"])["overlap"].mean()
    inside = last[last["row_block"] == last["column_block"]]
    value = inside["overlap"] - outside.loc[list(zip(inside["seed"], inside["row"], strict=True))].to_numpy()
    return pd.DataFrame(
        {"part": "ifp", "seed": inside["seed"], "unit": inside["row"] + "-" + inside["column"], "value": value}
    )


def above_chance(tables: Tables) -> pd.DataFrame:
    """C6a2: mean overlap across groups in the last layer, minus chance."""
    table = tables("mask_overlaps").query("arm == 'ifp' and row_block != column_block")
    last = table[table["layer"] == table["layer"].max()]
    value = (last["overlap"] - last["chance"]).rename("value")
    return last.assign(part="ifp", unit=last["row"] + "-" + last["column"], value=value)[
        ["part", "seed", "unit", "value"]
    ]


def early_layers_agree(tables: Tables) -> pd.DataFrame:
    """C6b: overlap of two domains in the first layer minus that in the last, all pairs."""
    table = tables("mask_overlaps").query("arm == 'ifp' and row < column")
    wide = table.pivot_table(index=["seed", "row", "column"], columns="layer", values="overlap")
    value = (wide[wide.columns.min()] - wide[wide.columns.max()]).rename("value").reset_index()
    return value.assign(part="ifp", unit=value["row"] + "-" + value["column"])[["part", "seed", "unit", "value"]]


def not_collapsed(tables: Tables) -> pd.DataFrame:
    """C6c: 0.9 minus the overlap across domains, and the union minus 1.5 k/D; both must be positive."""
    table = tables("arms").query("variant == 'win' and arm in ('ifp', 'ifp_st')")
    rows = [
        {"part": name, "seed": row["seed"], "unit": row["arm"], "value": value}
        for _, row in table.iterrows()
        for name, value in (("overlap", 0.9 - row["across"]), ("union", row["union"] - 1.5 * row["chance"]))
    ]
    return pd.DataFrame(rows)


def masks_matter(tables: Tables) -> pd.DataFrame:
    """C6d: own masks minus those of another domain."""
    return difference(tables, "ifp", "ifp", against="swapped").assign(part="ifp")
