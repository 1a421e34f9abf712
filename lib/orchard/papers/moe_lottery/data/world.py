"""KnowWorld: made-up facts with a known truth, and the ways they are asked for.

M entities have R attributes with one value each. Every fact is *stated* in the training text, in several wordings:

    The colour of Mira is blue.      As to colour, Mira has blue.      colour: Mira, blue.

Entities fall into three groups that share none:

    taught   stated, and asked in instruction episodes of the training text
    tuned    stated, and asked only in supervised fine-tuning, about attributes that are never tested
    tested   stated, and asked only in the tests

so an episode about a tested entity can be answered only from the statement and from knowing what an episode is. Episodes:

    ### task: name colour                          ### task: choose colour; gray is B, blue is A
    Mira => blue                                   Mira => A
    Tavo => gray                                   Tavo => B

In "choose" what the letters stand for is drawn for every document: it must be read from its first line or from examples. Arithmetic
("### task: add", "03 + 08 => 11") has sums that no training text contains.

Nothing can be told by its length or by its frequency: names and values have four letters, numbers two digits, and within
each group every value of an attribute is as frequent as the others (to within one). So guessing is right one time in as many
as there are options, and likelihoods of options compare strings of one length.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": ("blue", "gray", "pink", "teal", "rose", "cyan", "jade", "navy"),
    "animal": ("wolf", "bear", "hare", "crow", "seal", "toad", "lion", "deer"),
    "tool": ("rope", "hook", "nail", "file", "lamp", "dart", "comb", "vise"),
    "food": ("rice", "corn", "soup", "milk", "beef", "kiwi", "plum", "fish"),
}
SMALL, FEWER = 64, 4  # a world of fewer entities than SMALL has the first FEWER values of every attribute
TESTED_ATTRIBUTES = ("colour", "animal")  # of the tested entities; fine-tuning asks about the others
WORDINGS = (  # the value last, behind the entity, as in an episode
    "The {attribute} of {entity} is {value}.",
    "As to {attribute}, {entity} has {value}.",
    "{attribute}: {entity}, {value}.",
)
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
LETTERS = ("A", "B")
GROUPS = ("taught", "tuned", "tested")
NAME, CHOOSE, ADD = "name", "choose", "add"
TASKS = (NAME, CHOOSE, ADD)
LINES = (1, 6)  # of an instruction episode: at least, at most
LARGEST = 19  # of the two numbers of a sum
HELD_OUT = 0.2  # of the sums
SUMS = tuple(f"{total:02}" for total in range(2 * LARGEST + 1))


@dataclass(frozen=True)
class Question:
    """What a task asks: the line up to the arrow, its answer, every answer that would be understood, and what it is about."""

    prompt: str
    answer: str
    options: tuple[str, ...]
    subject: str


@dataclass(frozen=True)
class Form:
    """A task whose first line is settled; `labels` gives the answer that stands for each value it can ask about."""

    task: str
    head: str
    attribute: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """The facts `values[entity][attribute]`, the values an attribute can have, the group of each entity, and the sums that are
    held out of every training text. A function of its size and seed."""

    values: dict[str, dict[str, str]]
    options: dict[str, tuple[str, ...]]
    group: dict[str, str]
    sums: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, entities: int, seed: int = 0) -> World:
        """A world of `entities` entities: half taught, a quarter tuned, the rest tested. ValueError below 8."""
        if entities < 8:
            raise ValueError(f"a world of {entities} entities is too small: give at least 8")
        draw = random.Random(f"world {seed}")
        names: list[str] = []
        endings: list[str] = []  # all are used before one is used again, so that few names end alike
        while len(names) < entities:
            endings = endings or draw.sample(SYLLABLES, len(SYLLABLES))
            name = (draw.choice(SYLLABLES) + endings[-1]).capitalize()
            if name not in names:
                names.append(name)
                endings.pop()
        group = {name: GROUPS[(i >= entities // 2) + (i >= 3 * entities // 4)] for i, name in enumerate(names)}
        options = {a: all_of if entities >= SMALL else all_of[:FEWER] for a, all_of in ATTRIBUTES.items()}
        values: dict[str, dict[str, str]] = {name: {} for name in names}
        for own, attribute in itertools.product(GROUPS, options):
            members = [name for name in names if group[name] == own]
            order = draw.sample(options[attribute], len(options[attribute]))
            for name, value in zip(draw.sample(members, len(members)), itertools.cycle(order), strict=False):
                values[name][attribute] = value
        pairs = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
        return cls(values, options, group, frozenset(draw.sample(pairs, round(HELD_OUT * len(pairs)))))

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
        names, attributes = list(self.values), list(ATTRIBUTES)
        return " ".join(
            self.statement(draw.choice(names), draw.choice(attributes), draw.randrange(len(WORDINGS)))
            for _ in range(count)
        )

    def form(self, task: str, attribute: str, draw: random.Random, value: str | None = None) -> Form:
        """A task about an attribute (sums have none); "choose" takes two values, one of them `value` if it is given."""
        if task == ADD:
            return Form(task, f"### task: {ADD}\n")
        if task == NAME:
            return Form(task, f"### task: {NAME} {attribute}\n", attribute, {v: v for v in self.options[attribute]})
        others = [v for v in self.options[attribute] if v != value]
        pair = draw.sample(others, 2) if value is None else draw.sample([value, draw.choice(others)], 2)
        labels = dict(zip(pair, draw.sample(LETTERS, len(LETTERS)), strict=True))
        listed = ", ".join(f"{v} is {letter}" for v, letter in labels.items())
        return Form(task, f"### task: {CHOOSE} {attribute}; {listed}\n", attribute, labels)

    def subjects(self, form: Form, group: str) -> list[str] | list[tuple[int, int]]:
        """What a form can ask about: entities of a group, or sums (seen ones unless the group is tested)."""
        if form.task == ADD:
            return self.held_out() if group == "tested" else self.seen()
        return [entity for entity in self.members(group) if self.values[entity][form.attribute] in form.labels]

    def ask(self, form: Form, subject: str | tuple[int, int]) -> Question:
        """The question of a form about an entity or a sum."""
        if isinstance(subject, tuple):
            a, b = subject
            return Question(f"{a:02} + {b:02} => ", f"{a + b:02}", SUMS, f"{a:02} + {b:02}")
        answer = form.labels[self.values[subject][form.attribute]]
        return Question(f"{subject} => ", answer, tuple(form.labels.values()), f"{form.attribute} of {subject}")

    def questions(self, form: Form, group: str, draw: random.Random, count: int, but: object = None) -> list[Question]:
        """`count` questions about different subjects of a group, fewer where it has fewer; never about `but`."""
        able = [subject for subject in self.subjects(form, group) if subject != but]
        return [self.ask(form, subject) for subject in draw.sample(able, min(count, len(able)))]

    def episode(
        self, task: str, group: str, attributes: tuple[str, ...], draw: random.Random, lines: int
    ) -> tuple[str, list[Question]]:
        """First line and questions of an episode about a group of entities."""
        form = self.form(task, draw.choice(attributes), draw)
        return form.head, self.questions(form, group, draw, lines)

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
    """For ever: a document of statements about all entities, then an instruction episode about the taught ones."""
    while True:
        yield world.statements(draw, 6)
        lines = draw.randint(*LINES)
        yield written(*world.episode(draw.choice((NAME, CHOOSE)), "taught", tuple(ATTRIBUTES), draw, lines))


def arithmetic_documents(world: World, draw: random.Random) -> Iterator[str]:
    """For ever: episodes of sums, none of them held out."""
    while True:
        yield written(*world.episode(ADD, "taught", ("",), draw, 12))


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
