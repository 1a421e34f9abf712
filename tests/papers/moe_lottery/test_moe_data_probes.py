"""The battery and how answers are read: who is asked about, likelihoods and generation against the slow way, outcomes, ranks."""

import math

import pytest
import torch
from torch import Tensor

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary
from orchard.papers.moe_lottery.data.episodes import TUNED_ATTRIBUTES, Episodes
from orchard.papers.moe_lottery.data.probes import (
    BOS,
    MOST,
    STATE,
    Item,
    encode,
    generated,
    likelihoods,
    outcome,
    probe,
    questions,
    rank,
)
from orchard.papers.moe_lottery.data.world import ADD, CHOOSE, NAME, TESTED_ATTRIBUTES, World

WORLD = World.of(16)
SHOTS = (0, 1, 3)
ITEMS = questions(WORLD, SHOTS, sums=5)


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    attention = Attention.Config(num_heads=2, num_kv_heads=2, head_dim=8, rotary=Rotary.Config())
    block = Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=16))
    made: Decoder = Decoder.Config(vocab_size=257, dim=16, layers=[block, block.clone()]).build()
    with torch.no_grad():
        made.embedding.weight.mul_(20)  # otherwise every prompt gives nearly the same
    return made.eval()


def asked_about(prompt: str) -> tuple[str, list[str]]:
    """The entity of the last line, and those of the examples before it."""
    _, *lines = prompt.split("\n")
    *examples, last = [line.partition(" => ")[0] for line in lines]
    return last, examples


def test_only_tested_entities_and_attributes_are_asked_about_and_examples_show_taught_ones() -> None:
    tested, taught = WORLD.members("tested"), WORLD.members("taught")
    for item in ITEMS:
        if item.task in (NAME, CHOOSE):
            entity, examples = asked_about(item.prompt)
            assert entity in tested
            assert set(examples) <= set(taught)
            assert len(examples) <= item.shots
            assert item.unit.partition(" of ")[0] in TESTED_ATTRIBUTES
            assert len(set(examples)) == len(examples)
    facts = {item.unit for item in ITEMS if item.task == STATE}
    assert facts == {f"{attribute} of {entity}" for entity in tested for attribute in TESTED_ATTRIBUTES}
    assert (
        facts
        == {item.unit for item in ITEMS if item.task == NAME}
        == {item.unit for item in ITEMS if item.task == CHOOSE}
    )


def test_the_battery_is_the_same_for_every_model_and_more_examples_come_after_fewer() -> None:
    assert questions(WORLD, SHOTS, sums=5) == ITEMS
    names = {(item.unit, item.shots): item.prompt for item in ITEMS if item.task == NAME}
    for (unit, shots), prompt in names.items():
        if shots == 3:
            *head, last = prompt.split("\n")
            assert names[unit, 1].split("\n")[:-1] == head[:2]
            assert names[unit, 0].split("\n") == [head[0], last]


def test_sums_are_held_out_and_their_examples_are_not() -> None:
    sums = [item for item in ITEMS if item.task == ADD]
    held_out = {f"{a:02} + {b:02}" for a, b in WORLD.held_out()}
    assert len({item.unit for item in sums}) == 5
    assert len(sums) == 5 * len(SHOTS)
    for item in sums:
        last, examples = asked_about(item.prompt)
        assert last == item.unit
        assert last in held_out
        assert not set(examples) & held_out
        a, b = last.split(" + ")
        assert int(item.answer) == int(a) + int(b)
        assert len(item.options) == 39


