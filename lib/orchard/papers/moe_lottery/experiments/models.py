"""The models that experts are dropped from: how they learn and what they are."""

from __future__ import annotations

import pandas as pd

from orchard.papers.moe_lottery.experiments.profiles import models
from orchard.runs import Runner, Setting


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
    columns = ["parameters", "flops_per_token", "tokens", "validation_loss", "loss", "bits_per_byte"]
    chosen = models(setting)
    table = pd.DataFrame([done.result for done in run([model.run for model in chosen])])[columns]
    return table.assign(model=[model.name for model in chosen])[["model", *columns]]


EXPERIMENTS = {"training": training, "training_facts": training_facts}
