"""Edits: exact targets, true instructions, no leak between splits."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.manzano.data.captions import encode
from orchard.papers.manzano.data.edits import EDITS, edits, hidden, instructions
from orchard.papers.manzano.data.scene_world import COLOURS, SHAPES, SceneWorld, split_of


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    return SceneWorld.Config(train=600, test=600).build()


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_edits_change_what_they_say_and_nothing_else(world: SceneWorld, kind: str, split: str) -> None:
    scenes = world.scenes(split)
    made = edits(world, scenes, kind)
    assert len(made.rows) > (300 if split == "train" else 60)
    assert np.array_equal(made.source.records.values, scenes.records.values[made.rows])
    before, after = made.source.records, made.target.records
    assert np.array_equal(split_of(before), split_of(after))
    assert split == "test" or not world.shows_unseen(after).any()
    pixels = world.pixels(made.source), world.pixels(made.target)
    assert np.array_equal(pixels[0][~made.mask], pixels[1][~made.mask])
    assert (made.mask.sum((1, 2)) == (288 if kind == "move" else 144)).all()
    for i, text in enumerate(instructions(made, 0)):
        encode(text)
        old, new = set(before.objects(i)), set(after.objects(i))
        cell, to = int(made.cell[i]), int(made.to[i])
        gone, come = old - new, new - old
        assert {p for p, *_ in gone | come} == (set() if kind == "inpaint" else {cell, to})
        assert (len(gone), len(come)) == {"remove": (1, 0), "add": (0, 1), "inpaint": (0, 0)}.get(kind, (1, 1))
        assert 1 <= len(new) <= 3
        assert f"p{cell}" in text.split()
        if kind == "move":
            assert f"p{to}" in text.split()
            assert {x[1:] for x in gone} == {x[1:] for x in come}
        elif kind != "remove":
            (shape, colour) = next(x[1:] for x in new if x[0] == cell)
            assert tuple(COLOURS)[colour] in text.split()
            assert kind == "recolour" or SHAPES[shape] in text.split()
    shown = hidden(pixels[0], made.mask)
    assert (shown[made.mask] == 128).all()
    assert np.array_equal(shown[~made.mask], pixels[0][~made.mask])


def test_edits_are_drawn_anew_by_seed_and_refuse_what_there_is_not(world: SceneWorld) -> None:
    scenes = world.scenes("train")
    first, second = edits(world, scenes, "add"), edits(world, scenes, "add", seed=1)
    assert np.array_equal(first.target.records.values, edits(world, scenes, "add").target.records.values)
    assert not np.array_equal(first.cell, second.cell)
    with pytest.raises(BadInput, match="no edit 'colour'; did you mean 'recolour'"):
        edits(world, scenes, "colour")
    strip = SceneWorld.Config(height=12, most=0, train=20).build()
    assert len(edits(strip, strip.scenes("train"), "remove").rows) == 0
    with pytest.raises(BadInput, match="0 cells"):
        edits(world, strip.scenes("train"), "remove")
