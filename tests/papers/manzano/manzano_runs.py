"""The smallest runs of every kind, and a training that is killed on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method import models
from orchard.papers.manzano.method.models import Picture, Size
from orchard.papers.manzano.method.unified import Vocabulary
from orchard.papers.manzano.runs.autoencoder import TrainAutoEncoder
from orchard.papers.manzano.runs.features import Features
from orchard.papers.manzano.runs.image_decoder import Resolution, TrainDecoder
from orchard.papers.manzano.runs.lightning import Trains
from orchard.papers.manzano.runs.tokenizer import Phase, Stream, Tokenizer
from orchard.papers.manzano.runs.unified import Stage, Unified
from orchard.runs import Store, Workspace
from orchard.train import AdamW, TrainingRun

WORLD = SceneWorld.Config(height=24, width=36, k=1, most=1, train=60, validation=16, test=24)
PICTURE, LEVELS, KINDS = Picture(24, 36), [5, 4, 3], ["recolour", "move"]  # 6 tokens, 60 codes
BRIEF: dict[str, Any] = {"log_every": 1, "validate_every": 2, "checkpoint_every": 2, "seed": 1}
FAST = BRIEF | {"optim": AdamW.Config(learning_rate=0.03)}  # so that four steps matter
LANGUAGE_MODEL = models.language_model(Size(16, 1, 2, 16), Vocabulary(1, 0))


def tokenizer_run(**fields: Any) -> Tokenizer.Config:
    """Two steps of denser text by the continuous adapter, two of both tasks by both."""
    streams = [Stream.Config(task="read", share=2.0), Stream.Config(task="objects")]
    first = Phase.Config(until=2, streams=[Stream.Config(task="read", k=2)], discrete=0.0)
    values: dict[str, Any] = {
        "tokenizer": models.tokenizer(PICTURE, Size(8, 1, 2, 8), LEVELS, hidden_dim=12, dim=16), "world": WORLD,
        "language_model": LANGUAGE_MODEL, "phases": [first, Phase.Config(until=4, streams=streams)], "batch_size": 6,
        "validation_items": 8, "test_items": 9,
    }  # fmt: skip
    return Tokenizer.Config(**(values | BRIEF | fields))


def features_run(**fields: Any) -> Features.Config:
    return Features.Config(**({"tokenizer": tokenizer_run(), "world": WORLD, "edits": KINDS} | fields))


def autoencoder_run(**fields: Any) -> TrainAutoEncoder.Config:
    values = {"model": models.autoencoder(6, 8, LEVELS), "world": WORLD, "steps": 4, "batch_size": 5}
    return TrainAutoEncoder.Config(**(values | BRIEF | fields))


def unified_run(**fields: Any) -> Unified.Config:
    """Two steps, then two with edits."""
    values: dict[str, Any] = {
        "language_model": LANGUAGE_MODEL, "features": features_run(), "facts": 20,
        "stages": [
            Stage.Config(until=2, understanding=3, generation=3, text=2),
            Stage.Config(until=4, understanding=2, generation=2, text=1, edits=2),
        ],
        "understanding": {"read": 1.0, "general": 1.0}, "generation": {"full": 1.0, "geneval": 1.0}, "edits": {"recolour": 1.0},
    }  # fmt: skip
    return Unified.Config(**(values | FAST | fields))


def decoder_run(editing: bool = False, **fields: Any) -> TrainDecoder.Config:
    """Two steps at half of the height and width, two at the whole."""
    values: dict[str, Any] = {
        "model": models.image_decoder(PICTURE, Size(8, 1, 2), patch=6, code_dim=3, reference=editing), "codes": features_run(),
        "stages": [Resolution.Config(until=2, shrink=2), Resolution.Config(until=4)], "batch_size": 5, "edits": KINDS * editing,
    }  # fmt: skip
    return TrainDecoder.Config(**(values | FAST | fields))


def regression_run(**fields: Any) -> TrainDecoder.Config:
    model = models.regression_decoder(PICTURE, Size(8, 1, 2), code_dim=3)
    return decoder_run(**({"model": model, "stages": [Resolution.Config(until=2)]} | fields))


def assert_unbroken(cfg: TrainingRun.Config, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is killed in its fourth step, after a checkpoint at the second, ends with the bytes of an unbroken one."""
    honest, calls = Trains.training_step, []

    def compute(name: str) -> Any:
        parts = [folder / name / part for part in ("files", "checkpoints")]
        for part in parts:
            part.mkdir(parents=True, exist_ok=True)
        return cfg.clone().build().compute(Workspace(*parts, "cpu", finished=lambda own: store.compute(own, "cpu")))

    def dies(self: Trains, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("killed")
        return honest(self, batch, batch_idx)

    whole = compute("whole")
    monkeypatch.setattr(Trains, "training_step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        compute("broken")
    assert compute("broken") == whole
    assert len(calls) == 4 + 2  # steps 3 and 4, from the checkpoint of step 2
    for file in (file for file in (folder / "whole/files").iterdir() if file.name != "log.txt"):
        assert file.read_bytes() == (folder / "broken/files" / file.name).read_bytes(), file.name


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
