"""The experiments of the MoE lottery series by name: each gives a tidy table in a setting, running what the store lacks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch

from orchard.nn.moe import MixtureOfExperts
from orchard.papers.moe_lottery import capabilities, invariants, speed, strategies, suite
from orchard.papers.moe_lottery import published as paper
from orchard.papers.moe_lottery.profiles import MIXTRAL, PROFILES, ROUNDS, Profile, Shape, decoder, models
from orchard.runs import Runner, Setting, tabulated, tabulation

__all__ = ["EXPERIMENTS", "LAUNCH", "PROFILES", "Profile", "paper_shapes"]

VOCABULARY = 32_000  # of Mixtral-8x7B
BYTES = 2  # per parameter in bf16
FIRST, MOST = (
    200_000,
    1_130_000,
)  # tokens of the first round of fine-tuning, doubled in every round up to the most (section 3.4)


def paper_shapes() -> pd.DataFrame:
    """Mixtral-8x7B with 0 to 6 of 8 experts dropped, on the meta device: parameters, memory, FLOPs, fine-tuning."""
    rows = []
    tokens = 0
    for dropped in range(ROUNDS + 1):
        shape = Shape(MIXTRAL.num_experts - dropped, MIXTRAL.top_k, MIXTRAL.hidden_dim)
        with torch.device("meta"):
            model = decoder(shape, PROFILES["paper"], VOCABULARY).build()
        tokens += min(FIRST * 2 ** (dropped - 1), MOST) if dropped else 0
        experts = sum(
            p.numel() for m in model.modules() if isinstance(m, MixtureOfExperts) for p in m.experts.parameters()
        )
        rows.append({
            "model": "Mixtral-8x7B", "experts": shape.num_experts, "s (%)": 100 * dropped / MIXTRAL.num_experts,
            "parameters": model.num_parameters(), "in experts (%)": 100 * experts / model.num_parameters(),
            "GB in bf16": BYTES * model.num_parameters() / 1e9, "GFLOPs per token": model.flops_per_token(2048) / 1e9,
            "fine-tuning tokens": tokens, "training FLOPs": 3 * model.flops_per_token(2048) * tokens,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(**{"memory (%)": 100 * table["parameters"] / table["parameters"].iloc[0]})


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return paper.published()


def training(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per model and logged step: arm, seed, step, tokens, loss, validation loss (nats/byte)."""
    chosen = models(setting)
    tables = []
    for model, done in zip(chosen, run([model.run for model in chosen]), strict=True):
        per_step = model.run.batch_size * model.run.seq_len
        metrics = done.metrics()
        arm = f"{model.shape.num_experts} experts, top {model.shape.top_k}"
        tables.append(metrics.assign(arm=arm, seed=model.seed, tokens=metrics["step"] * per_step))
    return pd.concat(tables, ignore_index=True)


def training_facts(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per model: parameters, FLOPs per token, tokens, test loss, bits per byte."""
    columns = ("parameters", "flops_per_token", "tokens", "validation_loss", "loss", "bits_per_byte")
    chosen = models(setting)
    return pd.DataFrame([
        {"model": model.name, **{column: done.result[column] for column in columns}}
        for model, done in zip(chosen, run([model.run for model in chosen]), strict=True)
    ])  # fmt: skip


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "published": published,
    "paper_shapes": published_shapes,
    "training": training,
    "training_facts": training_facts,
    **invariants.EXPERIMENTS,
    **speed.EXPERIMENTS,
    **suite.EXPERIMENTS,
    **strategies.EXPERIMENTS,
    **capabilities.EXPERIMENTS,
}

LAUNCH = "orchard moe_lottery prune MODEL OUT --calibration TEXT --criterion ean --keep 4   (layer by layer)"
