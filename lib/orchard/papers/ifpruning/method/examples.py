"""Examples with an instruction: what a model reads, what of it counts, and what the mask may be chosen from.

    tokens    bos prompt answer eos pad ...      read by the decoder
    counts    True at the tokens whose loss counts: answers in fine-tuning, chunks 2 ... K in continued pre-training
    prompts   what the predictor reads, one per mask: the instruction in fine-tuning, chunk j in continued pre-training
    span      which mask each token is computed with

No prompt holds a token that counts under its mask (tested), so a mask never sees what it is judged by (sections 3.2 and 3.5 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


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
