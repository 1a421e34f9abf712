"""Stage 4: resolutions with the same weights, references, a killed run, bad inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manzano_runs import WORLD, assert_unbroken, decoder_run, features_run, regression_run

from orchard.errors import BadInput
from orchard.papers.manzano.method.decoder import ImageDecoder
from orchard.papers.manzano.method.tokenizer import unit_pixels
from orchard.papers.manzano.runs import image_decoder as runs
from orchard.papers.manzano.runs.image_decoder import Resolution
from orchard.runs import Store


@pytest.mark.parametrize("make", [decoder_run, regression_run])
def test_a_decoder_trains_and_draws(store: Store, make: Any) -> None:
    cfg = make()
    done, codes = store.compute(cfg, "cpu"), store.compute(cfg.codes, "cpu")
    values = runs.quantizer_of(codes).values(codes.tensors("ids")["test"][:3])
    drawn = runs.drawn(runs.load_decoder(done, cfg), values, 2, 1.5, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 24, 36, 3)
    assert done.result["validation_loss"] > 0


@torch.no_grad()
def test_another_resolution_has_the_same_weights_and_its_own_positions() -> None:
    decoder = runs.decoder_of(decoder_run())
    assert isinstance(decoder, ImageDecoder)
    whole = decoder.places.clone(), decoder.code_places.clone()
    runs.resized(decoder, 12)
    assert (decoder.shape, len(decoder.places), len(decoder.code_places)) == ((12, 18, 3), 2 * 3, 6)
    assert decoder(torch.randn(2, 12, 18, 3), torch.rand(2), torch.randn(2, 6, 3)).shape == (2, 12, 18, 3)
    runs.resized(decoder, 24)
    assert torch.equal(decoder.places, whole[0])
    assert torch.equal(decoder.code_places, whole[1])
    assert runs.shrunk(torch.arange(8.0).view(1, 2, 4, 1), 2).flatten().tolist() == [2.5, 4.5]


def test_a_decoder_that_edits_reads_the_picture_before(store: Store) -> None:
    done, world = store.compute(features_run(), "cpu"), WORLD.build()
    pictures = runs._Pictures(decoder_run(editing=True), "train", done)
    batch = pictures.made(np.arange(1), shrink=1)
    before = unit_pixels(torch.from_numpy(world.pixels(runs.edited(world, world.scenes("train"), "recolour").source)))
    assert torch.equal(batch["reference"][0], before[0])
    assert not torch.equal(batch["pictures"][0], before[0])
    assert len(pictures) == sum(len(ids) for name, ids in done.tensors("edits").items() if name.startswith("train/"))


def test_a_killed_run_goes_on_bit_for_bit(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_unbroken(decoder_run(editing=True), store, tmp_path, monkeypatch)


def test_bad_inputs() -> None:
    last = Resolution.Config(until=2)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (decoder_run, {"stages": [Resolution.Config(until=1, shrink=2)]}, "let the last stage have shrink = 1"),
        (decoder_run, {"stages": [Resolution.Config(until=1, shrink=4), last]}, "shrink = 4 for 24 x 36 pixels"),
        (
            regression_run,
            {"stages": [Resolution.Config(until=1, shrink=2), last]},
            "a regression decoder has shrink = 1 alone",
        ),
        (decoder_run, {"stages": []}, r"stages end at the steps \[\]"),
        (decoder_run, {"edits": ["remove"]}, r"edits has \['remove'\], codes has"),
        (decoder_run, {"edits": ["move"]}, "model.reference goes with edits"),
    ]
    for make, fields, message in wrong:
        with pytest.raises(BadInput, match=message):
            make(**fields).build()