def test_likelihoods_are_those_of_reading_each_option_alone(model: Decoder) -> None:
    some = [*ITEMS[:4], *(item for item in ITEMS if item.task in (CHOOSE, ADD) and item.shots == 1)]
    for item, found in zip(some, likelihoods(model, some), strict=True):
        slow = []
        for option in item.options:
            row = encode(item.prompt + option)[None]
            scores = model(row).log_softmax(dim=-1)[0, :-1].gather(-1, row[0, 1:, None])[:, 0]
            slow.append(float(scores[-len(option) :].double().sum().detach()))
        torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_generation_takes_the_likeliest_byte_until_the_line_ends(model: Decoder) -> None:
    prompts = [item.prompt for item in ITEMS if item.task == NAME][:3]
    for prompt, found in zip(prompts, generated(model, prompts), strict=True):
        row = encode(prompt)
        for _ in range(MOST):
            row = torch.cat([row, model(row[None])[0, -1:].argmax(dim=-1)])
            if int(row[-1]) == ord("\n"):
                break
        new = [token for token in row[len(encode(prompt)) :].tolist() if token != BOS]
        assert found == bytes(new).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blue\n", "correct"), (" blue \nMira", "correct"), ("gray\n", "wrong"), ("navy\n", "unparseable"), ("blue", "unparseable"),
        ("blue.\n", "unparseable"), ("Blue\n", "unparseable"), ("\n", "unparseable"), ("", "unparseable"), ("\nblue\n", "unparseable"),
    ],
)  # fmt: skip
def test_a_lost_format_is_told_from_a_lost_fact(text: str, expected: str) -> None:
    assert outcome(Item(NAME, 0, "colour of Mira", "Mira => ", "blue", ("blue", "gray")), text) == expected


def test_ranks_share_the_middle_place_of_ties() -> None:
    scores = torch.tensor([-3.0, -1.0, -1.0, -2.0])
    assert [rank(scores, true) for true in range(4)] == [4.0, 1.5, 1.5, 3.0]
    assert rank(torch.zeros(39), 7) == 20.0
    assert math.isnan(rank(torch.tensor([0.5, float("nan")]), 0))  # a broken model is not always right


def test_one_row_per_item_and_statements_are_not_generated(model: Decoder) -> None:
    table = probe(model, ITEMS)
    assert len(table) == len(ITEMS)
    plain = table[table["shots"] == 0]
    assert plain["rank_score"].between(0, 1).all()
    assert (plain["first"] == (plain["rank"] == 1)).all()
    assert table.loc[table["shots"] > 0, ["rank", "rank_score", "first"]].isna().all().all()
    statements = table["task"] == STATE
    assert table.loc[statements, "outcome"].isna().all()
    assert table.loc[~statements, "outcome"].notna().all()


def answers(row: tuple[Tensor, Tensor]) -> list[str]:
    """The marked stretches of a row as text."""
    tokens, marks = row
    text = "".join(chr(int(t)) if mark else "|" for t, mark in zip(tokens, marks, strict=True))
    return [part for part in text.split("|") if part]


def test_episodes_ask_tuned_entities_about_attributes_that_are_never_tested_and_mark_their_answers() -> None:
    episodes = Episodes(WORLD, length=120, count=40, seed=0)
    for index in range(40):
        tokens, marks = episodes.row(index)
        text = "".join(chr(int(t)) if t < BOS else "\x00" for t in tokens)
        for document in text.split("\x00")[1:-1]:  # the last one is cut
            head, *lines = document.splitlines()
            attribute = head.removeprefix("### task: ").partition(";")[0].split()[-1]
            assert attribute in TUNED_ATTRIBUTES
            assert {line.partition(" => ")[0] for line in lines} <= set(WORLD.members("tuned"))
        told = [part.split("\n")[0] for part in answers((tokens, marks))]
        assert told
        assert all(len(part) in (1, 4) for part in told[:-1])
        assert tokens[0] == BOS
        assert not marks[0]
    batch = episodes.batch(torch.arange(3).numpy())
    assert batch["tokens"].shape == (3, 121)
    assert batch["counts"].shape == (3, 120)
    assert torch.equal(batch["counts"][1], episodes.row(1)[1][1:])


def test_shuffled_answers_have_the_format_and_not_the_facts() -> None:
    plain, shuffled = (Episodes(WORLD, 300, 60, 0, wrong) for wrong in (False, True))
    told = {False: [0, 0], True: [0, 0]}
    for wrong, episodes in ((False, plain), (True, shuffled)):
        for index in range(60):
            text = "".join(chr(int(t)) if t < BOS else "\x00" for t in episodes.row(index)[0])
            for document in text.split("\x00")[1:-1]:
                head, *lines = document.splitlines()
                if head.startswith(f"### task: {NAME} "):
                    for entity, value in (line.split(" => ") for line in lines):
                        told[wrong][0] += WORLD.values[entity][head.split()[-1]] == value
                        told[wrong][1] += 1
                        assert value in WORLD.options[head.split()[-1]]
    assert told[False][0] == told[False][1] > 100
    assert 0.1 < told[True][0] / told[True][1] < 0.4  # one in four by guessing
