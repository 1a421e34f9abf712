"""What a corpus of instructions is: training batches by number, fixed evaluations, and the prompts that masks are chosen from.

Batches by number let a killed training go on with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from orchard.config import Configurable
from orchard.errors import BadInput, closest
from orchard.papers.ifpruning.method.examples import Examples

STAGES = ("read", "pretrain", "cpt", "sft")


class Corpus(Configurable):
    """Base of the corpora. Splits of an evaluation: ``validation`` and ``test`` hold wordings of instructions that no training reads."""

    class Config(Configurable.Config):
        pass

    cfg: Any
    vocab_size: int
    pad: int  # also never an answer
    domains: Sequence[str]  # their names
    groups: Sequence[int]  # of each domain: those of one group are related

    def check_sizes(self, **least: int) -> None:
        """Raise BadInput for a field of the config with a value below the least."""
        for name, value in least.items():
            if (given := getattr(self.cfg, name)) < value:
                raise BadInput(f"{type(self).__name__}: {name} = {given} is too small; give at least {value}")

    def check(self, what: str, name: str, known: Iterable[str]) -> None:
        """Raise BadInput unless there is such a stage, evaluation or split."""
        if name not in (known := list(known)):
            raise BadInput(f"{type(self).__name__}: there is no {what} {name!r}; {closest(name, known)}")

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        """Batch ``number`` of a stage: ``read`` (text for the language model that a predictor reads with), ``pretrain`` (text), ``cpt``
        or ``sft``. Of the first two no masks are asked."""
        raise NotImplementedError

    def evaluation(self, name: str) -> Examples:
        """Fixed examples: ``validation``, ``test`` (held-out wordings), ``seen`` (wordings of the training)."""
        raise NotImplementedError

    def prompts(self, split: str) -> Examples:
        """One example per domain and wording of ``seen``, ``validation`` or ``test``: for what depends on the prompt alone."""
        raise NotImplementedError

    def tasks(self) -> Examples:
        """One example per domain, in their order, whose prompt describes the task: for one mask per task (section 4.3)."""
        raise NotImplementedError

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        """Which answer of its example each counted token belongs to, from 0; -1 elsewhere. An answer is right when all its tokens are."""
        raise NotImplementedError


def pad_rows(
    rows: Sequence[Sequence[int] | np.ndarray], pad: int, width: int | None = None
) -> Int[Tensor, "rows time"]:
    """Rows of any lengths as one tensor, padded on the right to ``width`` (default: the longest)."""
    width = max(map(len, rows)) if width is None else width
    padded = np.full((len(rows), width), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Ids with zeros behind them, and the mask that says which are no padding."""
    ids = pad_rows(rows, 0)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long()
