"""ChartWorld: charts whose every fact is known. One bar stands on one column of the tokens of the vision encoder (12 px).

    record    for each bar from left to right a colour, different from the others', and a value 1 ... highest
    bars      a bar of round(value (height - 3) / highest) px
    lines     a marker at that height; the markers are joined
    table     a swatch of the colour over the value as a digit of 3 x 5 (drawn at twice its size)
    dots      as many dots as the value, at random places of a grid of nine
    digits    a swatch over a handwritten digit (scikit-learn), other images in every split
    nuisance  tint of the paper, shade of each bar, kind of chart, places of dots, image of a digit, pixel noise: told by no text

A *record* is the colours and values alone. Its split is a hash of the record, the same whatever the seed, the kind and the nuisance: no two
worlds can show a record in training and in a test. Everything is drawn by NumPy's PCG64; chart i does not depend on how many follow,
nor its pixels on what is drawn beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int8, Int64, UInt8

from orchard.config import Configurable
from orchard.errors import BadInput, closest

PATCH, TOKEN, LARGEST = 4, 12, 72  # pixels: of a patch, of a token and of the column of a bar, of a picture at most
COLOURS = {
    "red": (215, 40, 45), "green": (40, 150, 65), "blue": (45, 80, 215), "yellow": (240, 200, 20), "purple": (140, 55, 160),
    "cyan": (45, 190, 215),
}  # fmt: skip
KINDS = ("bars", "lines", "table", "dots", "digits")
SPLITS = ("train", "pairs", "validation", "test")  # distillation and fine-tuning; preference pairs; choices; verdicts
SHARES = (0.7, 0.1, 0.1, 0.1)  # of all records there can be
INK, PAPER = 30.0, 222.0  # grey levels
HIGHEST, GAP = 9, 3  # the greatest value; pixels over the highest bar
BLOCK, AT_ONCE = 1024, 512  # charts that are drawn together, as records and as pixels
STRUCTURE, NUISANCE, NOISE = range(3)  # streams of random numbers
_GLYPHS = (  # 1 ... 9
    ".#./##./.#./.#./### ##./..#/.#./#../### ##./..#/.#./..#/##. #.#/#.#/###/..#/..# ###/#../##./..#/##. "
    ".##/#../###/#.#/### ###/..#/.#./.#./.#. ###/#.#/###/#.#/### ###/#.#/###/..#/##."
)
GLYPHS = np.zeros((HIGHEST + 1, 5, 3), dtype=np.float32)  # by value; 0 is empty
GLYPHS[1:] = [[[c == "#" for c in row] for row in glyph.split("/")] for glyph in _GLYPHS.split()]


R = TypeVar("R", bound="Rows")


class Rows:
    """Base of tables whose columns are arrays, or tables, of as many rows."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def take(self: R, index: Any) -> R:
        """The rows with these numbers, in this order."""
        columns = vars(self).values()
        return type(self)(*(part.take(index) if isinstance(part, Rows) else part[index] for part in columns))

    @classmethod
    def joined(cls: type[R], tables: Sequence[R]) -> R:
        """The rows of all tables."""
        columns = [list(parts) for parts in zip(*(vars(table).values() for table in tables), strict=True)]
        return cls(*(type(p[0]).joined(p) if isinstance(p[0], Rows) else np.concatenate(p) for p in columns))


@dataclass(frozen=True)
class Records(Rows):
    """What is shown, from left to right: numbers into COLOURS (-1: no bar), and values (0: no bar). Bars without a gap, from the left."""

    colour: Int8[np.ndarray, "charts bars"]
    value: Int8[np.ndarray, "charts bars"]

    def bars(self, row: int | np.integer) -> list[tuple[str, int]]:
        """(colour, value) of each bar of a record, from left to right."""
        pairs = zip(self.colour[row].tolist(), self.value[row].tolist(), strict=True)
        return [(tuple(COLOURS)[colour], value) for colour, value in pairs if colour >= 0]


@dataclass(frozen=True)
class Charts(Rows):
    """Records, and the nuisance they are drawn with. What is asked and said about a chart is given its record alone."""

    records: Records
    kind: Int8[np.ndarray, "charts"]  # into KINDS
    tint: Float32[np.ndarray, "charts 3"]  # the paper, grey levels
    shade: Float32[np.ndarray, "charts bars 3"]  # added to the colour of a bar, grey levels
    places: Int8[np.ndarray, "charts bars 9"]  # rank of each place of the grid; the dots take the first ones
    image: Float32[np.ndarray, "charts bars"]  # which image of its digit, as a share of all of its split
    number: Int64[np.ndarray, "charts"]  # of the noise


