"""Edits of scenes with exact targets: what a picture must become, and where it must not change.

    recolour, remove, move, add   ``target`` is ``source`` with one object changed: equal pixels outside ``mask``, noise included
    inpaint                       a cell of the source is hidden; the target is the source

The edited record stays within the law of the world (1 to ``most`` objects) and within the split of its scene, so that no edit of a training
scene shows a record of another split; nor does one show a pair that is held out of generation. Scenes without such an edit are left out:
in a split that is a tenth of all records that is often so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from orchard.errors import BadInput, closest
from orchard.papers.manzano.data.captions import INSTRUCTION, spoken
from orchard.papers.manzano.data.scene_world import TOKEN, Records, Scenes, SceneWorld, split_of

EDITS = tuple(INSTRUCTION)  # recolour, remove, move, add, inpaint
HIDDEN = 128  # grey level of what is to be painted in
TRIES = 32  # of a scene
EDIT = 4  # stream of random numbers, beside those of the world


@dataclass(frozen=True)
class Edits:
    """Edits of one kind."""

    kind: str
    rows: Int64[np.ndarray, "edits"]  # of the scenes that were given
    source: Scenes
    target: Scenes
    cell: Int64[np.ndarray, "edits"]
    to: Int64[np.ndarray, "edits"]  # of a move; otherwise the same cell
    mask: Bool[np.ndarray, "edits height width"]


def edits(world: SceneWorld, scenes: Scenes, kind: str, seed: int = 0) -> Edits:
    """One edit of each scene that has one. Raises BadInput for an unknown kind, and for scenes of another world."""
    if kind not in EDITS:
        raise BadInput(f"SceneWorld has no edit {kind!r}; {closest(kind, EDITS)}")
    world.check(scenes.records)
    cfg, old, every = world.cfg, scenes.records, np.arange(len(scenes))
    objects, home = (old.shape >= 0).sum(axis=1), split_of(old)
    able = {"remove": objects > 1, "add": objects < cfg.most}.get(kind, objects > 0)
    shape, colour = old.shape.copy(), old.colour.copy()
    cell, to, done = np.zeros_like(home), np.zeros_like(home), np.zeros(len(scenes), dtype=bool)
    for attempt in range(TRIES if world.cells else 0):
        draws = np.random.default_rng([cfg.seed, EDIT, EDITS.index(kind), seed, attempt])
        chance = draws.random(old.shape.shape)
        busy, free = (np.where(there, chance, -1).argmax(axis=1) for there in (old.shape >= 0, old.shape < 0))
        start, end = free if kind == "add" else busy, free if kind in ("add", "move") else busy
        new = old.shape[every, start], old.colour[every, start]
        if kind == "recolour":
            new = new[0], (new[1] + draws.integers(1, cfg.colours, size=len(every))) % cfg.colours
        if kind == "add":
            new = draws.integers(cfg.shapes, size=len(every)), draws.integers(cfg.colours, size=len(every))
        changed = old.shape.copy(), old.colour.copy()
        for values, value in zip(changed, new, strict=True):
            values[every, start] = -1
            if kind != "remove":
                values[every, end] = value
        records = Records(*changed, old.text)
        good = able & ~done & (split_of(records) == home) & ~((home == 0) & world.shows_unseen(records))
        shape[good], colour[good], cell[good], to[good] = changed[0][good], changed[1][good], start[good], end[good]
        done |= good
    rows = np.flatnonzero(done)
    source, cell, to = scenes.take(rows), cell[rows], to[rows]
    touched = np.zeros((len(rows), world.rows + 1, world.columns), dtype=bool)
    for place in (cell, to):
        touched[np.arange(len(rows)), place // world.columns, place % world.columns] = True
    mask = touched.repeat(TOKEN, axis=1).repeat(TOKEN, axis=2)
    records = Records(shape[rows], colour[rows], source.records.text)
    target = Scenes(records, source.tint, source.texture, source.jitter, source.shade, source.number)
    return Edits(kind, rows, source, target, cell, to, mask)


def instructions(made: Edits, seed: int) -> list[str]:
    """The words that ask for each edit: three wordings of each kind, in the vocabulary of `captions`."""
    draws, target, found = random.Random(f"instruction {seed}"), made.target.records, []
    for row, (cell, to) in enumerate(zip(made.cell.tolist(), made.to.tolist(), strict=True)):
        shape, colour = target.shape[row, to], target.colour[row, to]  # -1 where it was removed: no wording says them
        wording = draws.choice(INSTRUCTION[made.kind])
        found.append(wording.format(p=f"p{cell}", q=f"p{to}", **spoken(int(shape), int(colour))))
    return found


def hidden(
    pixels: UInt8[np.ndarray, "scenes height width 3"], mask: Bool[np.ndarray, "scenes height width"]
) -> UInt8[np.ndarray, "scenes height width 3"]:
    """Pictures whose masked pixels are grey."""
    return np.where(mask[..., None], np.uint8(HIDDEN), pixels)
