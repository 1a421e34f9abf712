"""What is said about scenes, in a closed vocabulary of whole words: captions, questions, facts about invented names, edit instructions.

    caption    objects in any order, eight wordings of each, six of the text, either part first        all its words are learned
    question   general (what, exists, count, where, left), knowledge (name, named), text-rich (read, character, largest)
    fact       "a dax is a red circle": text without a picture, about every name

A *slot* is a word that the picture and the words before it decide: colour and shape behind the place of their object, characters of the
text, the answer to a question. Accuracy is counted on slots, by group; the order of objects cannot be known and is no slot.

Names are bound to (shape, colour). Those of the half ``taught`` occur with pictures too; those of the half ``told`` only in facts, and in
questions about scenes that are in no training. No caption says what a name means, and none knows a nuisance: it is given records alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsInt

import numpy as np
from jaxtyping import Bool, Int8, Int64

from orchard.errors import BadInput, closest
from orchard.papers.manzano.data import scene_world as sw
from orchard.papers.manzano.data.scene_world import CHARACTERS, COLOURS, LAYOUT, SHAPES, Records, SceneWorld, split_of

GROUPS = ("general", "knowledge", "text-rich")  # of slots, from 1; 0 is no slot
GROUP_OF = {  # of questions
    "what": "general", "exists": "general", "count": "general", "where": "general", "left": "general",
    "name": "knowledge", "named": "knowledge",
    "read": "text-rich", "character": "text-rich", "largest": "text-rich",
}  # fmt: skip
HALVES, PARTS = ("taught", "told"), ("full", "objects", "text")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
NAMES = (
    "dax", "wug", "blick", "toma", "fep", "zib", "gazzer", "kiv", "modi", "lorp", "pell", "nim", "rado", "sef", "tulver", "vab", "wim",
    "yosh", "zant", "bosa", "cuff", "dorp", "enn", "gip",
)  # fmt: skip
OBJECT = (
    "{p} a {c} {s}", "at {p} a {c} {s}", "{p} holds a {c} {s}", "at {p} there is a {s} in {c}", "{p} : {c} {s}",
    "at {p} we see a {c} {s}", "a {c} {s} at {p}", "a {s} in {c} at {p}",
)  # fmt: skip
TEXT = (
    "the strip reads {t}", "text : {t}", "below it says {t}", "with the characters {t}", "we read {t}", "the text is {t}",
)  # fmt: skip
READ_OPENING = ("", "a picture :", "here", "this shows", "what we see :", "here is a picture :")
DRAW_OPENING = ("", "a picture of", "draw", "show", "make a picture of", "paint")
FACT = (
    "a {n} is a {c} {s}", "every {n} is a {c} {s}", "a {c} {s} is called {n}", "we call a {s} in {c} a {n}", "{n} : {c} {s}",
    "{n} means {c} {s}",
)  # fmt: skip
INSTRUCTION = {
    "recolour": ("make the object at {p} {c}", "paint {p} {c}", "the object at {p} becomes {c}"),
    "remove": ("remove the object at {p}", "clear {p}", "take away what {p} holds"),
    "move": ("move the object from {p} to {q}", "{p} goes to {q}", "put what {p} holds at {q}"),
    "add": ("add a {c} {s} at {p}", "put a {c} {s} at {p}", "a new {s} in {c} at {p}"),
    "inpaint": ("fill in {p} with a {c} {s}", "{p} is hidden : paint a {c} {s}", "a {c} {s} is hidden at {p}"),
}
ASKED = "what is at ? there a how many where the left right of above below name has read : character largest none yes no and"
PAD, BOS, EOS, IMAGE, END_IMAGE = range(5)


def plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _words() -> tuple[str, ...]:
    texts = " ".join((*OBJECT, *TEXT, *READ_OPENING, *DRAW_OPENING, *FACT, *sum(INSTRUCTION.values(), ()), ASKED))
    plain = sorted({word for word in texts.split() if "{" not in word})
    side = sw.LARGEST // sw.TOKEN
    places = (*(f"p{i}" for i in range((side - 1) * side)), *(f"#{i}" for i in range(side * max(LAYOUT))))
    things = (*COLOURS, *SHAPES, *map(plural, SHAPES), *NUMBERS, *CHARACTERS, *(f"k{k}" for k in LAYOUT), *NAMES)
    return ("<pad>", "<bos>", "<eos>", "<image>", "</image>", *plain, *things, *places)


WORDS = _words()  # by id
IDS = {word: i for i, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """The ids of the words of a text. Raises BadInput for a word that is not in the vocabulary."""
    for word in text.split():
        if word not in IDS:
            raise BadInput(f"the vocabulary of SceneWorld has no word {word!r}; {closest(word, WORDS)}")
    return [IDS[word] for word in text.split()]


def decode(ids: Iterable[SupportsInt]) -> str:
    """The words of ids, without padding."""
    return " ".join(WORDS[i] for i in map(int, ids) if i != PAD)


@dataclass(frozen=True)
class Texts:
    """Texts as rows, each ended by eos: ``counts`` is what is learned of them, ``slots`` the group of each slot, from 1."""

    tokens: Int64[np.ndarray, "texts time"]
    counts: Bool[np.ndarray, "texts time"]
    slots: Int8[np.ndarray, "texts time"]

    @classmethod
    def of(cls, texts: Sequence[list[tuple[str, int]]], starts: Sequence[int] = ()) -> Texts:
        """Texts from (word, slot) pairs; ``starts``: of each the first word that is learned; none: all words are."""
        lengths = np.array([len(text) + 1 for text in texts], dtype=np.int64)
        place = np.arange(lengths.max(initial=1))
        tokens = np.full((len(texts), len(place)), PAD, dtype=np.int64)
        slots = np.zeros(tokens.shape, dtype=np.int8)
        for i, text in enumerate(texts):
            tokens[i, : len(text) + 1] = [*encode(" ".join(word for word, _ in text)), EOS]
            slots[i, : len(text)] = [slot for _, slot in text]
        first = np.array(starts or [0] * len(texts), dtype=np.int64)
        return cls(tokens, (place < lengths[:, None]) & (place >= first[:, None]), slots)


@dataclass(frozen=True)
class Questions:
    """Questions that can be asked of their scenes: the text with its answer, the rows of those scenes, kinds, answers in words."""

    texts: Texts
    rows: Int64[np.ndarray, "questions"]
    kinds: list[str]
    answers: list[str]


def _known(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise BadInput(f"there is no {what} {given!r}; {closest(given, known)}")


def _filled(template: str, slots: dict[str, int], **values: str) -> list[tuple[str, int]]:
    """The words of a template and their slots; what stands before the place of its object can be read from nothing."""
    found: list[tuple[str, int]] = []
    for word in template.split():
        key = word.strip("{}")
        if key == word:
            found.append((word, 0))
            continue
        known = key not in "cs" or "{p}" in template[: template.index(word)]
        found += [(value, slots.get(key, 0) * known) for value in values[key].split()]
    return found


def _spelled(records: Records, row: int) -> str:
    return " ".join(records.words(row)["text"])


def spoken(shape: int, colour: int) -> dict[str, str]:
    """The words of an object."""
    return {"s": SHAPES[shape], "c": tuple(COLOURS)[colour]}


def refuse_unseen(world: SceneWorld, records: Records) -> None:
    """Raise BadInput where a scene of the training split shows a pair that generation may not be trained on."""
    bad = (split_of(records) == 0) & world.shows_unseen(records)
    if bad.any():
        raise BadInput(
            f"{bad.sum()} of {len(bad)} training scenes show a (shape, colour) pair that is held out of generation, the first in row "
            f"{bad.argmax()}; take those where world.shows_unseen(records) is False"
        )


def captions(world: SceneWorld, records: Records, seed: int, part: str = "full", draw: bool = False) -> Texts:
    """One caption of each scene: of all, of its ``objects``, of its ``text``. ``draw``: as a prompt to generate it.

    Raises BadInput for an unknown part, and what `refuse_unseen` does."""
    _known("part of a caption", part, PARTS)
    if draw:
        refuse_unseen(world, records)
    draws, found = random.Random(f"caption {seed} {part} {draw}"), []
    for row in range(len(records)):
        parts = []
        objects = records.objects(row) if part != "text" else []
        if objects:
            draws.shuffle(objects)
            said: list[tuple[str, int]] = []
            for cell, shape, colour in objects:
                said += [("and", 0)] if said else []
                said += _filled(draws.choice(OBJECT), {"c": 1, "s": 1}, p=f"p{cell}", **spoken(shape, colour))
            parts.append(said)
        if part != "objects":
            parts.append(_filled(draws.choice(TEXT), {"t": 3}, t=_spelled(records, row)))
        draws.shuffle(parts)
        opening = [(word, 0) for word in draws.choice(DRAW_OPENING if draw else READ_OPENING).split()]
        found.append(opening + [pair for i, said in enumerate(parts) for pair in [("and", 0)] * (i > 0) + said])
    return Texts.of(found)


def names(world: SceneWorld) -> dict[tuple[int, int], tuple[str, str]]:
    """(shape, colour) -> (name, half) of the pairs that have a name, 24 at most. The same for all worlds of as many shapes and colours."""
    pairs = [(s, c) for s in range(world.cfg.shapes) for c in range(world.cfg.colours)]
    random.Random("names").shuffle(pairs)
    return {pair: (name, HALVES[i % 2]) for i, (pair, name) in enumerate(zip(pairs, NAMES, strict=False))}


def known_names(world: SceneWorld, records: Records, half: str) -> dict[tuple[int, int], str]:
    """(shape, colour) -> name of a half, to be used with pictures of these records. Raises BadInput for names that are only told where a
    record is of the training split: they would be no test of what text alone taught."""
    _known("half of the names", half, HALVES)
    if half == "told" and (bad := split_of(records) == 0).any():
        raise BadInput(
            f"names of the half 'told' with {bad.sum()} scenes of the training split, the first in row {bad.argmax()}; give half='taught'"
        )
    return {pair: name for pair, (name, of) in names(world).items() if of == half}


def facts(world: SceneWorld, count: int, seed: int) -> Texts:
    """``count`` sentences that bind a name, of either half, to its shape and colour."""
    draws, bound = random.Random(f"fact {seed}"), list(names(world).items())
    chosen = [draws.choice(bound) for _ in range(count)]
    return Texts.of([_filled(draws.choice(FACT), {}, n=name, **spoken(*pair)) for pair, (name, _) in chosen])


def questions(
    world: SceneWorld, records: Records, seed: int, kinds: Sequence[str] = tuple(GROUP_OF), half: str = "taught"
) -> Questions:
    """One question of each scene of which one of the kinds, drawn at random, can be asked. ``half``: of the names it may be about.

    Raises BadInput for an unknown kind, and what `known_names` does."""
    for kind in kinds:
        _known("kind of question", kind, tuple(GROUP_OF))
    known = known_names(world, records, half)
    draws = random.Random(f"question {seed} {' '.join(kinds)} {half}")
    texts, starts, rows, asked, answers = [], [], [], [], []
    for row in range(len(records)):
        kind = draws.choice(kinds)
        pair = _ask(kind, world, records.objects(row), _spelled(records, row), known, draws)
        if pair is None:
            continue
        slot = 1 + GROUPS.index(GROUP_OF[kind])
        texts.append([(word, 0) for word in pair[0].split()] + [(word, slot) for word in pair[1].split()])
        starts.append(len(pair[0].split()))
        rows.append(row)
        asked.append(kind)
        answers.append(pair[1])
    return Questions(Texts.of(texts, starts), np.array(rows, dtype=np.int64), asked, answers)


def _ask(
    kind: str, world: SceneWorld, objects: list[tuple[int, int, int]], text: str, known: dict[tuple[int, int], str],
    draws: random.Random,
) -> tuple[str, str] | None:  # fmt: skip
    """A question of a kind and its answer; None where the scene allows none. "yes" and "no" are as frequent where both are possible."""
    yes, usual = draws.random() < 0.5, draws.random() < 0.75
    shapes = [shape for _, shape, _ in objects]
    things = {cell: (shape, colour) for cell, shape, colour in objects}
    single = [(cell, shape) for cell, shape, _ in objects if shapes.count(shape) == 1]

    def one(choices: Iterable[Any]) -> Any:
        return draws.choice(found) if (found := list(choices)) else None

    if kind == "what":
        cell = one(p for p in range(world.cells) if (p in things) == usual)
        return None if cell is None else (f"what is at p{cell} ?", _said(things[cell]) if cell in things else "none")
    if kind == "exists":
        pair = one(p for p in np.ndindex(world.cfg.shapes, world.cfg.colours) if (p in things.values()) == yes)
        return None if pair is None or not world.cells else (f"is there a {_said(pair)} ?", "yes" if yes else "no")
    if kind == "count":
        shown = [colour for _, _, colour in objects]
        colour = one(shown if usual else range(world.cfg.colours))
        return (f"how many {tuple(COLOURS)[colour]} ?", NUMBERS[shown.count(colour)]) if shown else None
    if kind == "where":
        found = one(single)
        return found and (f"where is the {SHAPES[found[1]]} ?", f"p{found[0]}")
    if kind == "left":
        placed = [(cell % world.columns, SHAPES[shape]) for cell, shape in single]
        pair = one((a, b) for a in placed for b in placed if (a[0] < b[0] if yes else a[0] > b[0]))
        return pair and (f"is the {pair[0][1]} left of the {pair[1][1]} ?", "yes" if yes else "no")
    if kind == "name":
        cell = one(p for p in things if things[p] in known)
        return None if cell is None else (f"what name has p{cell} ?", known[things[cell]])
    if kind == "named":
        pair = one(p for p in known if (p in things.values()) == yes) if known.keys() & set(things.values()) else None
        return None if pair is None else (f"is there a {known[pair]} ?", "yes" if yes else "no")
    if kind == "read":
        return f"read k{world.cfg.k} :", text
    characters = text.split()
    if kind == "character":
        place = draws.randrange(len(characters))
        return f"character #{place} ?", characters[place]
    return "largest character ?", max(characters)


def _said(pair: tuple[int, int]) -> str:
    return "{c} {s}".format(**spoken(*pair))
