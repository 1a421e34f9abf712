"""Figures of 01: what they compute, and that every one of them can be drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from manzano_tiny import VOCABULARY

from orchard.papers.manzano.data import parser
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.figures import build
from orchard.papers.manzano.method.unified import IMAGE, READ, SLOT, TEXT, generation, plain_text, understanding


def test_a_channel_has_its_levels_and_the_straight_line_between_them() -> None:
    table = build.rounding_table(5)
    assert sorted(set(table["value"])) == [-1, -0.5, 0, 0.5, 1]
    assert (table["value"] - table["bounded"]).abs().max() <= 0.25 + 1e-3
    assert sorted(set(build.rounding_table(8)["value"]))[::7] == [-1, 0.75]
    build.rounding(table).draw_without_rendering()


def test_weights_of_targets_are_those_of_the_loss() -> None:
    batch = {
        "reading": understanding(VOCABULARY, 2, [[1, 2]], [[3, 4, 5]]),
        "drawing": generation(VOCABULARY, [[1]], torch.tensor([[7, 59]])),
        "text": plain_text(VOCABULARY, [[1, 2]]),
    }
    table = build.sequence_table(batch, [*"abcdefg", "<img>", "</img>"], image_weight=0.25)
    weights = table.groupby("kind")["weight"].sum()
    assert weights[[READ, SLOT]].tolist() == [0, 0]
    assert weights[[TEXT, IMAGE]].tolist() == pytest.approx([1, 0.25])
    assert set(table.loc[table["kind"] == TEXT, "weight"]) == {0.25}  # four of them
    assert table.loc[table["sequence"] == "drawing", "word"].tolist() == ["b", "<img>", "7", "59", "</img>"]
    build.sequence_strip(table).draw_without_rendering()


def test_what_a_code_can_carry() -> None:
    table = build.capacity_table([240, 1000]).set_index(["codes", "k"])
    assert table.loc[(1000, 2), "rho"] == pytest.approx(1.5)
    assert table.loc[(1000, 6), "readable"] == pytest.approx(0.74, abs=0.005)
    assert table.loc[(240, 3), "readable"] == pytest.approx(0.92, abs=0.005)
    assert (table.loc[table["rho"] >= 1, "readable"] == 1).all()
    build.capacity(table.reset_index()).draw_without_rendering()


def test_blocks_beside_published_totals() -> None:
    table = build.blocks_table().set_index("kind")
    assert table["published"].dropna().to_dict() == {
        "MMDiT": 902e6, "MMDiT, shared modulation": 631e6, "DiT-Air": 321e6, "DiT-Air Lite, attention shared": 230e6,
        "DiT-Air Lite, all shared": 49e6,
    }  # fmt: skip
    assert table.loc["DiT-Air", "weights"] == 228 * 1152**2
    assert table.loc["DiT-Air", "saved"] == pytest.approx(2 / 3 - 1 / (3 * 18))
    build.decoder_blocks(table.reset_index()).draw_without_rendering()


def test_pictures_of_the_world() -> None:
    world: SceneWorld = SceneWorld.Config(k=2, test=12).build()
    scenes = world.scenes("test")
    own, other = scenes.take([0]), replace(scenes.take([1]), records=scenes.records.take([0]))
    build.scene(world, own, other, ["caption: " + 20 * "word "]).draw_without_rendering()
    curve = parser.blur_curve(world, scenes)
    build.blur(world, scenes, curve).draw_without_rendering()
    made = build.noise_path(world.pixels(own)[0], steps=3)
    first, last = (np.asarray(made.axes[i].images[0].get_array()) for i in (0, -1))
    assert (first == world.pixels(own)[0]).all()
    assert (first == last).all()


def test_components_and_scores() -> None:
    parts = pd.DataFrame({"scale": "here", "part": list(build.PARTS), "parameters": [4, 16, 9], "label": "-"})
    made = build.components(parts)
    sides = [patch.get_width() for patch in made.axes[0].patches]
    assert sides == pytest.approx([0.5, 1, 0.75])
    scores = pd.DataFrame({"printed": [0.8, 0.9], "follows": [0.8, 0.8], "agrees": [True, False]})
    scores = pd.concat([scores.assign(benchmark=name, model=["a", "b"]) for name in ("GenEval", "WISE")])
    assert [text.get_text() for text in build.overall_scores(scores).axes[0].texts] == ["b"]
    assert [build.in_short(count) for count in (2.88e9, 356_800_000, 113_900, 7)] == ["2.88 B", "357 M", "114 k", "7"]
