"""The explorers: what they show follows from the method, every choice can be drawn, and the same choice always shows the same."""

from __future__ import annotations

import numpy as np
import pytest
from manzano_runs import decoder_run, features_run, regression_run, unified_run

from orchard.papers.manzano.explorers import codes
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.runs.image_decoder import TrainDecoder
from orchard.papers.manzano.runs.scores import Drawings, Edits
from orchard.runs import Finished, Run, Store
from orchard.widgets import explorer


@pytest.mark.parametrize(("side", "r"), [(3, 3), (4, 6), (6, 1)])
def test_regrouping_keeps_every_pixel(side: int, r: int) -> None:
    made = codes.regrouping(side, r, dim=10)
    left, right = (np.asarray(axes.images[0].get_array()) for axes in made.axes)
    cut = 12 // r
    rows = right.reshape(side**2, cut + 1, r**2, cut + 1, 3)[:, :cut, :, :cut]
    assert sorted(rows.ravel().tolist()) == sorted(left.ravel().tolist())
    middle = side + 1  # token (1, 1), its last patch
    assert (rows[middle, :, r**2 - 1] == left[24 - cut : 24, 24 - cut : 24]).all()
    assert made.axes[1].get_title(loc="left") == f"{side**2} tokens of {r**2} x 10 = {r**2 * 10} channels"


def test_every_list_of_levels_can_be_looked_at() -> None:
    for levels in codes.LEVELS:
        fsq = FSQ.Config(levels=[int(level) for level in levels.split()]).build()
        smooth, values = codes.cloud(fsq)
        assert ((smooth - values).abs() * (fsq.levels // 2)).max() <= 0.5 + 1e-3
    made = codes.lattice("8 8 8 5 5 5", 1, 8)
    assert "64,000 codes, 15.97 bits" in made.get_suptitle()
    assert made.axes[0].get_ylabel() == "channel 6: 5 levels"  # the last


def runner(store: Store) -> codes.Runner:
    def run(cfgs: list[Run.Config]) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    return run


@pytest.mark.parametrize("decoder", [decoder_run(), regression_run()])
def test_token_surgery(store: Store, decoder: TrainDecoder.Config) -> None:
    draw, controls = codes.surgery(runner(store), Drawings.Config(decoder=decoder))
    shown = explorer(draw, **controls)
    assert shown.values == {"scene": 0, "other": 1, "place": 4}
    twin = shown.figure
    assert len(twin.axes) == 4
    assert all("text" in axes.get_xlabel() for axes in twin.axes)

    def pixels(*choice: int) -> list[np.ndarray]:
        return [np.asarray(axes.images[0].get_array()) for axes in draw(*choice).axes]

    first, again, own = pixels(0, 1, 4), pixels(0, 1, 4), pixels(2, 2, 0)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (own[1] == own[2]).all()  # its own code: nothing is exchanged


def test_an_edit_is_asked_of_every_arm(store: Store) -> None:
    read, decoder = unified_run(), decoder_run(editing=True)
    blind = unified_run(edits_read=False)
    plain = decoder_run(codes=features_run())
    arms = {
        "both": Edits.Config(model=read, decoder=decoder), "language model": Edits.Config(model=read, decoder=plain),
        "decoder": Edits.Config(model=blind, decoder=decoder),
    }  # fmt: skip
    draw, controls = codes.editing(runner(store), arms)
    twin = explorer(draw, **controls).figure
    assert [axes.get_title() for axes in twin.axes] == ["before", *arms]
    for instruction in codes.KINDS:
        assert "p0" in draw(1, instruction, 0, "blue").get_suptitle()
    before = [np.asarray(axes.images[0].get_array()) for axes in draw(3, "remove", 1).axes]
    again = [np.asarray(axes.images[0].get_array()) for axes in draw(3, "remove", 1).axes]
    assert all((a == b).all() for a, b in zip(before, again, strict=True))
