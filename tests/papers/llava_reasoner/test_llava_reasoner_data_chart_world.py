"""ChartWorld against its stated laws: splits by record, determinism, pixels, a chart read back by rules, and the sizes it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data import chart_world as cw
from orchard.papers.llava_reasoner.data.chart_world import COLOURS, KINDS, SPLITS, Charts, ChartWorld, Records, split_of

SMALL = {"train": 300, "pairs": 40, "validation": 40, "test": 40}
PALETTE = np.array(list(COLOURS.values()), dtype=np.float64)


def world(**fields: object) -> ChartWorld:
    return ChartWorld.Config(**(SMALL | fields)).build()


def test_no_record_is_in_two_splits_whatever_the_seed_and_the_kind() -> None:
    few = {
        "bars": 2,
        "fewest": 2,
        "colours": 3,
        "highest": 4,
        "pairs": 8,
        "validation": 8,
        "test": 8,
    }  # 96 records: all come up
    worlds = world(**few), world(**few, seed=1, kinds=["dots"])
    rows: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for w in worlds:
            records = w.charts(split).records
            assert (split_of(records) == SPLITS.index(split)).all()
            rows[split] |= {row.tobytes() for row in np.concatenate([records.colour, records.value], axis=1)}
    assert len(set.union(*rows.values())) == sum(map(len, rows.values())) > 70


def test_splits_have_their_shares() -> None:
    drawn = Records.joined([world()._block(block).records for block in range(10)])
    shares = np.bincount(split_of(drawn), minlength=4) / len(drawn)
    assert np.abs(shares - cw.SHARES).max() < 0.02


def test_charts_are_a_function_of_the_config_and_do_not_depend_on_what_is_drawn_beside_them() -> None:
    w = world(kinds=["bars", "lines", "table", "dots"])
    charts = w.charts("train")
    pixels = w.pixels(charts)
    assert pixels.shape == (300, 36, 48, 3)
    again = world(kinds=["bars", "lines", "table", "dots"], train=50)
    assert np.array_equal(pixels[:50], again.pixels(again.charts("train")))
    assert np.array_equal(pixels[[3, 255]], w.pixels(charts.take(np.array([3, 255]))))
    assert not np.array_equal(charts.records.value, world(seed=1).charts("train").records.value)
    assert np.array_equal(charts.records.value, world().charts("train").records.value)  # whatever the kinds
    assert w.pixels(charts.take(np.arange(0))).shape == (0, 36, 48, 3)


def test_records_follow_their_law_and_nuisance_says_nothing_of_them() -> None:
    charts = world(bars=5, fewest=3, train=3000).charts("train")
    records, there = charts.records, charts.records.value > 0
    assert np.array_equal(there, records.colour >= 0)
    assert (np.diff(there.astype(int), axis=1) <= 0).all()  # from the left, without a gap
    assert np.abs(np.bincount(there.sum(1), minlength=6)[3:] / len(records) - 1 / 3).max() < 0.04
    assert np.abs(np.bincount(records.value[there], minlength=10)[1:] / there.sum() - 1 / 9).max() < 0.015
    assert np.abs(np.bincount(records.colour[there]) / there.sum() - 1 / 6).max() < 0.015
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in records.colour)  # every colour once
    about = [records.value[:, 0], records.colour[:, 0], there.sum(1)]
    nuisance = [*charts.tint.T, *charts.shade[:, 0].T, charts.places[:, 0, 0], charts.image[:, 0]]
    assert np.abs(np.corrcoef(np.stack([*about, *nuisance]).astype(float))[:3, 3:]).max() < 0.07


def test_bars_are_what_a_loop_draws() -> None:
    w = world(noise=0.0, jitter=0.0)
    charts = w.charts("validation").take(np.arange(6))
    for picture, i in zip(w.pixels(charts).astype(float), range(6), strict=True):
        wanted = np.tile(charts.tint[i].astype(float), (36, 48, 1))
        for bar, (colour, value) in enumerate(charts.records.bars(i)):
            height = round(value * 33 / 9)
            wanted[36 - height :, 12 * bar + 1 : 12 * bar + 11] = COLOURS[colour]
        assert np.abs(picture - wanted).max() <= 0.51


def test_the_highest_value_is_as_high_as_the_picture_allows_and_every_value_has_its_own_height() -> None:
    for height in (36, 48, 72):
        heights = world(height=height).heights(np.arange(10))
        assert heights[0] == 0
        assert heights[9] == height - 3
        assert np.diff(heights).min() >= 3


def reading(w: ChartWorld, charts: Charts, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Colours and values by rules: per column the pixels far from the paper, their nearest colour, their height, number or glyph."""
    pixels = w.pixels(charts).astype(float)
    paper = (
        np.median(pixels.reshape(len(pixels), -1, 3), axis=1)[:, None, None]
        if kind != "bars"
        else pixels[:, :2].mean((1, 2))[:, None, None]
    )
    columns = (pixels - paper).reshape(len(pixels), w.cfg.height, w.cfg.bars, 12, 3).swapaxes(1, 2)
    far = np.linalg.norm(columns, axis=-1) > 60
    vivid = far & (np.ptp(columns + paper[:, :, None], axis=-1) > 60)
    mean = (columns * vivid[..., None]).sum((2, 3)) / np.maximum(vivid.sum((2, 3)), 1)[..., None] + paper[:, 0]
    colour = np.linalg.norm(mean[:, :, None] - PALETTE, axis=-1).argmin(-1)
    heights = w.heights(np.arange(1, 10))
    if kind == "bars":
        value = np.abs(far[..., 1:-1].mean(-1).sum(-1)[..., None] - heights).argmin(-1) + 1
    elif kind == "lines":
        y = (vivid * np.arange(w.cfg.height)[:, None]).sum((2, 3)) / vivid.sum((2, 3))
        value = np.abs((w.cfg.height - y)[..., None] - heights).argmin(-1) + 1
    elif kind == "dots":
        value = np.rint(far.sum((2, 3)) / 9).astype(int)
    else:
        glyphs = cw.GLYPHS.repeat(2, 1).repeat(2, 2)
        ink = far[:, :, 13:23, 3:9]
        value = np.abs(ink[:, :, None] - glyphs).sum((-2, -1))[:, :, 1:].argmin(-1) + 1
    return colour, value


