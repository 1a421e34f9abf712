"""SceneWorld: pictures whose every fact is known. One object fills one token of the vision tokenizer, and so do k characters.

    picture   rows of cells, 12 x 12 px each, over a strip of one row of such tokens         36 x 36: 2 x 3 cells and 3 tokens of text
    object    a shape in a colour, 9 x 9 px, in a cell of its own
    text      k = 1, 2, 3 or 6 characters a token, glyphs of one patch (4 x 4 px), read token by token
    nuisance  tint and texture of the paper, place of an object in its cell (9), its shade, pixel noise: told by no text

A *record* is the structure alone: objects and text. Its split is a hash of the record, the same whatever the seed and the nuisance, so no
two worlds can show a record in training and in a test. Edits of a scene stay in its split. Everything is drawn by NumPy's PCG64; scene i
does not depend on how many follow, nor its pixels on what is drawn beside it.

    bits of objects = log2 M + mean_m [log2 C(cells, m) + m log2(shapes colours)]      m = 1 ... M objects, each as often
    bits of text    = k columns log2 A                                                 A characters
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt8
from scipy.optimize import brentq

from orchard.config import Configurable
from orchard.errors import BadInput, closest

PATCH, TOKEN, SIZE, LARGEST = 4, 12, 9, 72  # pixels: of a character, of a cell, of an object, of a picture at most
SHAPES = ("square", "circle", "triangle", "cross", "ring", "diamond")
COLOURS = {
    "red": (215, 40, 45), "green": (40, 150, 65), "blue": (45, 80, 215), "yellow": (240, 200, 20), "purple": (140, 55, 160),
    "orange": (245, 125, 20), "cyan": (45, 190, 215), "black": (25, 25, 25),
}  # fmt: skip
CHARACTERS = "0123456789ABCDEF"
LAYOUT = {  # density k: patches (row, column) of a token that hold its characters, in the order of reading
    1: ((1, 1),), 2: ((1, 0), (1, 1)), 3: ((1, 0), (1, 1), (1, 2)), 6: ((0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)),
}  # fmt: skip
SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)  # of all records there can be
INK, PAPER, SHADE, TEXTURE = 30.0, 222.0, 8.0, 8.0  # grey levels
BLOCK, AT_ONCE = 1024, 512  # scenes that are drawn together, as records and as pixels
STRUCTURE, NUISANCE, NOISE, UNSEEN = range(4)  # streams of random numbers
_GLYPHS = (  # 3 x 4: the fourth column parts a character from the next
    ".#./#.#/#.#/.#. ##./.#./.#./### ##./..#/.#./### ###/.##/..#/### #.#/###/..#/..# ###/##./..#/##. "
    "#../###/#.#/### ###/..#/.#./.#. ###/###/#.#/### ###/#.#/###/..# .#./#.#/###/#.# ##./##./#.#/##. "
    ".##/#../#../.## ##./#.#/#.#/##. ###/##./#../### ###/#../##./#.."
)


def _shapes() -> Float32[np.ndarray, "shapes_and_none 3 3 12 12"]:
    """Masks of the shapes at the nine places in a cell; the last are empty, so that shape -1 is no object."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    r = np.hypot(y, x)
    square, circle, diamond = np.abs(x) < 5, r < 4.3, np.abs(x) + np.abs(y) < 5
    triangle, cross, ring = 2 * np.abs(x) <= y + 4, (np.abs(x) < 2) | (np.abs(y) < 2), circle & (r > 2.2)
    masks = np.zeros((len(SHAPES) + 1, 3, 3, TOKEN, TOKEN), dtype=np.float32)
    for dy, dx in np.ndindex(3, 3):
        masks[:-1, dy, dx, dy : dy + SIZE, dx : dx + SIZE] = square, circle, triangle, cross, ring, diamond
    return masks