class ChartWorld(Configurable):
    """The generator. Raises BadInput for sizes that do not fit together."""

    class Config(Configurable.Config):
        height: int = 36  # pixels; the width is 12 a bar
        bars: int = 4
        fewest: int = 4  # bars of a chart; the rest of its columns is empty
        colours: int = 6
        highest: int = 9
        kinds: list[str] = ["bars"]
        train: int = 14_000  # charts
        pairs: int = 1500
        validation: int = 1200
        test: int = 1800
        tint: float = 20.0  # greatest shift of the paper, grey levels a channel
        jitter: float = 12.0  # standard deviation of the colour of a bar, grey levels a channel
        noise: float = 10.0  # standard deviation of a pixel, grey levels
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: ChartWorld.Config) -> None:
        self.cfg = cfg
        self._check()
        if "digits" in cfg.kinds:
            handwritten()  # a missing package is told here

    def _check(self) -> None:
        cfg, most = self.cfg, min(LARGEST // TOKEN, self.cfg.colours)
        unknown = [kind for kind in cfg.kinds if kind not in KINDS]
        problems = {
            f"height = {cfg.height} px: give a multiple of a token, {TOKEN} px, from 36 to {LARGEST}":
                cfg.height % TOKEN != 0 or not 36 <= cfg.height <= LARGEST,
            f"colours = {cfg.colours}: give 2 ... {len(COLOURS)}": not 2 <= cfg.colours <= len(COLOURS),
            f"bars = {cfg.bars}: give 2 ... {most}, each has a colour and {TOKEN} px of its own": not 2 <= cfg.bars <= most,
            f"fewest = {cfg.fewest}: give 2 ... bars = {cfg.bars}": not 2 <= cfg.fewest <= cfg.bars,
            f"highest = {cfg.highest}: give 2 ... {HIGHEST}": not 2 <= cfg.highest <= HIGHEST,
            f"kinds = {cfg.kinds}: give one or more of {', '.join(KINDS)}": bool(unknown) or not cfg.kinds,
            f"tint = {cfg.tint}, jitter = {cfg.jitter}, noise = {cfg.noise}: give 0 ... 25 grey levels, more cannot be read":
                not all(0 <= level <= 25 for level in (cfg.tint, cfg.jitter, cfg.noise)),
        }  # fmt: skip
        for problem, found in problems.items():
            if found:
                raise BadInput(f"ChartWorld.Config: {problem}")

    # ------------------------------------------------------------------ records

    def charts(self, split: str) -> Charts:
        """The charts of a split, always the same ones. Raises BadInput for an unknown split, and where the world has too few records."""
        if split not in SPLITS:
            raise BadInput(f"ChartWorld: there is no split {split!r}; {closest(split, SPLITS)}")
        wanted, found, held = getattr(self.cfg, split), [], 0
        for block in range(8 + 40 * wanted // BLOCK):
            charts = self._block(block)
            found.append(charts.take(np.flatnonzero(split_of(charts.records) == SPLITS.index(split))))
            held += len(found[-1])
            if held >= wanted:
                return Charts.joined(found).take(np.arange(wanted))
        raise BadInput(
            f"ChartWorld.Config: {wanted} charts of {split}, but this world has too few records; give it more bars, colours or values"
        )

    def _block(self, block: int) -> Charts:
        """Charts of all splits, drawn together: the first ones do not depend on how many follow."""
        cfg, shape = self.cfg, (BLOCK, self.cfg.bars)
        random = np.random.default_rng([cfg.seed, STRUCTURE, block])
        absent = np.arange(cfg.bars) >= random.integers(cfg.fewest, cfg.bars + 1, size=(BLOCK, 1))
        colour = random.random((BLOCK, cfg.colours)).argsort(axis=1)[:, : cfg.bars]
        value = random.integers(1, cfg.highest + 1, size=shape)
        colour, value = np.where(absent, -1, colour), np.where(absent, 0, value)
        random = np.random.default_rng([cfg.seed, NUISANCE, block])
        kinds = np.array([KINDS.index(kind) for kind in cfg.kinds])
        kind = kinds[random.integers(len(kinds), size=BLOCK)]
        tint = PAPER + random.uniform(-cfg.tint, cfg.tint, size=(BLOCK, 3))
        shade = random.normal(scale=cfg.jitter, size=(*shape, 3))
        places = random.random((*shape, 9)).argsort(axis=-1)
        image = random.random(shape)
        return Charts(
            Records(colour.astype(np.int8), value.astype(np.int8)), kind.astype(np.int8), tint.astype(np.float32),
            shade.astype(np.float32), places.astype(np.int8), image.astype(np.float32), block * BLOCK + np.arange(BLOCK),
        )  # fmt: skip

    # ------------------------------------------------------------------ pixels

    def pixels(self, charts: Charts) -> UInt8[np.ndarray, "charts height width 3"]:
        """The pictures of charts of this world. Raises BadInput for charts of a world with another number of bars."""
        cfg = self.cfg
        if charts.records.value.shape[1] != cfg.bars:
            raise BadInput(
                f"ChartWorld.pixels: charts of {charts.records.value.shape[1]} bars, here are {cfg.bars}; give those of this world"
            )
        parts = [charts.take(np.arange(i, min(i + AT_ONCE, len(charts)))) for i in range(0, len(charts), AT_ONCE)]
        empty = np.zeros((0, cfg.height, TOKEN * cfg.bars, 3), dtype=np.uint8)
        return np.concatenate([empty, *map(self._drawn, parts)])

    def heights(self, value: np.ndarray) -> np.ndarray:
        """Height of the bars of these values, pixels."""
        return np.rint(value * ((self.cfg.height - GAP) / self.cfg.highest)).astype(np.int64)

    def _drawn(self, charts: Charts) -> UInt8[np.ndarray, "charts height width 3"]:
        cfg, n = self.cfg, len(charts)
        canvas = np.broadcast_to(charts.tint[:, None, None], (n, cfg.height, TOKEN * cfg.bars, 3)).copy()
        columns = canvas.reshape(n, cfg.height, cfg.bars, TOKEN, 3).swapaxes(1, 2)  # a view
        colour = np.array(list(COLOURS.values()), dtype=np.float32)[charts.records.colour] + charts.shade
        for kind in np.unique(charts.kind):
            rows = np.flatnonzero(charts.kind == kind)
            part = columns[rows]
            cover, ink = getattr(self, f"_{KINDS[kind]}")(charts.take(rows))
            part += ink[..., None] * (INK - part)
            part += cover[..., None] * (colour[rows][:, :, None, None] - part)
            columns[rows] = part
        for image, number in zip(canvas, charts.number.tolist(), strict=True):
            random = np.random.default_rng([cfg.seed, NOISE, number])
            image += cfg.noise * random.standard_normal(image.shape, dtype=np.float32)
        return canvas.round().clip(0, 255).astype(np.uint8)

    # what of each column is covered by the colour, and what by ink: both [charts, bars, height, 12] in [0, 1]

    def _empty(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        shape = (*charts.records.value.shape, self.cfg.height, TOKEN)
        return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)

    def _bars(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._empty(charts)
        top = self.cfg.height - self.heights(charts.records.value)
        cover[..., 1:-1] = (np.arange(self.cfg.height) >= top[..., None])[..., None]
        return cover, ink

    def _lines(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._empty(charts)
        there = charts.records.value > 0
        top, last = self.cfg.height - self.heights(charts.records.value), there.sum(1, keepdims=True) - 1
        place = np.clip(
            (np.arange(TOKEN * self.cfg.bars) - (TOKEN - 1) / 2) / TOKEN, 0, last
        )  # in columns, from the first marker
        left = np.minimum(place.astype(np.int64), last - 1)
        ends = [np.take_along_axis(top, left + side, axis=1) for side in (0, 1)]
        level = (ends[0] + (place - left) * (ends[1] - ends[0])).reshape(*top.shape, TOKEN)
        y = np.arange(self.cfg.height)[:, None]
        ink[:] = (np.abs(y - level[:, :, None]) < 1) & there[..., None, None]
        cover[..., 3:-3] = (np.abs(y - top[..., None, None]) <= 2) & there[..., None, None]
        return cover, ink

    def _swatch(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._empty(charts)
        cover[:, :, 1 : TOKEN - 1, 1:-1] = (charts.records.value > 0)[..., None, None]
        return cover, ink

    def _table(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._swatch(charts)
        ink[:, :, TOKEN + 1 : TOKEN + 11, 3:9] = GLYPHS[charts.records.value].repeat(2, axis=-2).repeat(2, axis=-1)
        return cover, ink

    def _dots(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._empty(charts)
        shown = (charts.places < charts.records.value[..., None]).reshape(*charts.records.value.shape, 3, 1, 3, 1)
        dot = np.array([1, 1, 1, 0], dtype=np.float32)
        cover[:, :, TOKEN : 2 * TOKEN] = (shown * dot[:, None, None] * dot).reshape(*shown.shape[:2], TOKEN, TOKEN)
        return cover, ink

    def _digits(self, charts: Charts) -> tuple[np.ndarray, np.ndarray]:
        cover, ink = self._swatch(charts)
        for (i, j), value in np.ndenumerate(charts.records.value):
            if value:
                images = handwritten()[split_of(charts.records.take(np.array([i])))[0]][value]
                ink[i, j, TOKEN + 2 : TOKEN + 10, 2:10] = images[int(charts.image[i, j] * len(images))]
        return cover, ink


def split_of(records: Records) -> Int64[np.ndarray, "charts"]:
    """The number in SPLITS of each record: its hash as a position in [0, 1), cut at the shares."""
    mixed = np.full(len(records), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for value in np.concatenate([records.colour, records.value], axis=1).T.astype(np.uint8).astype(np.uint64):
        mixed = (mixed ^ value) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return np.searchsorted(np.cumsum(SHARES[:-1]), mixed / 2.0**64, side="right")


@lru_cache(maxsize=1)
def handwritten() -> list[list[np.ndarray]]:
    """Handwritten digits [images, 8, 8] in [0, 1] by split and digit: image i of the set is of the split where i % 10 / 10 falls.

    Raises BadInput without scikit-learn, which brings them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput(
            "ChartWorld: charts of kind 'digits' need scikit-learn; install it, or leave this kind out"
        ) from None
    found = load_digits()
    split = np.searchsorted(np.cumsum(SHARES[:-1]), (np.arange(len(found.target)) % 10 + 0.5) / 10, side="right")
    images = (found.images / 16).astype(np.float32)
    return [[images[(split == s) & (found.target == digit)] for digit in range(10)] for s in range(len(SPLITS))]
