"""What is said of scenes, against a naive reader of its own: captions are true, slots can be read, questions have right answers."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.manzano.data import captions as said
from orchard.papers.manzano.data.captions import GROUP_OF, decode, encode
from orchard.papers.manzano.data.scene_world import CHARACTERS, COLOURS, SHAPES, Records, SceneWorld

THING = f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})|({'|'.join(SHAPES)}) in ({'|'.join(COLOURS)})"


@pytest.fixture(scope="module")
def world() -> SceneWorld:
    return SceneWorld.Config(train=600, test=400).build()


@pytest.fixture(scope="module")
def records(world: SceneWorld) -> Records:
    return world.scenes("train").records


def naive(text: str) -> dict[str, Any]:
    """A caption read back by patterns: each object is a place and a thing next to each other, the text is its last characters."""
    characters = "".join(re.findall(r"(?<= )[0-9A-F](?= )", f" {text} "))
    places = [(match.start(), int(match[1])) for match in re.finditer(r"\bp(\d+)\b", text)]
    things = [(match.start(), match[1] or match[4], match[2] or match[3]) for match in re.finditer(THING, text)]
    assert len(places) == len(things)
    objects = [
        {"cell": place, "shape": shape, "colour": colour}
        for (_, place), (_, colour, shape) in zip(places, things, strict=True)
    ]
    return {"objects": sorted(objects, key=lambda thing: thing["cell"]), "text": characters}


@pytest.mark.parametrize("draw", [False, True])
@pytest.mark.parametrize("part", said.PARTS)
def test_captions_are_true_and_complete(world: SceneWorld, records: Records, part: str, draw: bool) -> None:
    able = records.take(np.flatnonzero(~world.shows_unseen(records)))
    texts = said.captions(world, able, 0, part, draw)
    for row in range(len(able)):
        truth, found = able.words(row), naive(decode(texts.tokens[row]))
        assert found["objects"] == (truth["objects"] if part != "text" else [])
        assert found["text"] == (truth["text"] if part != "objects" else "")


def test_captions_are_worded_and_ordered_in_many_ways(world: SceneWorld, records: Records) -> None:
    one = records.take(np.full(3000, 0))  # three objects
    texts = {decode(row) for row in said.captions(world, one, 0).tokens}
    assert len(texts) > 2500
    orders = {tuple(re.findall(r"\bp\d+\b", text)) for text in texts}
    assert len(orders) == 6
    for template in said.OBJECT:
        pattern = re.sub(r"\{p\}", r"p\\d+", re.sub(r"\{[cs]\}", r"\\w+", template))
        assert any(re.search(rf"(^| ){pattern}( |$)", text) for text in texts)
    assert len(said.OBJECT) >= 6
    assert len(said.TEXT) >= 6
    again = said.captions(world, records, 3)
    assert np.array_equal(again.tokens, said.captions(world, records, 3).tokens)
    assert not np.array_equal(again.tokens, said.captions(world, records, 4).tokens)


def test_a_slot_is_decided_by_the_picture_and_the_words_before_it(world: SceneWorld, records: Records) -> None:
    texts = said.captions(world, records, 1)
    counted = 0
    for row in range(200):
        words, truth = decode(texts.tokens[row]).split(), records.words(row)
        at = {thing["cell"]: (thing["colour"], thing["shape"]) for thing in truth["objects"]}
        place, read = None, 0
        for word, slot in zip(words, texts.slots[row], strict=False):
            place = int(word[1:]) if re.fullmatch(r"p\d+", word) else place
            place = None if word == "and" else place
            if slot == 1:
                assert place is not None, "its place was not named yet"
                assert word in at[place]
            if slot == 3:
                assert word == truth["text"][read]
            read += word in CHARACTERS and slot == 3
            counted += slot > 0
            assert (word in COLOURS or word in SHAPES or word in CHARACTERS) >= (slot > 0)
        assert read == 6
    assert counted > 200 * 8
    assert (texts.slots > 0)[~texts.counts].sum() == 0
    assert np.array_equal(texts.counts, texts.tokens != said.PAD)


def solved(question: str, truth: dict[str, Any], names: dict[str, tuple[str, str]], columns: int) -> str:
    """The answer to a question, by looking at a record in words."""
    objects, text = truth["objects"], truth["text"]
    if match := re.fullmatch(r"what is at p(\d+) \?", question):
        at = [f"{x['colour']} {x['shape']}" for x in objects if x["cell"] == int(match[1])]
        return at[0] if at else "none"
    if match := re.fullmatch(r"is there a (\w+)(?: (\w+))? \?", question):
        wanted = (match[1], match[2]) if match[2] else names[match[1]]
        return "yes" if any((x["colour"], x["shape"]) == wanted for x in objects) else "no"
    if match := re.fullmatch(r"how many (\w+) \?", question):
        return said.NUMBERS[sum(x["colour"] == match[1] for x in objects)]
    if match := re.fullmatch(r"where is the (\w+) \?", question):
        (cell,) = [x["cell"] for x in objects if x["shape"] == match[1]]
        return f"p{cell}"
    if match := re.fullmatch(r"is the (\w+) left of the (\w+) \?", question):
        ((a,), (b,)) = ([x["cell"] % columns for x in objects if x["shape"] == shape] for shape in match.groups())
        assert a != b
        return "yes" if a < b else "no"
    if match := re.fullmatch(r"what name has p(\d+) \?", question):
        ((thing),) = [(x["colour"], x["shape"]) for x in objects if x["cell"] == int(match[1])]
        return next(name for name, pair in names.items() if pair == thing)
    if match := re.fullmatch(r"character #(\d+) \?", question):
        return text[int(match[1])]
    if question == "largest character ?":
        return sorted(text)[-1]
    assert re.fullmatch(r"read k2 :", question)
    return " ".join(text)


@pytest.mark.parametrize("kind", GROUP_OF)
def test_questions_have_right_answers(world: SceneWorld, records: Records, kind: str) -> None:
    bound = {name: (list(COLOURS)[c], SHAPES[s]) for (s, c), (name, _) in said.names(world).items()}
    asked = said.questions(world, records, 0, [kind])
    assert len(asked.rows) >= 150
    for i, row in enumerate(asked.rows):
        learned = asked.texts.counts[i]
        question, answer = decode(asked.texts.tokens[i][~learned]), decode(asked.texts.tokens[i][learned])
        assert answer == f"{asked.answers[i]} <eos>"
        assert asked.answers[i] == solved(question, records.words(row), bound, world.columns)
        slots = asked.texts.slots[i]
        assert set(slots[learned][:-1]) == {1 + said.GROUPS.index(GROUP_OF[kind])}
        assert slots.sum() == slots[learned][:-1].sum()
    if "no" in asked.answers:
        assert 0.4 < asked.answers.count("yes") / len(asked.answers) < 0.6


def test_names_that_are_only_told_are_never_shown_in_training(world: SceneWorld, records: Records) -> None:
    names = said.names(world)
    assert len(names) == 16
    assert sorted(half for _, half in names.values()) == ["taught"] * 8 + ["told"] * 8
    told = {name for name, half in names.values() if half == "told"}
    everything = itertools.chain(said.captions(world, records, 0).tokens, said.questions(world, records, 0).texts.tokens)  # fmt: skip
    assert not told & {word for row in everything for word in decode(row).split()}
    facts = [decode(row).split() for row in said.facts(world, 400, 0).tokens]
    assert {word for row in facts for word in row} >= {name for name, _ in names.values()}
    bound = {name: {list(COLOURS)[c], SHAPES[s]} for (s, c), (name, _) in names.items()}
    assert all(bound[next(w for w in row if w in bound)] <= set(row) for row in facts)
    with pytest.raises(BadInput, match=r"names of the half 'told' with 600 scenes of the training split"):
        said.questions(world, records, 0, ["name"], half="told")
    test = said.questions(world, world.scenes("test").records, 0, ["name"], half="told")
    assert set(test.answers) <= told


def test_captions_of_strips_and_of_dense_worlds() -> None:
    large = {"height": 72, "width": 72, "k": 6, "shapes": 6, "colours": 8, "most": 6, "alphabet": 16, "unseen": 0.0}
    for fields in ({"height": 12, "most": 0, "k": 3}, large):
        world = SceneWorld.Config(**fields, train=60).build()
        records = world.scenes("train").records
        found = said.captions(world, records, 0).tokens
        assert all(naive(decode(found[i])) == records.words(i) for i in range(60))
        groups = {GROUP_OF[kind] for kind in said.questions(world, records, 0).kinds}
        assert groups == ({"text-rich"} if world.cells == 0 else set(said.GROUPS))


def test_the_vocabulary_is_closed_and_bad_input_refused(world: SceneWorld, records: Records) -> None:
    assert len(set(said.WORDS)) == len(said.WORDS) < 256
    assert said.WORDS[:5] == ("<pad>", "<bos>", "<eos>", "<image>", "</image>")
    assert decode([*encode("a red circle at p3"), said.PAD]) == "a red circle at p3"
    with pytest.raises(BadInput, match="no word 'circel'; did you mean 'circle'"):
        encode("a red circel")
    with pytest.raises(BadInput, match="no part of a caption 'texts'"):
        said.captions(world, records, 0, "texts")
    with pytest.raises(BadInput, match="no kind of question 'colour'"):
        said.questions(world, records, 0, ["colour"])
    said.captions(world, world.scenes("test").records, 0, draw=True)  # what is held out is what is tested
    with pytest.raises(BadInput, match=r"of 600 training scenes show a \(shape, colour\) pair that is held out"):
        said.captions(world, records, 0, draw=True)
