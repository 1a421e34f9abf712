"""Prompts to draw pictures by, as ids, by the name of their task. Apart from `tasks`, so that no tokenizer depends on them.

full, objects, text    captions of all of a scene, of a part of it
geneval                short prompts of six kinds
wise, told             an object by an invented name that pictures taught, or that only texts did
"""

from __future__ import annotations

import numpy as np

from orchard.errors import BadInput, closest
from orchard.papers.manzano.data import prompts as short
from orchard.papers.manzano.data.captions import PARTS, captions, encode
from orchard.papers.manzano.data.scene_world import Records, SceneWorld
from orchard.papers.manzano.runs.tasks import Task, some

TO_DRAW = (*PARTS, "geneval", "wise", "told")


def to_draw(world: SceneWorld, records: Records, name: str, seed: int) -> Task:
    """The prompts of a task for these records. Raises BadInput as `to_read`, and for training scenes that show what is held out."""
    if name not in TO_DRAW:
        raise BadInput(f"there is no task {name!r} to draw pictures for; {closest(name, TO_DRAW)}")
    if name in PARTS:
        made = Task.of(captions(world, records, seed, name, draw=True), np.arange(len(records)))
        texts, rows = [answer[:-1] for answer in made.answers], made.rows
    else:
        found = asked(world, records, name, seed)
        texts, rows = (
            [encode(prompt["prompt"]) for prompt in found],
            np.array([p["row"] for p in found], dtype=np.int64),
        )
    return some(name, Task.of_prompts(rows, texts))


def asked(world: SceneWorld, records: Records, name: str, seed: int) -> list[short.Prompt]:
    """The prompts of geneval, wise or told with what they ask for."""
    if name == "geneval":
        return short.prompts(world, records, seed)
    return short.wise_prompts(world, records, seed, "taught" if name == "wise" else "told")