MASKS = _shapes()
GLYPHS = np.zeros((len(CHARACTERS) + 1, PATCH, PATCH), dtype=np.float32)  # the last is empty: character -1 is none
GLYPHS[:-1, :, :3] = [[[c == "#" for c in row] for row in glyph.split("/")] for glyph in _GLYPHS.split()]


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
    """What is shown, as numbers into SHAPES, COLOURS and CHARACTERS; -1: no object, no character."""

    shape: Int8[np.ndarray, "scenes cells"]
    colour: Int8[np.ndarray, "scenes cells"]
    text: Int8[np.ndarray, "scenes characters"]

    @property
    def values(self) -> Int8[np.ndarray, "scenes values"]:
        """All of a record in one row."""
        return np.concatenate([self.shape, self.colour, self.text], axis=1)

    def objects(self, row: int | np.integer) -> list[tuple[int, int, int]]:
        """(cell, shape, colour) of each object of a record."""
        cells = np.flatnonzero(self.shape[row] >= 0)
        return list(zip(cells.tolist(), self.shape[row, cells].tolist(), self.colour[row, cells].tolist(), strict=True))

    def words(self, row: int | np.integer) -> dict[str, Any]:
        """A record in words: ``objects`` (cell, shape, colour), ``text``."""
        objects = [{"cell": p, "shape": SHAPES[s], "colour": tuple(COLOURS)[c]} for p, s, c in self.objects(row)]
        return {"objects": objects, "text": "".join((*CHARACTERS, "?")[t] for t in self.text[row].tolist())}


@dataclass(frozen=True)
class Scenes(Rows):
    """Records, and the nuisance they are drawn with. What is written about a scene is given its record alone."""

    records: Records
    tint: Float32[np.ndarray, "scenes 3"]
    texture: Int8[np.ndarray, "scenes"]
    jitter: Int8[np.ndarray, "scenes cells 2"]  # place in the cell, downwards and to the right
    shade: Float32[np.ndarray, "scenes cells 3"]
    number: Int64[np.ndarray, "scenes"]  # of the noise


