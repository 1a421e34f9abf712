"""Several documents in one row: documents of any length fill a batch without padding, and none may see another.

    cu_seqlens = [0, n_1, n_1 + n_2, ..., T]        document i is the tokens cu_seqlens[i] ... cu_seqlens[i + 1] - 1

The name and the layout are those of flash-attention's variable-length calls.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class Packed:
    """The boundaries of packed documents, checked once, with what layers derive from them.

    `cu_seqlens` [documents + 1] on the device of the tokens; `lengths` the same as a list of numbers (for which the
    host waits once); `document` [time] and `positions` [time]: which document a token is in, and where in it.
    Raises ValueError for boundaries that do not begin at 0 or do not grow.
    """

    def __init__(self, cu_seqlens: Int[Tensor, " documents_and_one"]) -> None:
        ends = cu_seqlens.tolist()
        if len(ends) < 2 or ends[0] != 0 or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"cu_seqlens is {ends}: give 0, then the end of each document; every one holds a token")
        self.cu_seqlens = cu_seqlens
        self.lengths = [b - a for a, b in pairwise(ends)]
        counts = torch.tensor(self.lengths, device=cu_seqlens.device)
        self.document = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        self.positions = torch.arange(ends[-1], device=counts.device) - cu_seqlens[self.document]
        self._block_masks: dict[tuple[int | None, bool], Any] = {}

    def check(self, *tensors: Tensor) -> None:
        """Raise ValueError unless every tensor is [1, time, ...] with the time of the last boundary."""
        for x in tensors:
            if x.shape[0] != 1 or x.shape[1] != len(self.document):
                raise ValueError(
                    f"packed documents end at {len(self.document)}, but the input has {x.shape[0]} rows of "
                    f"{x.shape[1]} tokens: put all documents into one row"
                )

    def block_mask(self, window: int | None, causal: bool = True) -> Any:
        """FlexAttention's mask: causal if asked for, within the window, within the document. Made once for each."""
        key = window, causal
        if key not in self._block_masks:
            from torch.nn.attention.flex_attention import create_block_mask

            document, time = self.document, len(self.document)
            reach = time if window is None else window
            ahead = 0 if causal else reach
            self._block_masks[key] = create_block_mask(
                lambda b, h, q, k: (q - k >= -ahead) & (q - k <= reach) & (document[q] == document[k]),
                None, None, time, time, device=str(document.device),
            )  # fmt: skip
        return self._block_masks[key]
