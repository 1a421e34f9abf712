"""The recall run: batches of changing size, the same conv for all arms, an unbroken result, tests that do not depend on the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchard.papers.rattention.experiments.recall import ALSO_GLOBAL, arm_run, arms
from orchard.papers.rattention.runs.recall import RecallBatches, TrainRecall
from orchard.runs import Setting, Store

SMOKE = Setting("smoke")


def cfg(name: str = "rattn@8") -> TrainRecall.Config:
    return arm_run(name, SMOKE, 0, 5e-3)


def test_batches_change_their_size_and_weigh_every_value_alike() -> None:
    batches = RecallBatches(cfg().set(steps=200))
    sizes = {batches.sizes(i) for i in range(200)}
    assert {pairs for pairs, _ in sizes} == {4, 8, 16}
    assert min(filler for _, filler in sizes) <= 2
    assert max(filler for _, filler in sizes) >= 62
    batch = batches.batch(np.array([3]))
    assert batch["tokens"].shape[0] == 4
    assert batch["tokens"].numel() == batches.tokens(3)
    assert float(batch["weight"].sum()) == pytest.approx(1)


def test_arms_differ_in_their_layers_alone() -> None:
    models = {name: cfg(name).model.set(vocab_size=80).build() for name in arms(SMOKE)}
    for name, model in models.items():
        windows = [layer.attention.window for layer in model.layers]
        assert (windows[1] is None) == (name.endswith(ALSO_GLOBAL) or name == "full_rope"), name
        assert model.previous.shape == (64,)
    counts = {model.num_parameters() for name, model in models.items() if "rattn" not in name and name != "la"}
    assert len(counts) == 1


def test_the_vector_before_is_added_and_never_the_one_after() -> None:
    model = cfg().model.set(vocab_size=80).build()
    tokens = torch.tensor([[1, 2, 3]])
    plain = model.embedding(tokens)
    assert torch.equal(model.embed(tokens)[:, 0], plain[:, 0])
    assert torch.allclose(model.embed(tokens)[:, 2], plain[:, 2] + plain[:, 1].roll(1, dims=-1))


def test_training_and_its_tests(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done = {name: store.compute(cfg(name), "cpu") for name in ("rattn@8", "swa@8")}
    first, second = (run.tensors("eval") for run in done.values())
    assert set(first) == {"pairs", "filler", "example", "near", "far"}
    assert torch.equal(first["filler"], second["filler"])
    sizes = set(zip(first["pairs"].tolist(), first["filler"].tolist(), strict=True))
    assert sizes == {(8, 0), (8, 32), (8, 64), (4, 64), (16, 64)}
    assert all(0 <= run.result["validation_accuracy"] <= 1 for run in done.values())
    assert done["rattn@8"].result["tokens"] == done["swa@8"].result["tokens"]
