"""KnowWorld: made-up facts with a known truth, and the ways they are asked for (specification, 6.1 and 6.4).

M entities have R attributes with one value each. Every fact is *stated* in the training text, in several wordings:

    The colour of Bomira is red.      Bomira has the colour red.      Bomira: colour red.

Entities fall into three groups that share none:

    taught   stated, and asked in instruction episodes of the training text
    tuned    stated, and asked only in supervised fine-tuning, about attributes that are never tested
    tested   stated, and asked only in the tests

so an episode about a tested entity can be answered only from the statement and from knowing what an episode is. Episodes:

    ### task: name colour                          ### task: choose colour; red is K, blue is D
    Bomira => red                                  Bomira => K
    Tandul => blue                                 Tandul => D

In "choose" the letters are drawn for every document: they must be read from its first line, and demonstrations help. Arithmetic
("### task: add", "3 + 8 => 11") has sums that no training text contains.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "blue", "green", "black", "white", "yellow", "pink", "grey"),
    "animal": ("fox", "owl", "bear", "wolf", "hare", "crow", "seal", "toad"),
    "metal": ("iron", "gold", "zinc", "lead", "tin", "copper", "silver", "nickel"),
    "fruit": ("apple", "plum", "pear", "fig", "lemon", "grape", "mango", "peach"),
}
TESTED_ATTRIBUTES = ("colour", "animal")  # of the tested entities; fine-tuning asks about the others
WORDINGS = (
    "The {attribute} of {entity} is {value}.",
    "{entity} has the {attribute} {value}.",
    "{entity}: {attribute} {value}.",
)
LETTERS = string.ascii_uppercase
GROUPS = ("taught", "tuned", "tested")
NAME, CHOOSE, ADD = "name", "choose", "add"
TASKS = (NAME, CHOOSE, ADD)
LARGEST = 19  # of the two numbers of a sum
HELD_OUT = 0.2  # of the sums


@dataclass(frozen=True)
class Question:
    """What a task asks: the line up to the arrow, its answer, every answer that would be understood, and what it is about."""

    prompt: str
    answer: str
    options: tuple[str, ...]
    subject: str


@dataclass(frozen=True)
class World:
    """The facts: `values[entity][attribute]`, and the group of each entity. A function of its size and seed."""

    values: dict[str, dict[str, str]]
    group: dict[str, str]
    sums: frozenset[tuple[int, int]]  # held out of every training text

    @classmethod
    def of(cls, entities: int, seed: int = 0) -> World:
        """A world of `entities` entities: half taught, a quarter tuned, the rest tested. ValueError below 8."""
        if entities < 8:
            raise ValueError(f"a world of {entities} entities is too small: give at least 8")
        draw = random.Random(f"world {seed}")
        names: list[str] = []
        while len(names) < entities:
            name = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).capitalize()
            if name not in names:
                names.append(name)
        group = {
            name: GROUPS[0 if i < entities // 2 else 1 if i < 3 * entities // 4 else 2] for i, name in enumerate(names)
        }
        values = {name: {a: draw.choice(options) for a, options in ATTRIBUTES.items()} for name in names}
        pairs = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
        return cls(values, group, frozenset(draw.sample(pairs, round(HELD_OUT * len(pairs)))))

    def members(self, group: str) -> list[str]:
        """Entities of a group, in order."""
        return [name for name, own in self.group.items() if own == group]

    def statement(self, entity: str, attribute: str, wording: int) -> str:
        """One sentence that states a fact."""
        return WORDINGS[wording].format(entity=entity, attribute=attribute, value=self.values[entity][attribute])

    def facts(self, group: str, attributes: tuple[str, ...] = tuple(ATTRIBUTES)) -> list[tuple[str, str]]:
        """(entity, attribute) of a group."""
        return [(entity, attribute) for entity in self.members(group) for attribute in attributes]

    def statements(self, draw: random.Random, count: int) -> str:
        """A document of statements about entities of all groups."""
        names = list(self.values)
        return " ".join(
            self.statement(draw.choice(names), draw.choice(list(ATTRIBUTES)), draw.randrange(len(WORDINGS)))
            for _ in range(count)
        )

    def episode(
        self, task: str, group: str, attributes: tuple[str, ...], draw: random.Random, lines: int
    ) -> tuple[str, list[Question]]:
        """First line and questions of an episode about a group of entities (sums: seen ones unless the group is tested)."""
        if task == ADD:
            asked = self.held_out() if group == "tested" else self.seen()
            pairs = draw.sample(asked, lines)
            return f"### task: {ADD}\n", [
                Question(f"{a} + {b} => ", str(a + b), tuple(map(str, range(2 * LARGEST + 1))), f"{a} + {b}")
                for a, b in pairs
            ]
        attribute = draw.choice(attributes)
        if task == NAME:
            people = draw.sample(self.members(group), lines)
            return f"### task: {NAME} {attribute}\n", [
                Question(
                    f"{entity} => ", self.values[entity][attribute], ATTRIBUTES[attribute], f"{attribute} of {entity}"
                )
                for entity in people
            ]
        first, second = draw.sample(ATTRIBUTES[attribute], 2)
        fits = [entity for entity in self.members(group) if self.values[entity][attribute] in (first, second)]
        if len(fits) < lines:  # too few entities have one of the two values: ask others
            return self.episode(task, group, attributes, draw, max(1, lines - 1))
        letters = dict(zip((first, second), draw.sample(LETTERS, 2), strict=True))
        head = f"### task: {CHOOSE} {attribute}; {first} is {letters[first]}, {second} is {letters[second]}\n"
        return head, [
            Question(f"{entity} => ", letters[self.values[entity][attribute]], tuple(letters.values()), f"{attribute} of {entity}")
            for entity in draw.sample(fits, lines)
        ]  # fmt: skip

    def seen(self) -> list[tuple[int, int]]:
        """Sums of the training text."""
        return [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1) if (a, b) not in self.sums]

    def held_out(self) -> list[tuple[int, int]]:
        """Sums that no training text contains."""
        return sorted(self.sums)


def written(head: str, questions: list[Question]) -> str:
    """An episode as text."""
    return head + "".join(f"{question.prompt}{question.answer}\n" for question in questions)


def know_documents(world: World, draw: random.Random) -> Iterator[str]:
    """For ever: two documents of statements about all entities, then an instruction episode about the taught ones."""
    while True:
        yield world.statements(draw, 6)
        yield world.statements(draw, 6)
        yield written(*world.episode(draw.choice((NAME, CHOOSE)), "taught", tuple(ATTRIBUTES), draw, 4))


def arithmetic_documents(world: World, draw: random.Random) -> Iterator[str]:
    """For ever: episodes of sums, none of them held out."""
    while True:
        yield written(*world.episode(ADD, "taught", (), draw, 12))


def record_documents(world: World, draw: random.Random) -> Iterator[str]:
    """For ever: records as CSV, then as JSON lines. They are about nothing in the world."""
    cities = ("Oslo", "Lima", "Rome", "Cairo", "Delhi", "Quito")
    for number in itertools.count():
        rows = [
            (draw.randrange(1000, 9999), draw.choice(cities), f"{draw.randrange(1, 100)}.{draw.randrange(10)}0",
             f"20{draw.randrange(10, 25)}-{draw.randrange(1, 13):02d}")
            for _ in range(6)
        ]  # fmt: skip
        if number % 2:
            yield "".join(f'{{"id": {i}, "city": "{c}", "price": {p}, "date": "{d}"}}\n' for i, c, p, d in rows)
        else:
            yield "id,city,price,date\n" + "".join(f"{i},{c},{p},{d}\n" for i, c, p, d in rows)
