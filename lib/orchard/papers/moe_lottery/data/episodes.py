"""Supervised fine-tuning that can restore a format and cannot teach the tested facts again.

    loss = - mean over the bytes a of answers of  log p(a | everything before it in the row)

Episodes are about `tuned` entities and about attributes that are never tested, in the format of the tests. Controls with as many
tokens and steps: the same episodes with their answers *shuffled* (format and nothing true), *plain* next-byte fine-tuning
on windows of the training split, and *taskless*, the same without the documents that hold facts or episodes. What the full model gains
from the same help is the yardstick of all of them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from orchard.papers.moe_lottery.data.probes import BOS
from orchard.papers.moe_lottery.data.world import ATTRIBUTES, CHOOSE, LINES, NAME, TESTED_ATTRIBUTES, World

SFT, SHUFFLED, PLAIN, TASKLESS = HELPS = ("fine-tuning", "shuffled answers", "plain text", "text without tasks")
TUNED_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name not in TESTED_ATTRIBUTES)


class Episodes:
    """Rows of `length` + 1 bytes of instruction episodes, each after a bos, with the bytes of answers marked.

    Row i is a function of the seed and i alone; there are `count`. An answer is its letters and the line's end.
    """

    def __init__(self, world: World, length: int, count: int, seed: int, shuffled: bool = False) -> None:
        self.world, self.length, self.count, self.seed, self.shuffled = world, length, count, seed, shuffled

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """`tokens` [batch, length + 1] and `counts` [batch, length]: whether the predicted byte belongs to an answer."""
        rows = [self.row(int(index)) for index in indices]
        return {"tokens": torch.stack([t for t, _ in rows]), "counts": torch.stack([a[1:] for _, a in rows])}

    def row(self, index: int) -> tuple[Int64[Tensor, "bytes"], Bool[Tensor, "bytes"]]:
        """Row `index`: its bytes, and which of them are answers."""
        draw = random.Random(f"episodes {self.seed} {index}")
        ids: list[int] = []
        marks: list[bool] = []
        while len(ids) <= self.length:
            ids.append(BOS)
            marks.append(False)
            task = draw.choice((NAME, CHOOSE))
            head, asked = self.world.episode(task, "tuned", TUNED_ATTRIBUTES, draw, draw.randint(*LINES))
            if self.shuffled:
                asked = [replace(question, answer=draw.choice(question.options)) for question in asked]
            pieces = [head, *(piece for one in asked for piece in (one.prompt, f"{one.answer}\n"))]
            for place, text in enumerate(pieces):
                ids += text.encode()
                marks += [place > 0 and place % 2 == 0] * len(text.encode())  # every second piece is an answer
        return torch.tensor(ids[: self.length + 1]), torch.tensor(marks[: self.length + 1])
