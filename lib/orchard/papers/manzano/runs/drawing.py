"""Prompts to draw pictures by, as ids, by the name of their task. Apart from `tasks`, so that no tokenizer depends on them.

full          captions of all of a scene
geneval       short prompts of six kinds
wise, told    an object by an invented name that pictures taught, or that only texts did
"""

from __future__ import annotations

import numpy as np

from orchard.errors import BadInput, closest
from orchard.papers.manzano.data import prompts as short
from orchard.papers.manzano.data.captions import captions, encode
from orchard.papers.manzano.data.scene_world import Records, SceneWorld
from orchard.papers.manzano.runs.tasks import Task, some

TO_DRAW = ("full", "geneval", "wise", "told")


def to_draw(world: SceneWorld, records: Records, name: str, seed: int) -> Task:
    """The prompts of a task for these records. Raises BadInput as `to_read`, and for training scenes that show what is held out."""
    if name not in TO_DRAW:
        raise BadInput(f"there is no task {name!r} to draw pictures for; {closest(name, TO_DRAW)}")
    if name == "full":
        made = Task.of(captions(world, records, seed, name, draw=True), np.arange(len(records)))
        return some(name, Task.of_prompts(made.rows, [answer[:-1] for answer in made.answers]))
    found = asked(world, records, name, seed)
    rows = np.array([prompt["row"] for prompt in found], dtype=np.int64)
    return some(name, Task.of_prompts(rows, [encode(prompt["prompt"]) for prompt in found]))


def asked(world: SceneWorld, records: Records, name: str, seed: int) -> list[short.Prompt]:
    """The prompts of geneval, wise or told with what they ask for."""
    if name == "geneval":
        return short.prompts(world, records, seed)
    return short.wise_prompts(world, records, seed, "taught" if name == "wise" else "told")
