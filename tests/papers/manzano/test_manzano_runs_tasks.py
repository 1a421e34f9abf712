"""Texts by task, groups of slots, marks against a loop, bad names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from manzano_runs import WORLD
from manzano_tiny import tiny_language_model

from orchard.errors import BadInput
from orchard.papers.manzano.data.captions import BOS, EOS, GROUPS, WORDS, decode
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.unified import Vocabulary, read, understanding
from orchard.papers.manzano.runs.drawing import TO_DRAW, to_draw
from orchard.papers.manzano.runs.tasks import TO_READ, marks, spans, summary, to_read

VOCABULARY = Vocabulary(len(WORDS), 60)


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    return SceneWorld.Config(k=1, train=100, test=200).build()


def test_every_task_gives_texts(world: SceneWorld) -> None:
    test = world.scenes("test").records
    for name in TO_READ:
        task = to_read(world, test, name, 0)
        assert all(prompt[0] == BOS and answer[-1] == EOS for prompt, answer in zip(task.prompts, task.answers, strict=True))  # fmt: skip
    assert {slot for row in task.slots for slot in row} == {0, 1 + GROUPS.index("knowledge")}  # the last one, told
    for name in TO_DRAW:
        assert all(prompt[0] == BOS and EOS not in prompt for prompt in to_draw(world, test, name, 0).prompts)
    row = to_read(world, test, "read", 0)
    assert decode(row.prompts[5][1:]) == "read k1 :"
    assert decode(row.answers[5][:-1]).split() == list(test.words(row.rows[5])["text"])


def test_slots_with_one_word_between_them_are_one_group() -> None:
    assert spans([0, 1, 1, 0, 0, 3, 3, 3, 0]) == [(1, 3), (5, 8)]
    assert spans([1, 0, 1, 0, 0, 1]) == [(0, 3), (5, 6)]


@torch.no_grad()
@pytest.mark.parametrize("how", ["vectors", "codes", "nothing"])
def test_marks_are_those_of_a_loop(world: SceneWorld, how: str) -> None:
    decoder, task = (tiny_language_model(VOCABULARY).eval(), to_read(world, world.scenes("test").records, "full", 0).head(7))  # fmt: skip
    shown = {"vectors": torch.randn(7, 9, 16), "codes": torch.randint(60, (7, 9)), "nothing": None}[how]
    found, rows = marks(decoder, VOCABULARY, task, shown), []
    for i, (answer, slots) in enumerate(zip(task.answers, task.slots, strict=True)):
        one = None if shown is None else shown[i : i + 1]
        given: Any = (9, one) if how == "vectors" else (one, None)

        def logits(answer: list[int], i: int = i, given: Any = given) -> torch.Tensor:
            sequence = understanding(VOCABULARY, given[0], [task.prompts[i]], [answer])
            return decoder.logits(read(decoder, sequence, given[1]))[0]

        told = logits(answer)[-len(answer) - 1 : -1].log_softmax(-1)
        for start, stop in spans(slots):
            made = answer[:start]
            while len(made) < stop and EOS not in made[start:]:
                made = [*made, int(logits(made)[-1, : len(WORDS)].argmax())]
            for at in (at for at in range(start, stop) if slots[at]):
                likely = int(told[at, : len(WORDS)].argmax()) == answer[at]
                rows.append((i, slots[at], likely, made[at : at + 1] == [answer[at]], -float(told[at, answer[at]])))
    columns = (found[name].tolist() for name in ("item", "group", "likely", "right", "nats"))
    for ours, wanted in zip(zip(*columns, strict=True), rows, strict=True):
        assert ours[:4] == wanted[:4]
        assert ours[4] == pytest.approx(wanted[4], abs=1e-3)
    assert summary(task, found)["accuracy"] == pytest.approx(np.mean([row[3] for row in rows]))


def test_bad_names(world: SceneWorld) -> None:
    train, small = world.scenes("train").records, WORLD.build()
    with pytest.raises(BadInput, match="there is no task 'objcts' to read pictures for; did you mean 'objects'"):
        to_read(world, train, "objcts", 0)
    with pytest.raises(BadInput, match="there is no task 'what' to draw pictures for"):
        to_draw(world, train, "what", 0)
    with pytest.raises(BadInput, match="no picture here allows a text of the task 'left'"):
        to_read(small, small.scenes("test").records, "left", 0)
