"""Texts about pictures by the name of their task, as ids, and the marks of a language model that reads the pictures.

    task      full, objects, text          captions of all of a scene, of a part of it
              general, knowledge, text-rich, or one kind of question (read, what, name, ...)
              told                         knowledge of names that pictures never taught

    right     of a slot: the word generated there is the true one. What is generated is a group of slots with at most one word between
              them: an object of a caption, all characters of a text, an answer
    likely    the same, given all true words before it;  nats: -log p of the true word

A prompt begins with bos, an answer ends with eos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from orchard.errors import BadInput, closest
from orchard.nn import Decoder, Sampling
from orchard.papers.manzano.data.captions import BOS, EOS, GROUP_OF, GROUPS, PAD, PARTS, Texts, captions, questions
from orchard.papers.manzano.data.scene_world import Records, SceneWorld
from orchard.papers.manzano.method.unified import TEXT, Vocabulary, answers, read, understanding

TO_READ = (*PARTS, *GROUPS, *GROUP_OF, "told")
AT_ONCE = 256  # texts in a forward pass
Shown = Float[Tensor, "texts n dim"] | Int[Tensor, "texts n"] | None
"""What is read before each text: the vectors of a picture, its codes, or nothing."""


@dataclass(frozen=True)
class Task:
    """Texts about pictures. ``slots``: of every id of an answer the number of its group in GROUPS from 1, or 0 where it is no slot."""

    rows: Int64[np.ndarray, "texts"]  # of the pictures
    prompts: list[list[int]]
    answers: list[list[int]]
    slots: list[list[int]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def length(self) -> float:
        """Ids of a prompt and its answer, the mean."""
        return float(np.mean([len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True)]))

    def take(self, index: Int64[np.ndarray, "_"]) -> Task:
        """The texts with these numbers, in this order."""
        return Task(self.rows[index], *([part[i] for i in index] for part in (self.prompts, self.answers, self.slots)))

    def head(self, count: int) -> Task:
        """The first of them, ``count`` at most."""
        return self.take(np.arange(min(count, len(self))))

    @classmethod
    def of(cls, texts: Texts, rows: Int64[np.ndarray, "texts"]) -> Task:
        """Of each text what stands before its first counted word is the prompt."""
        found = cls(rows, [], [], [])
        starts, stops = texts.counts.argmax(axis=1).tolist(), (texts.tokens != PAD).sum(axis=1).tolist()
        for tokens, slots, start, stop in zip(texts.tokens.tolist(), texts.slots.tolist(), starts, stops, strict=True):
            found.prompts.append([BOS, *tokens[:start]])
            found.answers.append(tokens[start:stop])
            found.slots.append(slots[start:stop])
        return found

    @classmethod
    def of_prompts(cls, rows: Int64[np.ndarray, "texts"], texts: Sequence[list[int]]) -> Task:
        """Prompts without answers."""
        return cls(rows, [[BOS, *text] for text in texts], [[] for _ in texts], [[] for _ in texts])

    @staticmethod
    def joined(parts: Sequence[Task]) -> Task:
        """All texts of the parts."""
        lists = ([text for part in parts for text in getattr(part, name)] for name in ("prompts", "answers", "slots"))
        return Task(np.concatenate([part.rows for part in parts]), *lists)


def to_read(world: SceneWorld, records: Records, name: str, seed: int) -> Task:
    """The texts of a task about these records. Raises BadInput for an unknown task, for names never taught in training scenes, and where
    no record allows such a text."""
    if name not in TO_READ:
        raise BadInput(f"there is no task {name!r} to read pictures for; {closest(name, TO_READ)}")
    if name in PARTS:
        return some(name, Task.of(captions(world, records, seed, name), np.arange(len(records))))
    group, half = ("knowledge", "told") if name == "told" else (name, "taught")
    kinds = [kind for kind, of in GROUP_OF.items() if group in (kind, of)]
    found = questions(world, records, seed, kinds, half)
    return some(name, Task.of(found.texts, found.rows))


def some(name: str, task: Task) -> Task:
    """The task itself. Raises BadInput for one without texts."""
    if not len(task):
        raise BadInput(f"no picture here allows a text of the task {name!r}: give more pictures, or another task")
    return task


def mixed(tasks: dict[str, Task], chances: Float[np.ndarray, "tasks"], count: int, random: np.random.Generator) -> Task:
    """``count`` texts, of tasks drawn with these chances."""
    parts = list(tasks.values())
    counts = np.bincount(random.choice(len(parts), size=count, p=chances), minlength=len(parts)).tolist()
    return Task.joined([part.take(random.integers(len(part), size=n)) for part, n in zip(parts, counts, strict=True)])


def spans(slots: Sequence[int]) -> list[tuple[int, int]]:
    """First place and end of every group of slots with at most one word between them."""
    found: list[tuple[int, int]] = []
    for place, slot in enumerate(slots):
        if slot and found and place - found[-1][1] <= 1:
            found[-1] = found[-1][0], place + 1
        elif slot:
            found.append((place, place + 1))
    return found


@torch.no_grad()
def marks(
    decoder: Decoder, vocabulary: Vocabulary, task: Task, shown: Shown, generate: bool = True
) -> dict[str, Tensor]:
    """Of every slot, text by text: ``item`` (number of the text), ``picture``, ``group``, ``nats``, ``likely`` and, if words are
    generated, ``right``. Greedy, among text ids."""
    item = np.repeat(np.arange(len(task)), [len(answer) for answer in task.answers])
    group = np.concatenate([np.empty(0, dtype=np.int64), *map(np.array, task.slots)]).astype(np.int64)
    slot = torch.from_numpy(group > 0)
    scores = [_told(decoder, vocabulary, *part) for part in _parts(task, shown)]
    found = {
        "item": torch.from_numpy(item), "picture": torch.from_numpy(task.rows[item]), "group": torch.from_numpy(group),
        "nats": torch.cat([nats for nats, _ in scores]), "likely": torch.cat([likely for _, likely in scores]),
    }  # fmt: skip
    if generate:
        found["right"] = torch.cat([_generated(decoder, vocabulary, *part) for part in _parts(task, shown)])
    return {name: values[slot] for name, values in found.items()}


def summary(task: Task, found: dict[str, Tensor]) -> dict[str, float]:
    """Of marks with generated words: ``accuracy`` of slots, ``exact``, the share without a wrong slot of the texts that have slots,
    ``loss`` in nats."""
    slots, wrong = (
        torch.zeros(len(task)).index_add(0, found["item"], values.float())
        for values in (found["group"] > 0, ~found["right"])
    )
    scores = {"accuracy": found["right"].float(), "exact": (wrong[slots > 0] == 0).float(), "loss": found["nats"]}
    return {name: float(values.mean()) for name, values in scores.items()}


def _parts(task: Task, shown: Shown) -> list[tuple[Task, Shown]]:
    starts = range(0, len(task), AT_ONCE)
    parts = [np.arange(start, min(start + AT_ONCE, len(task))) for start in starts]
    return [(task.take(part), None if shown is None else shown[part[0] : part[-1] + 1]) for part in parts]


def _told(
    decoder: Decoder, vocabulary: Vocabulary, task: Task, shown: Shown
) -> tuple[Float[Tensor, "ids"], Bool[Tensor, "ids"]]:
    """Nats of every id of the answers, given those before it, and whether it is the likeliest."""
    vectors = shown if shown is not None and shown.is_floating_point() else None
    given = shown if vectors is None else vectors.shape[1]
    sequences = understanding(vocabulary, given, task.prompts, task.answers).to(decoder.embedding.weight.device)
    features = read(decoder, sequences, vectors)[:, :-1]
    counted = sequences.kinds[:, 1:] == TEXT
    logits, targets = decoder.logits(features[counted]).float(), sequences.tokens[:, 1:][counted]
    best = logits[:, : vocabulary.text_size].argmax(dim=-1)
    return F.cross_entropy(logits, targets, reduction="none").cpu(), (best == targets).cpu()


def _generated(decoder: Decoder, vocabulary: Vocabulary, task: Task, shown: Shown) -> Bool[Tensor, "ids"]:
    """Whether every id of a slot is generated, from the words before its group."""
    right = [[False] * len(answer) for answer in task.answers]
    groups: dict[int, list[tuple[int, int]]] = {}
    for i, slots in enumerate(task.slots):
        for start, stop in spans(slots):
            groups.setdefault(stop - start, []).append((i, start))
    for length, places in groups.items():
        texts = [task.prompts[i] + task.answers[i][:start] for i, start in places]
        seen = None if shown is None else shown[torch.tensor([i for i, _ in places], device=shown.device)]
        made = answers(decoder, vocabulary, texts, length, EOS, Sampling(), shown=seen)
        for (i, start), row in zip(places, made, strict=True):
            for place, new in enumerate(row, start):
                right[i][place] = new == task.answers[i][place]
    return torch.tensor([value for row in right for value in row], dtype=torch.bool)