class SceneWorld(Configurable):
    """The generator. Raises BadInput for sizes that do not fit together."""

    class Config(Configurable.Config):
        height: int = 36  # pixels; one token high: a strip without objects
        width: int = 36
        k: int = 2  # characters of a token of text
        shapes: int = 4
        colours: int = 4
        most: int = 3  # objects of a scene
        alphabet: int = 10
        train: int = 8000  # scenes
        validation: int = 1200
        test: int = 1200
        unseen: float = 0.1  # share of the (shape, colour) pairs that no prompt to generate may train
        tint: float = 20.0  # greatest shift of the paper, grey levels a channel
        noise: float = 12.0  # standard deviation, grey levels
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: SceneWorld.Config) -> None:
        self.cfg = cfg
        self.rows, self.columns = cfg.height // TOKEN - 1, cfg.width // TOKEN
        self.cells = max(self.rows, 0) * self.columns
        self._check()
        pairs = np.random.default_rng([UNSEEN, cfg.shapes, cfg.colours]).permutation(cfg.shapes * cfg.colours)
        self.unseen = {divmod(int(p), cfg.colours) for p in pairs[: round(cfg.unseen * len(pairs))]}  # (shape, colour)

    def _check(self) -> None:
        cfg = self.cfg
        least = 1 if self.rows > 0 else 0
        problems = {
            f"a picture of {cfg.height} x {cfg.width} px: give multiples of a token, {TOKEN} px, from {TOKEN} to {LARGEST}":
                any(side % TOKEN or not TOKEN <= side <= LARGEST for side in (cfg.height, cfg.width)),
            f"k = {cfg.k}: give one of {', '.join(map(str, LAYOUT))} characters a token": cfg.k not in LAYOUT,
            f"most = {cfg.most} objects in {self.cells} cells: give {least} ... {self.cells // 2}, half of the paper stays free":
                not least <= cfg.most <= self.cells // 2,
            f"shapes = {cfg.shapes}, colours = {cfg.colours}: give 2 ... {len(SHAPES)} and 2 ... {len(COLOURS)}":
                not (2 <= cfg.shapes <= len(SHAPES) and 2 <= cfg.colours <= len(COLOURS)),
            f"alphabet = {cfg.alphabet}: give 2 ... {len(CHARACTERS)}": not 2 <= cfg.alphabet <= len(CHARACTERS),
            f"unseen = {cfg.unseen}: give a share from 0 to 0.5": not 0 <= cfg.unseen <= 0.5,
            f"tint = {cfg.tint}, noise = {cfg.noise}: give 0 ... 25 and 0 ... 25 grey levels, more cannot be read":
                not (0 <= cfg.tint <= 25 and 0 <= cfg.noise <= 25),
        }  # fmt: skip
        for problem, found in problems.items():
            if found:
                raise BadInput(f"SceneWorld.Config: {problem}")

    # ------------------------------------------------------------------ records

    def scenes(self, split: str) -> Scenes:
        """The scenes of a split, always the same ones. Raises BadInput for an unknown split, and where the world has too few records."""
        if split not in SPLITS:
            raise BadInput(f"SceneWorld: there is no split {split!r}; {closest(split, SPLITS)}")
        wanted, found, held = getattr(self.cfg, split), [], 0
        for block in range(8 + 40 * wanted // BLOCK):
            scenes = self._block(block)
            found.append(scenes.take(np.flatnonzero(split_of(scenes.records) == SPLITS.index(split))))
            held += len(found[-1])
            if held >= wanted:
                return Scenes.joined(found).take(np.arange(wanted))
        raise BadInput(
            f"SceneWorld.Config: {wanted} scenes of {split}, but this world has too few records; give it more text or objects"
        )

    def _block(self, block: int) -> Scenes:
        cfg, shape = self.cfg, (BLOCK, self.cells)
        random = np.random.default_rng([cfg.seed, STRUCTURE, block])
        count = random.integers(1, cfg.most + 1, size=BLOCK) if cfg.most else np.zeros(BLOCK, dtype=np.int64)
        there = random.random(shape).argsort(axis=1).argsort(axis=1) < count[:, None]
        kinds = [np.where(there, random.integers(high, size=shape), -1) for high in (cfg.shapes, cfg.colours)]
        text = random.integers(cfg.alphabet, size=(BLOCK, self.columns * cfg.k))
        records = Records(*(part.astype(np.int8) for part in (*kinds, text)))
        random = np.random.default_rng([cfg.seed, NUISANCE, block])
        tint = PAPER + random.uniform(-cfg.tint, cfg.tint, size=(BLOCK, 3))
        texture, jitter = random.integers(4, size=BLOCK), random.integers(3, size=(*shape, 2))
        shade = random.normal(scale=SHADE, size=(*shape, 3))
        return Scenes(
            records, tint.astype(np.float32), texture.astype(np.int8), jitter.astype(np.int8), shade.astype(np.float32),
            block * BLOCK + np.arange(BLOCK),
        )  # fmt: skip

    def shows_unseen(self, records: Records) -> Bool[np.ndarray, "scenes"]:
        """Which scenes show a pair that is held out of the training of generation."""
        pairs = [(records.shape == shape) & (records.colour == colour) for shape, colour in sorted(self.unseen)]
        return np.any(pairs, axis=(0, 2)) if pairs else np.zeros(len(records), dtype=bool)

    def bits(self) -> dict[str, float]:
        """Bits of a record: of its objects, of its text. Nuisance is not counted."""
        cfg, each = self.cfg, math.log2(self.cfg.shapes * self.cfg.colours)
        counts = range(1, cfg.most + 1)
        ways = [math.log2(math.comb(self.cells, m)) + m * each + math.log2(cfg.most) for m in counts]
        objects = sum(ways) / len(ways) if ways else 0.0
        return {"objects": objects, "text": cfg.k * self.columns * math.log2(cfg.alphabet)}

    # ------------------------------------------------------------------ pixels

    def pixels(self, scenes: Scenes) -> UInt8[np.ndarray, "scenes height width 3"]:
        """The pictures of scenes of this world."""
        self.check(scenes.records)
        parts = [scenes.take(np.arange(i, min(i + AT_ONCE, len(scenes)))) for i in range(0, len(scenes), AT_ONCE)]
        empty = np.zeros((0, self.cfg.height, self.cfg.width, 3), dtype=np.uint8)
        return np.concatenate([empty, *map(self._drawn, parts)])

    def check(self, records: Records) -> None:
        """Raise BadInput for records of a world of another size or density."""
        wanted = (self.cells, self.columns * self.cfg.k)
        if (records.shape.shape[1], records.text.shape[1]) != wanted:
            raise BadInput(
                f"SceneWorld: records of {records.shape.shape[1]} cells and {records.text.shape[1]} characters, here are "
                f"{wanted[0]} and {wanted[1]}; give those of a world of this size and k"
            )

    def _drawn(self, scenes: Scenes) -> UInt8[np.ndarray, "scenes height width 3"]:
        cfg, n = self.cfg, len(scenes)
        y, x = np.mgrid[-1 : 1 : cfg.height * 1j, -1 : 1 : cfg.width * 1j]
        textures = TEXTURE * np.stack([0 * x, x, y, np.sin(4 * (x + y))]).astype(np.float32)
        canvas = scenes.tint[:, None, None] + textures[scenes.texture][..., None]
        tokens = canvas.reshape(n, self.rows + 1, TOKEN, self.columns, TOKEN, 3).swapaxes(2, 3)  # a view
        if self.rows:
            cells = (n, self.rows, self.columns)
            palette = np.array(list(COLOURS.values()), dtype=np.float32)
            colour = (palette[scenes.records.colour] + scenes.shade).reshape(*cells, 1, 1, 3)
            covered = MASKS[scenes.records.shape, scenes.jitter[..., 0], scenes.jitter[..., 1]]
            shown = covered.reshape(*cells, TOKEN, TOKEN, 1)
            tokens[:, :-1] += shown * (colour - tokens[:, :-1])
        ink = np.zeros((n, self.columns, 3, PATCH, 3, PATCH), dtype=np.float32)
        text = scenes.records.text.reshape(n, self.columns, cfg.k)
        for j, (row, column) in enumerate(LAYOUT[cfg.k]):
            ink[:, :, row, :, column] = GLYPHS[text[:, :, j]]
        tokens[:, -1] += ink.reshape(n, self.columns, TOKEN, TOKEN, 1) * (INK - tokens[:, -1])
        for image, number in zip(canvas, scenes.number.tolist(), strict=True):
            random = np.random.default_rng([cfg.seed, NOISE, number])
            image += cfg.noise * random.standard_normal(image.shape, dtype=np.float32)
        return canvas.round().clip(0, 255).astype(np.uint8)


def split_of(records: Records) -> Int64[np.ndarray, "scenes"]:
    """The number in SPLITS of each record: its hash as a position in [0, 1), cut at the shares."""
    mixed = np.full(len(records), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for value in records.values.T.astype(np.uint8).astype(np.uint64):
        mixed = (mixed ^ value) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return np.searchsorted(np.cumsum(SHARES[:2]), mixed / 2.0**64, side="right")


def readable(codes: int, k: int, alphabet: int = 10) -> float:
    """The greatest share of characters that can be read from one of ``codes`` ids for k characters: the D of R(D) = log2(codes) / k,
    R(D) = log2 A - h(D) - D log2(A - 1), of a uniform source with Hamming distortion (Cover and Thomas, exercise 10.5)."""
    if codes < 1 or k < 1 or alphabet < 2:
        raise BadInput(f"readable: codes = {codes}, k = {k}, alphabet = {alphabet}: give at least 1, 1 and 2")
    rate = math.log2(codes) / k

    def excess(d: float) -> float:
        h = -d * math.log2(d) - (1 - d) * math.log2(1 - d)
        return math.log2(alphabet) - h - d * math.log2(alphabet - 1) - rate

    if codes == 1 or rate >= math.log2(alphabet):
        return 1 / alphabet if codes == 1 else 1.0
    return 1 - float(brentq(excess, 1e-12, 1 - 1 / alphabet))
