"""Pictures of one's own: the stages go on after a kill, and what is read of rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manzano_own import language_model, picture_folder, tower
from manzano_runs import BRIEF, assert_unbroken

from orchard.data import DataError
from orchard.errors import BadInput
from orchard.papers.manzano.data.own import OwnPictures, all_pictures, usual_side
from orchard.papers.manzano.experiments import pipeline
from orchard.papers.manzano.integrations.causal_lm import Words
from orchard.papers.manzano.runs.own import BYTES, END, captions, texts, tokenizer_of
from orchard.pretrained.folder import load_tokenizer
from orchard.runs import Store

QUICK: dict[str, Any] = {"size": "tiny", "steps": 4, "batch": 6}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("own") / "pictures")


def brief(cfg: Any) -> Any:
    return cfg.clone().set(**(BRIEF | {"seed": cfg.seed}))


def test_a_killed_tokenizer_and_a_killed_language_model_go_on(
    images: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = pipeline.plan(images, **QUICK, loss="both")
    stages = replace(stages, tokenizer=brief(stages.tokenizer))
    with monkeypatch.context() as patch:
        assert_unbroken(stages.tokenizer, store, tmp_path / "tokenizer", patch)
    codes = stages.codes.clone().set(tokenizer=stages.tokenizer)
    for kind in ("llama-tied", "gpt2"):
        folder = language_model(tmp_path / kind, kind)
        unified = brief(pipeline.plan_unified(replace(stages, codes=codes), folder, steps=4, batch=3, learning_rate=0.01))  # fmt: skip
        with monkeypatch.context() as patch:
            assert_unbroken(unified, store, tmp_path / f"{kind} tuned", patch)
    done = store.compute(unified, "cpu")
    assert done.result["validation_loss"] < done.result["initial"]["validation_loss"]
    before, after = (store.compute(cfg, "cpu").tensors("tokenizer") for cfg in (stages.tokenizer, unified))
    same = {name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])}  # fmt: skip
    assert {name for name in before if name.startswith(("vision.", "discrete.project."))} <= same
    assert "continuous.hidden.weight" not in same  # the continuous adapter has learned


def test_a_given_tower_may_be_frozen(images: Path, store: Store, tmp_path: Path) -> None:
    theirs = tower(tmp_path / "siglip", "siglip").vision_model.state_dict()
    stages = pipeline.plan(images, **QUICK, vision=tmp_path / "siglip", freeze_vit=True, levels=[3, 3])
    tok = tokenizer_of(store.compute(stages.tokenizer, "cpu"), stages.tokenizer)
    assert all(torch.equal(value, tok.vision.model.state_dict()[name]) for name, value in theirs.items())
    assert (tok.r, tok.n, tok.quantizer.size) == (3, 4, 9)
    free = pipeline.plan(images, **QUICK, vision=tmp_path / "siglip")
    tok = tokenizer_of(store.compute(free.tokenizer, "cpu"), free.tokenizer)
    assert not torch.equal(next(iter(theirs.values())), next(iter(tok.vision.model.state_dict().values())))


def test_rows_become_texts(images: Path, tmp_path: Path) -> None:
    world: OwnPictures = pipeline.plan(images, **QUICK).codes.world.build()
    task = texts(world, "validation", BYTES.encode, [END], END, longest=12)
    assert {bytes(answer[:2]) for answer in task.answers} == {b"a "}
    assert all(len(answer) == 11 and END not in answer for answer in task.answers)  # cut
    whole = texts(world, "validation", BYTES.encode, [END], END, longest=128)
    assert all(answer[-1] == END for answer in whole.answers)
    words = Words(load_tokenizer(language_model(tmp_path / "llama")))
    task = texts(world, "validation", words.encode, words.before, words.eos, 128)
    drawn = captions(task, words)
    assert words.decode(drawn.prompts[0]) == world.texts("validation")[0][1]
    asked = replace(task, prompts=[[*prompt, 5] for prompt in task.prompts])
    with pytest.raises(BadInput, match="has a caption to be drawn by"):
        captions(asked, words)


def test_rows_with_questions_and_rows_without_text(images: Path, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "asked")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    asked = [{"file_name": row["file_name"], "question": "what?", "answer": row["caption"]} for row in rows]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    world: OwnPictures = pipeline.plan(folder, **QUICK).codes.world.build()
    assert all(question == "what?" and answer.startswith("a ") for question, answer in world.texts("train"))
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no text: write a metadata.jsonl"):
        pipeline.plan(folder, **QUICK)
    names, pixels = all_pictures(folder, 24, 24)  # to encode them no text is needed
    assert (len(names), pixels.shape[1:]) == (120, (24, 24, 3))


def test_sizes_come_from_the_pictures(images: Path) -> None:
    assert usual_side(images) == 26
    stages = pipeline.plan(images, size="tiny")
    assert (stages.tokenizer.tokenizer.vision.height, stages.tokenizer.steps, stages.decoder.stages[0].until) == (24, 600, 900)  # fmt: skip
    assert np.prod(stages.tokenizer.tokenizer.quantizer.levels) == 1000
    for fields, said in (
        ({"side": 50}, "50 x 50 pixels cannot be read so: VisionTransformer.Config: the picture is 50 x 50, patch is 4"),
        ({"side": 40}, "r is 3 for 10 x 10 patches"),
        ({"levels": [8, 1, 5]}, r"levels\[1\] is 1: this form of FSQ rounds to 3 ... 1000 levels"),
        ({"size": "tony"}, "did you mean 'tiny'"), ({"loss": "words"}, "known: both, recon, text"),
        ({"freeze_vit": True}, "freeze one that is given"), ({"batch": 0, "steps": 4}, "batch_size is 0"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            pipeline.plan(images, **({"size": "tiny", "side": 24} | fields))
