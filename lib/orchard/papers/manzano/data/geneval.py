"""Scores of drawn scenes, from what the reader finds in them: GenEval-mini, DPG-mini, WISE-mini, and the floors of answers.

GenEval-mini keeps GenEval's schema (Ghosh et al. 2023): ``tag``, ``include`` [{class, count, color, position}], ``exclude`` [{class,
count}], ``prompt``; six tags, overall = mean of the tags. Its rule of position, with centres and sides of the boxes of A and B:

    d = max(|centre_A - centre_B| - 0.1 (side_A + side_B), 0) sign(...) / ||centre_A - centre_B||
    left of: d_x < -0.5    right of: d_x > 0.5    above: d_y < -0.5    below: d_y > 0.5

One difference: GenEval takes the first ``count`` objects of a class by confidence; the reader has none, so any of them may have the colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from orchard.errors import BadInput
from orchard.papers.manzano.data.captions import Questions
from orchard.papers.manzano.data.parser import Reading
from orchard.papers.manzano.data.prompts import TAGS, Prompt
from orchard.papers.manzano.data.scene_world import COLOURS, SHAPES, SIZE, TOKEN, Records, SceneWorld

MARGIN = 0.1  # of the sides of two boxes, within which one is not beside the other
Found = tuple[str, str, float, float]  # class, colour, centre to the right, centre downwards


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


def wise(found: Records, asked: Sequence[dict[str, Any]]) -> Bool[np.ndarray, "scenes"]:
    """Whether the fact of each of WISE-mini's prompts was resolved: shape and colour are right in the cell that was named."""
    shape, colour, cell = (np.array([prompt[key] for prompt in asked]) for key in ("shape", "colour", "cell"))
    rows = np.arange(len(asked))
    return (found.shape[rows, cell] == shape) & (found.colour[rows, cell] == colour)


def majority(train: Questions, asked: Questions) -> dict[str, float]:
    """The floor of questions: by kind, how often the answer that is most frequent in training is right."""
    of_kind: dict[str, Counter[str]] = {}
    for kind, answer in zip(train.kinds, train.answers, strict=True):
        of_kind.setdefault(kind, Counter())[answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in of_kind.items()}
    right = pd.Series([best.get(k) == a for k, a in zip(asked.kinds, asked.answers, strict=True)], dtype=float)
    return {str(kind): float(share) for kind, share in right.groupby(asked.kinds).mean().items()}
