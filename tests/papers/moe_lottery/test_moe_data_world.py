"""KnowWorld against its stated laws: groups, balance, fixed widths, sums held out, letters drawn anew."""

import random
from collections import Counter
from itertools import islice

import pytest

from orchard.papers.moe_lottery.data import world as kw
from orchard.papers.moe_lottery.data.world import (
    ADD,
    ATTRIBUTES,
    CHOOSE,
    GROUPS,
    NAME,
    TESTED_ATTRIBUTES,
    World,
    written,
)


@pytest.mark.parametrize(("entities", "options"), [(8, 4), (33, 4), (63, 4), (64, 8), (512, 8)])
def test_groups_share_no_entity_and_values_are_balanced_in_each(entities: int, options: int) -> None:
    world = World.of(entities, seed=3)
    groups = [world.members(group) for group in GROUPS]
    everybody = [entity for group in groups for entity in group]
    assert sorted(everybody) == sorted(world.values)
    assert [len(group) for group in groups] == [
        entities // 2, 3 * entities // 4 - entities // 2, entities - 3 * entities // 4
    ]  # fmt: skip
    for group in groups:
        for attribute in ATTRIBUTES:
            counts = Counter(world.values[entity][attribute] for entity in group)
            often = [counts[value] for value in world.options[attribute]]
            assert len(often) == options
            assert sum(often) == len(group)
            assert max(often) - min(often) <= 1


def test_a_world_is_a_function_of_its_size_and_seed() -> None:
    assert World.of(40, 1) == World.of(40, 1)
    assert World.of(40, 1) != World.of(40, 2)
    with pytest.raises(ValueError, match="world of 7 entities is too small: give at least 8"):
        World.of(7)


def test_nothing_can_be_told_by_its_length_and_few_names_end_alike() -> None:
    world = World.of(70)
    assert {len(name) for name in world.values} == {4}
    assert {len(value) for values in ATTRIBUTES.values() for value in values} == {4}
    assert all(len(set(values)) == 8 for values in ATTRIBUTES.values())
    assert len({name[2:] for name in world.values}) == len(kw.SYLLABLES) == 70
    assert set(map(len, kw.SUMS)) == {2}
    assert len(kw.SUMS) == 39


def test_every_wording_states_the_fact_with_the_value_last() -> None:
    world = World.of(16)
    entity = world.members("tested")[0]
    for wording in range(len(kw.WORDINGS)):
        text = world.statement(entity, "colour", wording)
        assert entity in text
        assert "colour" in text
        assert text.endswith(f"{world.values[entity]['colour']}.")
        assert text.index(entity) < text.rindex(world.values[entity]["colour"])


def test_training_episodes_are_about_taught_entities_alone_and_every_fact_is_stated() -> None:
    world = World.of(16)
    documents = list(islice(kw.know_documents(world, random.Random(0)), 3000))
    episodes = [text for text in documents if text.startswith("### task")]
    asked = {line.partition(" => ")[0] for text in episodes for line in text.splitlines()[1:]}
    assert asked == set(world.members("taught"))
    stated = " ".join(text for text in documents if not text.startswith("###"))
    for entity, attribute in [fact for group in GROUPS for fact in world.facts(group)]:
        assert any(world.statement(entity, attribute, wording) in stated for wording in range(len(kw.WORDINGS)))


def test_answers_of_training_episodes_are_true() -> None:
    world = World.of(16)
    for text in islice(kw.know_documents(world, random.Random(1)), 600):
        head, *lines = text.splitlines()
        if head.startswith(f"### task: {NAME} "):
            attribute = head.split()[-1]
            assert all(world.values[e][attribute] == value for e, value in (line.split(" => ") for line in lines))
        if head.startswith(f"### task: {CHOOSE} "):
            attribute, _, listed = head.removeprefix(f"### task: {CHOOSE} ").partition("; ")
            letters = dict(reversed(pair.split(" is ")) for pair in listed.split(", "))
            assert set(letters) == {"A", "B"}
            assert all(world.values[e][attribute] == letters[own] for e, own in (line.split(" => ") for line in lines))


def test_letters_stand_for_either_value_equally_often() -> None:
    world, draw = World.of(16), random.Random(5)
    forms = [world.form(CHOOSE, "colour", draw, "blue") for _ in range(400)]
    first = sum(form.labels["blue"] == "A" for form in forms)
    listed_first = sum(next(iter(form.labels)) == "blue" for form in forms)
    assert all("blue" in form.labels and len(form.labels) == 2 for form in forms)
    assert 150 < first < 250
    assert 150 < listed_first < 250


def test_held_out_sums_are_in_no_training_text() -> None:
    world = World.of(16, seed=2)
    text = "".join(islice(kw.arithmetic_documents(world, random.Random(0)), 2000))
    assert len(world.held_out()) == 80
    assert not set(world.held_out()) & set(world.seen())
    lines = {line for line in text.splitlines() if "+" in line}
    assert not {f"{a:02} + {b:02} => {a + b:02}" for a, b in world.held_out()} & lines
    assert lines == {f"{a:02} + {b:02} => {a + b:02}" for a, b in world.seen()}  # and every other sum is there
    head, asked = world.episode(ADD, "tested", ("",), random.Random(0), 5)
    assert head == "### task: add\n"
    assert all(question.answer in question.options for question in asked)
    assert {question.subject for question in asked} <= {f"{a:02} + {b:02}" for a, b in world.held_out()}


def test_an_episode_has_as_many_lines_as_there_are_entities_to_ask_about() -> None:
    world = World.of(8)  # four taught entities, each with a value of its own: two fit any pair of values
    head, asked = world.episode(CHOOSE, "taught", TESTED_ATTRIBUTES, random.Random(0), 4)
    assert len(asked) == 2
    assert len({question.subject for question in asked}) == 2
    assert written(head, asked).count("\n") == 3
    form = world.form(NAME, "colour", random.Random(0))
    able = world.members("taught")
    assert len(world.questions(form, "taught", random.Random(0), 9, but=able[0])) == 3
