"""Finite scalar quantisation (FSQ): every channel is squashed and rounded to one of its levels; a code is the tuple of them.

    h = (L - 1)(1 + 0.001) / 2        o = 1/2 for even L, else 0        s = atanh(o / h)
    b = tanh(z + s) h - o             z^ = round(b), its gradient that of b (straight-through)
    value = z^ / floor(L / 2)         id = sum_i (z^_i + floor(L_i / 2)) prod_{j < i} L_j

There is no codebook to learn and no commitment loss. An even L has one value more below 0 than above (L = 8: -1 ... 0.75).

z, values [*batch, k], ids [*batch] in 0 ... prod L - 1. Rounding is in float32 whatever the type of z and under autocast: in bfloat16
levels merge and ids leave the codebook.
Sources: Mentzer et al. 2023, arXiv 2309.15505; Manzano, arXiv 2509.16197 (64K codes; their levels are not published).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable

MARGIN = 1e-3  # how far beyond the outermost levels z can reach, so that they are not limits that tanh never comes to
FEWEST, MOST = 3, 1000  # levels: at 2, o > h; beyond 1000 the margin reaches the next whole number


def codebook_size(levels: Sequence[int]) -> int:
    """How many codes these levels make. Raises ValueError for no levels, and for one outside 3 ... 1000."""
    if not levels:
        raise ValueError("FSQ.Config.levels is empty: give the levels of each channel, such as [8, 5, 5, 5]")
    for i, level in enumerate(levels):
        if not FEWEST <= level <= MOST:
            raise ValueError(
                f"FSQ.Config.levels[{i}] is {level}: this form of FSQ rounds to {FEWEST} ... {MOST} levels, choose one of these"
            )
    return math.prod(levels)


class FSQ(nn.Module, Configurable):
    """The quantiser. It has no weights, and a cast of the module leaves its levels alone."""

    class Config(Configurable.Config):
        levels: list[int] = REQUIRED  # of each of the k channels

    levels: Tensor
    places: Tensor

    def __init__(self, cfg: FSQ.Config) -> None:
        super().__init__()
        self.size = codebook_size(cfg.levels)
        self.dim = len(cfg.levels)
        self.bits = math.log2(self.size)  # of one code
        self.register_buffer("levels", torch.tensor(cfg.levels), persistent=False)
        places = [math.prod(cfg.levels[:i]) for i in range(self.dim)]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(
        self, z: Float[Tensor, "*batch channels"]
    ) -> tuple[Float[Tensor, "*batch channels"], Int[Tensor, "*batch"]]:
        """Values of the nearest codes, in the type of `z` and with its gradient, and their ids. Raises ValueError as `bounded`."""
        smooth = self._squashed(z)
        rounded = smooth.round()
        values = (smooth + (rounded - smooth).detach()) / self._half
        return values.to(z.dtype), self.ids(rounded.detach() / self._half)

    def bounded(self, z: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """The same bottleneck without its rounding, float32. Raises ValueError for another number of channels than levels."""
        return self._squashed(z) / self._half

    def _squashed(self, z: Tensor) -> Tensor:
        if z.shape[-1] != self.dim:
            raise ValueError(f"FSQ got {z.shape[-1]} channels for {self.dim} levels: project to one channel a level")
        with torch.autocast(z.device.type, enabled=False):
            reach = (self.levels - 1) * (1 + MARGIN) / 2
            offset = (self.levels % 2 == 0) * 0.5
            return (z.float() + (offset / reach).atanh()).tanh() * reach - offset

    def ids(self, values: Float[Tensor, "*batch channels"]) -> Int[Tensor, "*batch"]:
        """The ids of codes that are given by their values."""
        digits = (values.float() * self._half).round().long() + self._half
        return (digits * self.places).sum(dim=-1)

    def values(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch channels"]:
        """The inverse, float32. Raises ValueError for an id outside the codebook, on the CPU: a GPU is not waited for."""
        if ids.device.type == "cpu" and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.size:
                raise ValueError(
                    f"FSQ.values got ids {low} ... {high}, the codebook of levels {self.levels.tolist()} has 0 ... {self.size - 1}: "
                    "take off the offset of the vocabulary, or use the levels that the ids were made with"
                )
        digits = ids[..., None] // self.places % self.levels
        return (digits - self._half) / self._half

    @property
    def _half(self) -> Tensor:
        return self.levels // 2

    def extra_repr(self) -> str:
        return f"{self.levels.tolist()}, {self.size} codes"


def code_use(ids: Int[Tensor, "pictures n"], size: int) -> dict[str, Any]:
    """The use of a codebook: ``codes`` that occur, ``dead`` ones, and by position the ``perplexity`` of its codes, 1 ... size."""
    counts = torch.stack([torch.bincount(column, minlength=size) for column in ids.cpu().T])
    used = int((counts.sum(dim=0) > 0).sum())
    chances = counts / counts.sum(dim=1, keepdim=True)
    return {"codes": used, "dead": size - used, "perplexity": torch.special.entr(chances).sum(dim=1).exp().tolist()}
