"""GenEval-mini on hand-made scenes and on its own prompts; DPG-mini, WISE-mini, floors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.errors import BadInput
from orchard.papers.manzano.data import geneval
from orchard.papers.manzano.data.captions import encode, plural, questions
from orchard.papers.manzano.data.geneval import Found, evaluate, relations, satisfied, summary
from orchard.papers.manzano.data.parser import Reading, read
from orchard.papers.manzano.data.prompts import TAGS, prompts, wise_prompts
from orchard.papers.manzano.data.scene_world import Records, SceneWorld

SCENE: list[Found] = [
    ("circle", "red", 5.0, 5.0), ("circle", "blue", 29.0, 5.0), ("square", "blue", 17.0, 17.0), ("cross", "green", 5.0, 17.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    return SceneWorld.Config(train=100, test=900).build()


def wanted(name: str, count: int = 1, colour: str = "", relation: str = "") -> dict:
    asked = {"class": name, "count": count} | ({"color": colour} if colour else {})
    return asked | ({"position": [relation, 0]} if relation else {})


@pytest.mark.parametrize(
    ("include", "exclude", "right"),
    [
        ([wanted("circle")], [], True),
        ([wanted("diamond")], [], False),
        ([wanted("circle", 2)], [wanted("circle", 3)], True),
        ([wanted("circle", 1)], [wanted("circle", 2)], False),  # one was asked for, two are there
        ([wanted("circle", 3)], [], False),
        ([wanted("circle", 1, "red"), wanted("circle", 1, "blue")], [], True),  # the second of the two is
        ([wanted("circle", 2, "red")], [], False),
        ([wanted("circle", 1, "red"), wanted("square", 1, "blue")], [], True),
        ([wanted("circle", 1, "blue"), wanted("square", 1, "red")], [], False),  # the square is blue
        ([wanted("square"), wanted("cross", relation="left of")], [], True),
        ([wanted("square"), wanted("cross", relation="right of")], [], False),
        ([wanted("diamond"), wanted("cross", relation="left of")], [], False),  # what it is left of is missing
    ],
)
def test_rules_of_geneval_on_a_hand_made_scene(include: list, exclude: list, right: bool) -> None:
    good, reason = satisfied(SCENE, {"tag": "", "include": include, "exclude": exclude, "prompt": ""})
    assert good == right != bool(reason)


@pytest.mark.parametrize(
    ("offset", "relation"),
    [
        ((0, 0), set()),
        ((1.8, 0), set()),  # within a tenth of the two sides
        ((1.9, 0), set()),  # beyond, but 0.1 of its own length
        ((-12, 0), {"left of"}),
        ((12, 1.7), {"right of"}),
        ((0, -12), {"above"}),
        ((12, 12), {"right of", "below"}),  # 10.2 / 16.97 = 0.60 in both
        ((10, 14), {"below"}),  # 8.2 / 17.2 = 0.48 to the right
        ((-24, -12), {"left of"}),  # 10.2 / 26.8 = 0.38 upwards
    ],
)
def test_the_rule_of_position(offset: tuple[float, float], relation: set[str]) -> None:
    here = ("circle", "red", 20.0 + offset[0], 20.0 + offset[1])
    assert relations(here, ("square", "red", 20.0, 20.0)) == relation


def test_prompts_are_true_of_their_records_and_of_few_others(world: SceneWorld) -> None:
    scenes = world.scenes("test")
    made = prompts(world, scenes.records, 0)
    rows = np.array([prompt["row"] for prompt in made])
    seen = read(world, world.pixels(scenes)).take(rows)
    table = evaluate(world, seen, made)
    assert table["correct"].all()
    assert set(table["tag"]) == set(TAGS)
    assert table["tag"].value_counts().min() > 100
    assert prompts(world, scenes.records, 0) == made != prompts(world, scenes.records, 1)
    shuffled = summary(evaluate(world, seen.take(np.random.default_rng(0).permutation(len(rows))), made))
    assert 0.02 < shuffled["overall"] < 0.25  # the floor
    for prompt in made:
        assert set(prompt) == {"tag", "include", "exclude", "prompt", "row"}
        words, relation = prompt["prompt"], prompt["include"][-1].get("position", ["", 0])[0]
        assert len(encode(words)) >= 2
        for part in prompt["include"]:
            name = part["class"] if part["count"] == 1 else plural(part["class"])
            assert {name, part.get("color", name)} <= set(words.split())
        assert (prompt["tag"] == "counting") == bool(prompt["exclude"])
        assert (prompt["tag"] == "position") == bool(relation)
        assert relation in words


def test_overall_is_the_mean_of_the_tags_and_strict_wants_every_picture() -> None:
    rows = [("a", "colors", True), ("a", "colors", False), ("b", "colors", True), ("c", "position", False)]
    found = summary(pd.DataFrame(rows, columns=["prompt", "tag", "correct"]))
    assert found["colors"] == pytest.approx(2 / 3)
    assert found["overall"] == pytest.approx(1 / 3)  # not 1 / 2, the mean of the pictures
    assert found["strict"] == pytest.approx(1 / 3)


def test_dense_prompts_and_resolved_facts(world: SceneWorld) -> None:
    def records(shape: list[int], colour: list[int], text: list[int]) -> Records:
        return Records(*(np.array([part], dtype=np.int8) for part in (shape, colour, text)))

    truth = records([0, -1, 2, -1, -1, -1], [1, -1, 3, -1, -1, -1], [1, 2, 3, 4])
    wrong = records([0, -1, 1, -1, -1, -1], [1, -1, 3, -1, -1, -1], [1, 2, 3, 0])
    assert geneval.dense(truth, truth)[0] == 1
    assert geneval.dense(wrong, truth)[0] == pytest.approx(8 / 10)  # of 6 + 4, a shape and a character
    scenes = world.scenes("test")
    for half in ("taught", "told"):
        facts = wise_prompts(world, scenes.records, 0, half)
        rows = np.array([fact["row"] for fact in facts])
        assert geneval.wise(scenes.records.take(rows), facts).all()
        assert geneval.wise(scenes.records.take(rows[::-1]), facts).mean() < 0.2
    train = world.scenes("train").records
    with pytest.raises(BadInput, match="half 'told' with"):
        wise_prompts(world, train.take(np.flatnonzero(~world.shows_unseen(train))), 0, "told")


def test_the_floor_is_the_majority_of_training(world: SceneWorld) -> None:
    train, test = (questions(world, world.scenes(split).records, 0, ["what", "exists"]) for split in ("train", "test"))
    floor = geneval.majority(train, test)
    right = [a == "none" for kind, a in zip(test.kinds, test.answers, strict=True) if kind == "what"]
    assert floor["what"] == pytest.approx(np.mean(right))
    assert floor["exists"] == pytest.approx(0.5, abs=0.1)


def test_bad_input_is_refused(world: SceneWorld) -> None:
    scenes = world.scenes("test")
    with pytest.raises(BadInput, match="training scenes show a"):
        prompts(world, world.scenes("train").records, 0)
    with pytest.raises(BadInput, match="900 pictures for 1 prompts"):
        evaluate(world, Reading(scenes.records, scenes.jitter), prompts(world, scenes.records, 0)[:1])
