"""The reader: S6 on clean renders, its blur curve, the places it finds, and pictures that are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.manzano.data.parser import blur_curve, blurred, characters_right, objects_right, read
from orchard.papers.manzano.data.scene_world import Records, SceneWorld

WORLDS = {
    "laptop": {}, "k = 1": {"k": 1}, "k = 6": {"k": 6}, "strip": {"height": 12, "most": 0, "k": 3},
    "gpu": {"height": 60, "width": 60, "k": 6, "shapes": 6, "colours": 8, "most": 5, "alphabet": 16},
    "most noise": {"noise": 25.0, "tint": 25.0},
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_s6_clean_renders_are_read(name: str) -> None:
    world = SceneWorld.Config(**WORLDS[name], train=1000).build()
    scenes = world.scenes("train")
    found = read(world, world.pixels(scenes))
    assert objects_right(found.records, scenes.records).mean() >= 0.995
    assert characters_right(found.records, scenes.records).mean() >= 0.995
    there = (found.records.shape >= 0) & (scenes.records.shape >= 0)
    assert (found.jitter != scenes.jitter)[there].sum() <= 0.01 * there.sum()


def test_reading_fades_smoothly_under_blur() -> None:
    world = SceneWorld.Config(train=300).build()
    curve = blur_curve(world, world.scenes("train"))
    assert curve["sigma"].is_monotonic_increasing
    for name in ("objects", "characters"):
        assert curve[name].iloc[0] >= 0.995
        assert curve[name].iloc[1] >= 0.99
        assert (curve[name].diff().iloc[1:] <= 0.02).all()
        assert curve[name].between(0.1, 0.95).sum() >= 2, "no cliff"
    assert curve["objects"].iloc[-1] < 0.5
    assert curve["characters"].iloc[-1] < 0.1
    assert (curve["scenes"] <= curve[["objects", "characters"]].min(axis=1) + 1e-9).all()


def test_nothing_is_read_where_nothing_is_drawn_and_reading_does_not_depend_on_what_is_beside_it() -> None:
    world = SceneWorld.Config(train=600).build()
    scenes = world.scenes("train")
    pixels = world.pixels(scenes)
    assert np.array_equal(read(world, pixels).records.values[550:551], read(world, pixels[550:551]).records.values)
    assert len(read(world, pixels[:0])) == 0
    nothing = Records(*(np.full_like(part, -1) for part in vars(scenes.records).values()))
    found = read(world, world.pixels(replace(scenes, records=nothing))).records
    assert (found.shape == -1).all()
    assert (found.text == -1).mean() > 0.95
    for grey in (0, 25, 128, 255):
        assert (read(world, np.full((2, 36, 36, 3), grey, dtype=np.uint8)).records.values == -1).all()


def test_scores_count_what_is_missing_and_what_is_too_much() -> None:
    def records(shape: list[int], colour: list[int], text: list[int]) -> Records:
        return Records(*(np.array([part], dtype=np.int8) for part in (shape, colour, text)))

    truth, nothing = records([0, -1, 2], [1, -1, 3], [1, 2, 3, 4]), records([-1] * 3, [-1] * 3, [1, 2, -1, 3])
    assert objects_right(truth, truth)[0] == objects_right(nothing, nothing)[0] == 1
    assert objects_right(records([0, -1, 2], [1, -1, 0], [1, 2, 3, 4]), truth)[0] == 0.5  # a colour is wrong
    moved = records([0, 1, -1], [1, 1, -1], [1, 2, 3, 4])  # missing in one cell, too much in another
    assert objects_right(moved, truth)[0] == pytest.approx(1 / 3)
    assert objects_right(nothing, truth)[0] == 0
    assert characters_right(nothing, truth)[0] == 0.5


def test_pictures_of_another_size_are_refused_and_no_blur_changes_nothing() -> None:
    world = SceneWorld.Config(train=20).build()
    pixels = world.pixels(world.scenes("train"))
    assert np.array_equal(blurred(pixels, 0.0), pixels)
    with pytest.raises(BadInput, match="pictures of 35 x 36 px, the world's are 36 x 36"):
        read(world, pixels[:, 1:])
