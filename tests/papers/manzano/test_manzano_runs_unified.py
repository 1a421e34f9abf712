"""Features, the auto-encoder and the language model: every arm, S3 byte by byte, what a batch holds, killed runs, bad inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manzano_runs import (
    LEVELS,
    WORLD,
    assert_unbroken,
    autoencoder_run,
    decoder_run,
    features_run,
    same,
    tokenizer_run,
    unified_run,
)

from gpu_recipe import two_steps
from orchard.errors import BadInput
from orchard.papers.manzano.data.captions import WORDS, decode
from orchard.papers.manzano.method.unified import IMAGE, SLOT
from orchard.papers.manzano.runs.autoencoder import load_autoencoder, reconstructed
from orchard.papers.manzano.runs.features import edited
from orchard.papers.manzano.runs.image_decoder import Resolution
from orchard.papers.manzano.runs.tokenizer import Phase, Stream, load_tokenizer
from orchard.papers.manzano.runs.unified import Stage, _Lessons, _model, changed_bytes, load_unified
from orchard.runs import Store
from orchard.train import TrainingRun
from orchard.train.seeding import seed_everything

WRITES, READS = ([Stage.Config(until=2, **{kind: 3})] for kind in ("generation", "understanding"))
ARMS: dict[str, dict[str, Any]] = {
    "hybrid": {}, "pure discrete": {"reads": "codes"}, "pure discrete, features": {"reads": "adapter"},
    "dual encoder": {"codes": autoencoder_run(), "edits": {}, "stages": WRITES},
    "dual, semantic": {"codes": features_run(tokenizer=tokenizer_run(seed=2)), "edits": {}, "stages": WRITES},
    "reading alone": {"stages": READS, "generation": {}, "edits": {}},
    "writing alone": {"stages": WRITES, "understanding": {}, "edits": {}},
    "blind": {"reads": "nothing"},
}  # fmt: skip
CONTINUOUS, DISCRETE = "continuous.output.weight", "discrete.mlp.output.weight"
LEARNS = {name: {CONTINUOUS} for name in ("hybrid", "reading alone")} | {"pure discrete, features": {DISCRETE}}


def lessons(store: Store, **fields: Any) -> _Lessons:
    cfg = unified_run(**fields)
    features = store.compute(cfg.features, "cpu")
    return _Lessons(cfg, "train", features, features)


def test_features_are_what_the_tokenizer_makes_of_pictures(store: Store) -> None:
    cfg, world = features_run(), WORLD.build()
    done, scenes = store.compute(cfg, "cpu"), world.scenes("test")
    tok = load_tokenizer(store.compute(cfg.tokenizer, "cpu"), cfg.tokenizer)
    vectors, ids = tok.encode(torch.from_numpy(world.pixels(scenes)))
    assert torch.equal(done.tensors("ids")["test"], ids)
    torch.testing.assert_close(tok.continuous(done.tensors("squares_test")["squares"]), vectors)
    target = torch.from_numpy(world.pixels(edited(world, scenes, "move").target))
    assert torch.equal(done.tensors("edits")["test/move"], tok.encode(target)[1])
    assert (done.result["levels"], done.result["codes"], done.result["tokens"]) == (LEVELS, 60, 6)


def test_an_auto_encoder_and_its_codes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, world = autoencoder_run(), WORLD.build()
    done, pixels = store.compute(cfg, "cpu"), torch.from_numpy(world.pixels(world.scenes("test")))
    drawn, ids = reconstructed(load_autoencoder(done, cfg), pixels)
    assert torch.equal(done.tensors("ids")["test"], ids)
    assert done.result["tokens"] == ids.shape[1] == 24
    assert drawn.shape == pixels.shape
    assert_unbroken(cfg, store, tmp_path, monkeypatch)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_what_it_should_and_leaves_what_is_frozen(store: Store, arm: str) -> None:
    """S3: byte by byte."""
    cfg = unified_run(**ARMS[arm])
    done, tokenizer = store.compute(cfg, "cpu"), store.compute(cfg.features.tokenizer, "cpu")
    codes, result = store.compute(cfg.codes or cfg.features, "cpu"), done.result
    model = load_unified(done, cfg, codes, tokenizer)
    before, after = tokenizer.tensors("tokenizer"), model.tokenizer.state_dict()
    for name in (name for name in before if name.startswith(("vision.", "discrete.project."))):
        assert before[name].numpy().tobytes() == after[name].numpy().tobytes(), name
    assert result["frozen_bytes"] == result["frozen_codes"] == 0
    assert model.language_model.vocab_size == len(WORDS) + 2 + 60
    seed_everything(cfg.seed)
    new = _model(cfg, codes, tokenizer).tokenizer.state_dict()
    assert {name for name in (CONTINUOUS, DISCRETE) if not torch.equal(new[name], after[name])} == LEARNS.get(arm, set())  # fmt: skip
    assert result["validation_loss"] == pytest.approx(result["text_loss"] + 0.5 * result["image_loss"])
    assert (result["image_loss"] == 0, result["text_loss"] == 0) == (cfg.stages == READS, cfg.stages == WRITES)


def test_batches_hold_what_stages_say(store: Store) -> None:
    made = lessons(store)
    first, last = made.batch(0), made.batch(3)
    assert [len(batch["tokens"]) for batch in (first, last)] == [8, 7]
    assert [batch["shown"].shape for batch in (first, last)] == [(3, 6, 72), (4, 6, 72)]  # two are read, two are edited
    assert [int((last["kinds"] == kind).sum()) for kind in (SLOT, IMAGE)] == [4 * 6, 4 * 6]
    assert same(made.batch(3), last)
    alone = lessons(store, stages=WRITES).batch(0)  # the same prompts and codes as beside other kinds
    assert torch.equal(alone["tokens"], first["tokens"][3:6, : alone["tokens"].shape[1]])
    assert len(lessons(store, edits_read=False).batch(3)["shown"]) == 2
    result = store.compute(unified_run(), "cpu").result
    assert result["sequences"] == {"understanding": 10, "generation": 10, "text": 6, "edits": 4}
    assert result["targets"]["image"] == (2 * 3 * 6 + 2 * 4 * 6) / 4


def test_pictures_codes_and_texts_are_of_the_same_scene(store: Store) -> None:
    world, features = WORLD.build(), store.compute(features_run(), "cpu")
    codes, scenes = features.tensors("ids")["train"], world.scenes("train")
    tok = load_tokenizer(store.compute(tokenizer_run(), "cpu"), tokenizer_run())
    honest = lessons(store)
    assert torch.equal(honest.targets[: len(codes)], codes)
    task = honest.tasks["generation"]["full"]
    for row, prompt in zip(task.rows, task.prompts, strict=True):
        assert " ".join(scenes.records.words(row)["text"]) in decode(prompt)
    assert not world.shows_unseen(scenes.records.take(task.rows)).any()
    assert np.array_equal(honest.source[honest.tasks["edits"]["recolour"].rows], edited(world, scenes, "recolour").rows)
    vectors, ids, rows = (honest.batch(3), *(lessons(store, reads=reads).batch(3) for reads in ("adapter", "codes")))
    assert torch.equal(tok.discrete.ids(vectors["shown"]), ids["shown"])
    assert torch.equal(rows["tokens"][:4, 1:7] - len(WORDS) - 2, ids["shown"])
    assert same(rows, rows | {"kinds": vectors["kinds"].where(vectors["kinds"] != SLOT, 0)})


def test_bytes_that_change_are_counted() -> None:
    before = {"vision.a": torch.zeros(3), "discrete.project.bias": torch.ones(2), "continuous.b": torch.zeros(1)}
    after = {"vision.a": torch.tensor([0.0, 1.0, 0.0]), "discrete.project.bias": torch.ones(2), "continuous.b": torch.ones(1)}  # fmt: skip
    assert changed_bytes(before, after) == 2  # 00 00 80 3f


@pytest.mark.parametrize("arm", ["hybrid", "pure discrete"])
def test_a_killed_run_goes_on_bit_for_bit(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str) -> None:  # fmt: skip
    assert_unbroken(unified_run(**ARMS[arm]), store, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "cfg",
    [
        tokenizer_run(phases=[Phase.Config(until=2, streams=[Stream.Config(task="read")])]),
        autoencoder_run(), unified_run(stages=READS), decoder_run(stages=[Resolution.Config(until=2)]),
    ],
)  # fmt: skip
def test_two_steps_of_a_gpu(tmp_path: Path, cfg: TrainingRun.Config) -> None:
    assert two_steps(cfg, tmp_path, compile=False).metrics()["loss"].iloc[1] > 0


def test_bad_inputs() -> None:
    elsewhere = autoencoder_run(world=WORLD.clone().set(seed=5))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"stages": []}, r"stages end at the steps \[\]"),
        ({"stages": [Stage.Config(until=1)]}, "a stage without sequences"),
        ({"stages": [Stage.Config(until=1, text=-1)]}, r"\[-1\] sequences of text: give 0 or more"),
        ({"understanding": {}}, "Unified.Config.understanding is {}: give shares"),
        ({"edits": {"remove": 1.0}}, r"edits has \['remove'\], features has \['recolour', 'move'\]"),
        ({"codes": autoencoder_run()}, "edits are written in the codes of features"),
        ({"codes": elsewhere, "edits": {}, "stages": WRITES}, "codes are of other pictures than features"),
    ]
    for fields, message in wrong:
        with pytest.raises(BadInput, match=message):
            unified_run(**fields).build()
    with pytest.raises(BadInput, match=r"Features.Config.edits has \['inpaint'\]: give kinds whose picture is shown"):
        features_run(edits=["inpaint"]).build()
