"""Short prompts to draw, made from records: GenEval-mini's six tags, and WISE-mini's invented names. Each is true of its own record, so
that all can be drawn. What is drawn is scored in `geneval`; a training that reads prompts does not depend on how they are scored.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np

from orchard.papers.manzano.data.captions import DRAW_OPENING, NUMBERS, known_names, plural, refuse_unseen
from orchard.papers.manzano.data.scene_world import Records, SceneWorld

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
Prompt = dict[str, Any]


def prompts(world: SceneWorld, records: Records, seed: int) -> list[Prompt]:
    """A prompt that is true of each record, of that tag among those it allows which is rarest so far; key ``row``: of the record.

    Records of the training split must not show what is held out of generation. Raises BadInput."""
    refuse_unseen(world, records)
    draws, found = random.Random(f"geneval {seed} {' '.join(TAGS)}"), []
    made_of: Counter[str] = Counter()
    for row in range(len(records)):
        objects = records.words(row)["objects"]
        draws.shuffle(objects)
        for tag in sorted(TAGS, key=made_of.__getitem__):
            if made := _include(tag, objects, world.columns):
                include, words = made
                first = include[0]
                exclude = [{"class": first["class"], "count": first["count"] + 1}] if tag == "counting" else []
                prompt = f"{draws.choice(DRAW_OPENING)} {words}".strip()
                found.append({"tag": tag, "include": include, "exclude": exclude, "prompt": prompt, "row": row})
                made_of[tag] += 1
                break
    return found


def _include(tag: str, objects: list[dict[str, Any]], columns: int) -> tuple[list[dict[str, Any]], str] | None:
    """What a prompt of this tag asks for, and its words; None where the objects allow none."""
    counts, coloured = Counter(thing["shape"] for thing in objects), tag in ("colors", "color_attr")
    wanted = [{"class": x["shape"], "count": 1} | ({"color": x["colour"]} if coloured else {}) for x in objects]
    said = [f"a {x['colour']} {x['shape']}" if coloured else f"a {x['shape']}" for x in objects]
    if tag in ("single_object", "colors"):
        return (wanted[:1], said[0]) if objects else None
    if tag == "counting":
        many = [(shape, count) for shape, count in counts.items() if count > 1]
        if not many:
            return None
        shape, count = many[0]
        return [{"class": shape, "count": count}], f"{NUMBERS[count]} {plural(shape)}"
    for i, j in permutations(range(len(objects)), 2):
        x, y = objects[i], objects[j]
        if x["shape"] == y["shape"]:
            continue
        if tag != "position":
            return [wanted[i], wanted[j]], f"{said[i]} and {said[j]}"
        down, right = np.subtract(divmod(x["cell"], columns), divmod(y["cell"], columns)).tolist()
        alone = counts[x["shape"]] == counts[y["shape"]] == 1
        if alone and abs(down) != abs(right):  # on a diagonal jitter would decide
            beside, over = "left of" if right < 0 else "right of", "above" if down < 0 else "below"
            relation = beside if abs(right) > abs(down) else over
            return [wanted[j], wanted[i] | {"position": [relation, 0]}], f"{said[i]} {relation} {said[j]}"
    return None


def wise_prompts(world: SceneWorld, records: Records, seed: int, half: str) -> list[dict[str, Any]]:
    """WISE-mini: of each record an object by its invented name: prompt, shape, colour, cell, row. Names that are only told are refused
    for the training split, and so is what is held out of generation. Raises BadInput."""
    refuse_unseen(world, records)
    known, found = known_names(world, records, half), []
    draws = random.Random(f"wise {seed} {half}")
    for row in range(len(records)):
        objects = [thing for thing in records.objects(row) if thing[1:] in known]
        if objects:
            cell, shape, colour = draws.choice(objects)
            prompt = f"draw a {known[shape, colour]} at p{cell}"
            found.append({"prompt": prompt, "shape": shape, "colour": colour, "cell": cell, "row": row})
    return found
