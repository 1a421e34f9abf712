"""Scores of drawn scenes, from what the reader finds in them: GenEval-mini, DPG-mini, WISE-mini, and the floors of answers.

GenEval-mini keeps GenEval's schema (Ghosh et al. 2023): ``tag``, ``include`` [{class, count, color, position}], ``exclude`` [{class,
count}], ``prompt``; six tags, overall = mean of the tags. Its rule of position, with centres and sides of the boxes of A and B:

    d = max(|centre_A - centre_B| - 0.1 (side_A + side_B), 0) sign(...) / ||centre_A - centre_B||
    left of: d_x < -0.5    right of: d_x > 0.5    above: d_y < -0.5    below: d_y > 0.5

One difference: GenEval takes the first ``count`` objects of a class by confidence; the reader has none, so any of them may have the colour.
Prompts are made from records, each is true of its own: all can be drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.errors import BadInput, closest
from orchard.papers.manzano.data.captions import DRAW_OPENING, NUMBERS, Questions, known_names, plural, refuse_unseen
from orchard.papers.manzano.data.parser import Reading
from orchard.papers.manzano.data.scene_world import COLOURS, SHAPES, SIZE, TOKEN, Records, SceneWorld

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
MARGIN = 0.1  # of the sides of two boxes, within which one is not beside the other
Prompt = dict[str, Any]
Found = tuple[str, str, float, float]  # class, colour, centre to the right, centre downwards


def prompts(world: SceneWorld, records: Records, seed: int, tags: Sequence[str] = TAGS) -> list[Prompt]:
    """A prompt that is true of each record, of that tag among those it allows which is rarest so far; key ``row``: of the record.

    Records of the training split must not show what is held out of generation. Raises BadInput."""
    for tag in tags:
        if tag not in TAGS:
            raise BadInput(f"GenEval-mini has no tag {tag!r}; {closest(tag, TAGS)}")
    refuse_unseen(world, records)
    draws, found = random.Random(f"geneval {seed} {' '.join(tags)}"), []
    made_of: Counter[str] = Counter()
    for row in range(len(records)):
        objects = records.words(row)["objects"]
        draws.shuffle(objects)
        for tag in sorted(tags, key=made_of.__getitem__):
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
        return (
            ([{"class": many[0][0], "count": many[0][1]}], f"{NUMBERS[many[0][1]]} {plural(many[0][0])}")
            if many
            else None
        )
    for i, j in permutations(range(len(objects)), 2):
        x, y = objects[i], objects[j]
        if x["shape"] == y["shape"]:
            continue
        if tag != "position":
            return [wanted[i], wanted[j]], f"{said[i]} and {said[j]}"
        down, right = np.subtract(divmod(x["cell"], columns), divmod(y["cell"], columns)).tolist()
        if counts[x["shape"]] == counts[y["shape"]] == 1 and abs(down) != abs(
            right
        ):  # on a diagonal jitter would decide
            beside, over = "left of" if right < 0 else "right of", "above" if down < 0 else "below"
            relation = beside if abs(right) > abs(down) else over
            return [wanted[j], wanted[i] | {"position": [relation, 0]}], f"{said[i]} {relation} {said[j]}"
    return None


def relations(a: Found, b: Found) -> set[str]:
    """Where a is, seen from b: GenEval's rule."""
    offset = np.subtract(a[2:], b[2:])
    revised = np.maximum(np.abs(offset) - MARGIN * 2 * SIZE, 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    right, down = revised / np.linalg.norm(offset)
    holds = {"left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {relation for relation, held in holds.items() if held}


def found_objects(world: SceneWorld, reading: Reading, row: int | np.integer) -> list[Found]:
    """The objects of a scene with the centres of their boxes, in pixels."""
    records, colours = reading.records, tuple(COLOURS)
    found = []
    for cell in np.flatnonzero(records.shape[row] >= 0).tolist():
        down, right = (TOKEN * np.array(divmod(cell, world.columns)) + reading.jitter[row, cell] + SIZE / 2).tolist()
        found.append((SHAPES[records.shape[row, cell]], colours[records.colour[row, cell]], right, down))
    return found


def satisfied(objects: Sequence[Found], prompt: Prompt) -> tuple[bool, str]:
    """Whether objects are what a prompt asks for, and what is wrong with them: GenEval's rules."""
    wrong: list[str] = []
    groups: list[list[Found] | None] = []
    for wanted in prompt["include"]:
        name, count = wanted["class"], wanted["count"]
        group = [thing for thing in objects if thing[0] == name]
        said = f"{count} {wanted.get('color', '')} {name}".replace("  ", " ")
        if "color" in wanted and len(group) >= count:
            group = [thing for thing in group if thing[1] == wanted["color"]]
        good = len(group) >= count
        if not good:
            wrong.append(f"expected {said}, found {len(group)}")
        elif "position" in wanted:
            relation, target = wanted["position"]
            others = groups[target]
            good = others is not None and all(relation in relations(a, b) for a in group[:count] for b in others)
            if not good:
                wrong.append(f"expected {said} {relation} {prompt['include'][target]['class']}")
        groups.append(group[:count] if good else None)
    for unwanted in prompt["exclude"]:
        if (number := sum(thing[0] == unwanted["class"] for thing in objects)) >= unwanted["count"]:
            wrong.append(f"expected fewer than {unwanted['count']} {unwanted['class']}, found {number}")
    return not wrong, "; ".join(wrong)


def evaluate(world: SceneWorld, reading: Reading, asked: Sequence[Prompt]) -> pd.DataFrame:
    """One row per drawn picture, the i-th for the i-th prompt: prompt (words), tag, correct, reason. Raises BadInput for other numbers."""
    if len(reading.records) != len(asked):
        raise BadInput(
            f"{len(reading.records)} pictures for {len(asked)} prompts: give one picture for each, repeat prompts for more"
        )
    found = [satisfied(found_objects(world, reading, i), prompt) for i, prompt in enumerate(asked)]
    rows = [(p["prompt"], p["tag"], good, reason) for p, (good, reason) in zip(asked, found, strict=True)]
    return pd.DataFrame(rows, columns=["prompt", "tag", "correct", "reason"])


def summary(rows: pd.DataFrame) -> pd.Series:
    """Of `evaluate`: the share of each tag, ``overall`` their mean, ``strict`` the share of prompts of which every picture is correct."""
    tags = rows.groupby("tag")["correct"].mean().reindex([tag for tag in TAGS if (rows["tag"] == tag).any()])
    strict = rows.groupby(["tag", "prompt"])["correct"].all().mean()
    return pd.concat([tags, pd.Series({"overall": tags.mean(), "strict": strict})])


def dense(found: Records, truth: Records) -> Float64[np.ndarray, "scenes"]:
    """DPG-mini: the share of the propositions of a full caption that hold: per object something is there, its shape, its colour; each
    character. As in DPG, shape and colour count only where something is there (it cannot be otherwise)."""
    asked = truth.shape >= 0
    there = [asked & (found.shape >= 0), asked & (found.shape == truth.shape), asked & (found.colour == truth.colour)]
    held = sum(part.sum(axis=1) for part in there) + (found.text == truth.text).sum(axis=1)
    return held / np.maximum(3 * asked.sum(axis=1) + truth.text.shape[1], 1)


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


def wise(found: Records, asked: Sequence[dict[str, Any]]) -> float:
    """The share of WISE-mini's prompts whose fact was resolved: shape and colour are right in the cell that was named."""
    shape, colour, cell = (np.array([prompt[key] for prompt in asked]) for key in ("shape", "colour", "cell"))
    rows = np.arange(len(asked))
    return float(((found.shape[rows, cell] == shape) & (found.colour[rows, cell] == colour)).mean())


def majority(train: Questions, asked: Questions) -> dict[str, float]:
    """The floor of questions: by kind, how often the answer that is most frequent in training is right."""
    of_kind: dict[str, Counter[str]] = {}
    for kind, answer in zip(train.kinds, train.answers, strict=True):
        of_kind.setdefault(kind, Counter())[answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in of_kind.items()}
    right = pd.Series([best.get(k) == a for k, a in zip(asked.kinds, asked.answers, strict=True)], dtype=float)
    return {str(kind): float(share) for kind, share in right.groupby(asked.kinds).mean().items()}
