"""The reader of SceneWorld: pixels -> record, by rules alone. It scores what a model draws, so that no model scores itself.

    cell   the pixels that are at least half as far from the paper as the farthest; the shape and place (9) whose mask has the greatest
           IoU with them, if above 0.45; the colour of the palette that lies in the direction in which those within the mask differ
    text   each patch of the layout: the glyph with the greatest correlation with its darkness, if that is above 0.5

Paper is the median of the picture. On clean renders more than 99.5 % of objects and of characters are right; under blur both fall smoothly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int8, UInt8

from orchard.errors import BadInput
from orchard.papers.manzano.data import scene_world as drawn
from orchard.papers.manzano.data.scene_world import AT_ONCE, PATCH, TOKEN, Records, Rows, Scenes, SceneWorld

FAR = 45.0  # least distance of a pixel from the paper, grey levels (noise: 21)
TOP = 20  # farthest pixels that say what is half of it
OVERLAP = 0.45  # least IoU of an object
CONTRAST, LIKENESS = 0.05, 0.5  # least deviation of the darkness of a character, and its correlation with a glyph


@dataclass(frozen=True)
class Reading(Rows):
    """What was read: records, and the place of each object in its cell (downwards and to the right; 0 where there is none)."""

    records: Records
    jitter: Int8[np.ndarray, "scenes cells 2"]


def read(world: SceneWorld, pixels: UInt8[np.ndarray, "scenes height width 3"]) -> Reading:
    """The records of pictures of a world, whoever drew them. Raises BadInput for pictures of another size."""
    if pixels.shape[1:3] != (world.cfg.height, world.cfg.width):
        raise BadInput(
            f"read: pictures of {pixels.shape[1]} x {pixels.shape[2]} px, the world's are {world.cfg.height} x {world.cfg.width}; "
            "give the world that they are of"
        )
    starts = range(0, max(len(pixels), 1), AT_ONCE)
    parts = [_read(world, pixels[i : i + AT_ONCE].astype(np.float32)) for i in starts]
    shape, colour, text, jitter = (np.concatenate(found).astype(np.int8) for found in zip(*parts, strict=True))
    return Reading(Records(shape, colour, text), jitter)


def _read(world: SceneWorld, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    paper = np.median(pixels.reshape(len(pixels), world.cfg.height * world.cfg.width, 3), axis=1)[:, None, None]
    tokens = pixels.reshape(len(pixels), world.rows + 1, TOKEN, world.columns, TOKEN, 3).swapaxes(2, 3)
    shape, colour, jitter = _objects(world, tokens[:, :-1], paper)
    return shape, colour, _text(world, tokens[:, -1], paper), jitter


def _objects(world: SceneWorld, tokens: np.ndarray, paper: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells = tokens.reshape(len(tokens), world.cells, TOKEN * TOKEN, 3) - paper
    distance = np.linalg.norm(cells, axis=-1)
    peak = -np.partition(-distance, TOP, axis=-1)[..., :TOP].mean(-1, keepdims=True)
    far = (distance > np.maximum(peak / 2, FAR)).astype(np.float32)
    masks = drawn.MASKS[: world.cfg.shapes].reshape(-1, TOKEN * TOKEN)
    common = far @ masks.T
    overlap = common / np.maximum(far.sum(-1, keepdims=True) + masks.sum(1) - common, 1)
    best, there = overlap.argmax(-1), overlap.max(-1) > OVERLAP
    towards = (cells * (far * masks[best])[..., None]).sum(2)
    palette = np.array(list(drawn.COLOURS.values()), dtype=np.float32)[: world.cfg.colours] - paper[:, 0]
    palette /= np.maximum(np.linalg.norm(palette, axis=-1, keepdims=True), 1)
    colour = np.einsum("npc,nkc->npk", towards, palette).argmax(-1)
    jitter = np.stack([best // 3 % 3, best % 3], axis=-1) * there[..., None]
    return np.where(there, best // 9, -1), np.where(there, colour, -1), jitter


def _text(world: SceneWorld, strip: np.ndarray, paper: np.ndarray) -> np.ndarray:
    n, k, size = len(strip), world.cfg.k, PATCH * PATCH
    dark = (paper[:, None] - strip).mean(-1) / np.maximum(paper.mean(-1)[..., None] - drawn.INK, 1)
    patches = dark.reshape(n, world.columns, 3, PATCH, 3, PATCH).swapaxes(3, 4)
    dark = np.stack([patches[:, :, row, column] for row, column in drawn.LAYOUT[k]], axis=2)
    dark = dark.reshape(n, world.columns * k, size)
    glyphs = drawn.GLYPHS[: world.cfg.alphabet].reshape(-1, size)
    dark, glyphs = dark - dark.mean(-1, keepdims=True), glyphs - glyphs.mean(-1, keepdims=True)
    spread = np.linalg.norm(dark, axis=-1)
    likeness = dark @ (glyphs / np.linalg.norm(glyphs, axis=-1, keepdims=True)).T
    legible = (spread > PATCH * CONTRAST) & (likeness.max(-1) > LIKENESS * spread)
    return np.where(legible, likeness.argmax(-1), -1)


def objects_right(found: Records, truth: Records) -> Float64[np.ndarray, "scenes"]:
    """Of the cells with an object in either, the share with the same shape and colour in both; 1 where there is none."""
    either = (found.shape >= 0) | (truth.shape >= 0)
    right = either & (found.shape == truth.shape) & (found.colour == truth.colour)
    return np.where(either.any(1), right.sum(1) / np.maximum(either.sum(1), 1), 1.0)


def characters_right(found: Records, truth: Records) -> Float64[np.ndarray, "scenes"]:
    """The share of the characters of a strip that are right."""
    return (found.text == truth.text).mean(axis=1)


def blurred(
    pixels: UInt8[np.ndarray, "scenes height width 3"], sigma: float
) -> UInt8[np.ndarray, "scenes height width 3"]:
    """Pictures under a Gaussian blur of ``sigma`` pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels.astype(np.float32), (0, sigma, sigma, 0)).round().astype(np.uint8)


def blur_curve(
    world: SceneWorld, scenes: Scenes, sigmas: Sequence[float] = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
) -> pd.DataFrame:
    """What is still read under blur, one row per ``sigma`` (pixels): objects, characters (shares), scenes (wholly right)."""
    pixels, rows = world.pixels(scenes), []
    for sigma in sigmas:
        found = read(world, blurred(pixels, sigma)).records
        right = objects_right(found, scenes.records), characters_right(found, scenes.records)
        both = (right[0] == 1) & (right[1] == 1)
        rows.append({"sigma": sigma, "objects": right[0].mean(), "characters": right[1].mean(), "scenes": both.mean()})
    return pd.DataFrame(rows)