@pytest.mark.parametrize("kind", KINDS[:4])
def test_a_chart_is_read_back_from_its_pixels_by_rules(kind: str) -> None:
    w = world(kinds=[kind])
    charts = w.charts("train")
    colour, value = reading(w, charts, kind)
    assert (colour == charts.records.colour).mean() > 0.99
    assert (value == charts.records.value).mean() > 0.99


def test_handwritten_digits_show_their_value_and_no_image_is_in_two_splits() -> None:
    pytest.importorskip("sklearn")
    images = cw.handwritten()
    seen = [{image.tobytes() for of_digit in of_split for image in of_digit} for of_split in images]
    assert sum(map(len, seen)) == len(set.union(*seen)) > 1700
    w = world(kinds=["digits"], noise=0.0)
    charts = w.charts("test").take(np.arange(5))
    for picture, i in zip(w.pixels(charts).astype(float), range(5), strict=True):
        for bar, value in enumerate(charts.records.value[i]):
            ink = (charts.tint[i].mean() - picture[14:22, 12 * bar + 2 : 12 * bar + 10].mean(-1)) / (
                charts.tint[i].mean() - cw.INK
            )
            assert min(np.abs(ink - image).max() for image in images[3][value]) < 0.02


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    cw.handwritten.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BadInput, match="kind 'digits' need scikit-learn; install it, or leave this kind out"):
        world(kinds=["digits"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 40}, r"height = 40 px: give a multiple of a token, 12 px, from 36 to 72"),
        ({"bars": 7}, r"bars = 7: give 2 ... 6"),
        ({"colours": 3}, r"bars = 4: give 2 ... 3, each has a colour"),
        ({"colours": 7}, r"colours = 7: give 2 ... 6"),
        ({"fewest": 5}, r"fewest = 5: give 2 ... bars = 4"),
        ({"highest": 10}, r"highest = 10: give 2 ... 9"),
        ({"kinds": ["pie"]}, r"kinds = \['pie'\]: give one or more of bars, lines"),
        ({"kinds": []}, r"kinds = \[\]"),
        ({"noise": 40.0}, r"noise = 40.0: give 0 ... 25"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        world(**fields)


def test_unknown_splits_other_worlds_and_worlds_that_are_too_small_are_refused() -> None:
    w = world()
    with pytest.raises(BadInput, match="there is no split 'tests'; did you mean 'test'"):
        w.charts("tests")
    with pytest.raises(BadInput, match="charts of 3 bars, here are 4"):
        w.pixels(world(bars=3, fewest=3).charts("test"))
    tiny = world(bars=2, fewest=2, colours=2, highest=2)  # 8 records
    with pytest.raises(BadInput, match="too few records"):
        [tiny.charts(split) for split in SPLITS]
