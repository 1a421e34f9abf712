"""SceneWorld against its stated laws: splits by record, determinism, bits, pixels, and the sizes it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.manzano.data import scene_world as sw
from orchard.papers.manzano.data.scene_world import SPLITS, SceneWorld, readable, split_of

SMALL = {"train": 600, "validation": 80, "test": 80}


def world(**fields: object) -> SceneWorld:
    return SceneWorld.Config(**(SMALL | fields)).build()


def test_no_record_is_in_two_splits_whatever_the_seed() -> None:
    few = {"k": 1, "height": 12, "width": 24, "most": 0, "train": 300, "validation": 20, "test": 20}
    worlds = world(**few), world(**few, seed=1)  # 100 records: every one comes up
    rows = {split: {row.tobytes() for w in worlds for row in w.scenes(split).records.values} for split in SPLITS}
    assert len(set.union(*rows.values())) == sum(map(len, rows.values())) > 80


def test_splits_have_their_shares_and_depend_on_nothing_else_of_the_record() -> None:
    w = world(train=6000)
    drawn = sw.Records.joined([w._block(b).records for b in range(10)])
    assert np.abs(np.bincount(split_of(drawn), minlength=3) / len(drawn) - sw.SHARES).max() < 0.015
    text = w.scenes("train").records.text
    for place in (0, -1):
        assert np.abs(np.bincount(text[:, place]) / len(text) - 0.1).max() < 0.02


def test_scenes_are_a_function_of_the_config_and_do_not_depend_on_what_is_drawn_beside_them() -> None:
    w = world()
    scenes = w.scenes("train")
    pixels = w.pixels(scenes)
    assert np.array_equal(pixels, world().pixels(world().scenes("train")))
    assert np.array_equal(pixels[:100], w.pixels(world(train=100).scenes("train")))
    assert np.array_equal(pixels[[3, 555]], w.pixels(scenes.take(np.array([3, 555]))))
    assert not np.array_equal(scenes.records.values, world(seed=1).scenes("train").records.values)
    assert w.pixels(scenes.take(np.arange(0))).shape == (0, 36, 36, 3)


def test_objects_follow_their_law_and_nuisance_says_nothing_of_them() -> None:
    scenes = world(height=60, width=60, shapes=6, colours=8, most=5, train=4000).scenes("train")
    records, there = scenes.records, scenes.records.shape >= 0
    assert np.array_equal(there, records.colour >= 0)
    assert np.abs(np.bincount(there.sum(1), minlength=6)[1:] / len(records) - 0.2).max() < 0.03
    assert np.abs(there.mean(0) - 3 / 20).max() < 0.03
    assert np.abs(np.bincount(records.shape[there]) / there.sum() - 1 / 6).max() < 0.02
    assert np.abs(np.bincount(records.colour[there]) / there.sum() - 1 / 8).max() < 0.02
    about = [there.sum(1), records.text[:, 0], records.shape.max(1)]
    nuisance = [*scenes.tint.T, scenes.texture, scenes.jitter[:, 0, 0], scenes.shade[:, 0, 0]]
    assert np.abs(np.corrcoef(np.stack(about + nuisance))[:3, 3:]).max() < 0.06


def test_bits_are_the_entropy_of_an_enumerated_world() -> None:
    small = world(height=24, width=24, most=1, shapes=2, colours=2, k=1)
    assert small.bits() == pytest.approx({"objects": math.log2(2 * 4), "text": math.log2(100)})
    ways = [math.log2(3 * math.comb(6, m) * 16**m) for m in (1, 2, 3)]
    assert world().bits() == pytest.approx({"objects": np.mean(ways), "text": math.log2(10**6)})
    assert world(height=12, most=0).bits()["objects"] == 0


def test_the_counting_bound_is_that_of_the_specification_and_of_the_rate_distortion_function() -> None:
    assert [round(readable(*at), 2) for at in ((1000, 6), (240, 3), (240, 6))] == [0.74, 0.92, 0.66]
    assert readable(1000, 2) == readable(1000, 3) == 1
    assert readable(1, 1) == pytest.approx(0.1)
    right = readable(1000, 6)
    rate = math.log2(10) + right * math.log2(right) + (1 - right) * math.log2((1 - right) / 9)
    assert rate == pytest.approx(math.log2(1000) / 6)
    with pytest.raises(BadInput, match="codes = 0"):
        readable(0, 1)


def test_pixels_are_what_a_loop_draws() -> None:
    w = world(noise=0.0, k=6)
    scenes = w.scenes("validation")
    pixels, palette = w.pixels(scenes).astype(float), list(sw.COLOURS.values())
    for i in range(4):
        wanted = np.full((36, 36, 3), np.nan)
        for cell, shape, colour in scenes.records.objects(i):
            top, left = 12 * (cell // 3) + scenes.jitter[i, cell, 0], 12 * (cell % 3) + scenes.jitter[i, cell, 1]
            for y, x in zip(*np.nonzero(sw.MASKS[shape, 0, 0]), strict=True):
                wanted[top + y, left + x] = np.clip(np.add(palette[colour], scenes.shade[i, cell]), 0, 255)
        for j, character in enumerate(scenes.records.text[i]):
            row, column = sw.LAYOUT[6][j % 6]
            for y, x in zip(*np.nonzero(sw.GLYPHS[character]), strict=True):
                wanted[24 + 4 * row + y, 12 * (j // 6) + 4 * column + x] = sw.INK
        paper = np.isnan(wanted).any(-1)
        assert np.abs(pixels[i] - wanted)[~paper].max() <= 0.51
        assert np.abs(pixels[i][paper] - scenes.tint[i]).max() <= sw.TEXTURE + 0.51


def test_glyphs_and_shapes_differ() -> None:
    apart = np.abs(sw.GLYPHS[:, None] - sw.GLYPHS).sum((2, 3))
    assert (apart + 99 * np.eye(17)).min() >= 2
    masks = sw.MASKS[:-1, 0, 0].reshape(6, -1)
    common = masks @ masks.T
    iou = common / (masks.sum(1)[:, None] + masks.sum(1) - common)
    assert (iou - np.eye(6)).max() < 0.8
    assert not sw.GLYPHS[:, :, 3].any()  # a gap between characters


def test_pairs_are_held_out_alike_for_every_seed() -> None:
    w = world()
    records = w.scenes("test").records
    assert len(w.unseen) == 2
    assert w.unseen == world(seed=5).unseen
    flags = [any((shape, colour) in w.unseen for _, shape, colour in records.objects(i)) for i in range(len(records))]
    assert w.shows_unseen(records).tolist() == flags
    assert not world(unseen=0.0).shows_unseen(records).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 40}, r"a picture of 40 x 36 px: give multiples of a token, 12 px, from 12 to 72"),
        ({"width": 84}, r"36 x 84 px"),
        ({"k": 4}, r"k = 4: give one of 1, 2, 3, 6 characters a token"),
        ({"most": 4}, r"most = 4 objects in 6 cells: give 1 ... 3"),
        ({"height": 12}, r"most = 3 objects in 0 cells: give 0 ... 0"),
        ({"shapes": 7}, r"shapes = 7, colours = 4: give 2 ... 6 and 2 ... 8"),
        ({"alphabet": 17}, r"alphabet = 17: give 2 ... 16"),
        ({"unseen": 0.9}, r"unseen = 0.9"),
        ({"noise": 40.0}, r"noise = 40.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        world(**fields)


def test_unknown_splits_other_worlds_and_worlds_that_are_too_small_are_refused() -> None:
    w = world()
    with pytest.raises(BadInput, match="there is no split 'tests'; did you mean 'test'"):
        w.scenes("tests")
    with pytest.raises(BadInput, match="6 cells and 6 characters, here are 6 and 3"):
        world(k=1).pixels(w.scenes("test"))
    tiny = world(height=12, width=12, k=1, most=0, alphabet=2, test=10, validation=10)
    with pytest.raises(BadInput, match="too few records"):
        [tiny.scenes(split) for split in SPLITS]
