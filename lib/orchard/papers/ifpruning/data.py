"""Examples with an instruction: what a model reads, what of it counts, and what the mask may be chosen from.

    tokens    bos prompt answer eos pad ...      read by the decoder
    counts    True at the tokens whose loss counts: answers in fine-tuning, chunks 2 ... K in continued pre-training
    prompts   what the predictor reads, one per mask: the instruction in fine-tuning, chunk j in continued pre-training
    span      which mask each token is computed with

No prompt holds a token that counts under its mask (tested), so a mask never sees what it is judged by (sections 3.2 and 3.5 of the paper).
A corpus gives training batches by number, so that a killed training goes on with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from orchard.config import Configurable

STAGES = ("read", "pretrain", "cpt", "sft")


@dataclass(frozen=True)
class Examples:
    """Examples of a batch, padded on the right; shapes in the fields. ``domain`` is for scoring and for the arms that are told it."""

    tokens: Int[Tensor, "examples time"]
    counts: Bool[Tensor, "examples time"]
    prompts: Int[Tensor, "examples masks prompt_time"]
    prompt_lengths: Int[Tensor, "examples masks"]  # tokens before the padding, at least 1
    span: Int[Tensor, "examples time"]
    domain: Int[Tensor, "examples"]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: Sequence[int] | slice | np.ndarray | Tensor) -> Examples:
        """Some of them, in that order."""
        return Examples(**{name: value[index] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> Examples:
        return Examples(**{name: value.to(device) for name, value in vars(self).items()})


class Corpus(Configurable):
    """Base of the corpora. Splits of an evaluation: ``validation`` and ``test`` hold wordings of instructions that no training reads."""

    class Config(Configurable.Config):
        pass

    vocab_size: int
    pad: int  # also never an answer
    domains: Sequence[str]  # their names
    groups: Sequence[int]  # of each domain: those of one group are related

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
