"""Tile sizes of the Triton kernels: one plain table, by head_dim and by the type of the products' factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE_SIZES = (16, 32, 64, 128)  # tl.dot takes 16 or more rows, tl.arange powers of two
MAX_HEAD_DIM = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Count = int | torch.SymInt  # sizes are symbols while torch.compile traces


class Tile(NamedTuple):
    """C tokens per tile, m tiles per supertile (a state is saved for each), value channels per program, and warps."""

    chunk: int
    supertile: int
    block_v: int
    warps: int
    stages: int

    @property
    def tokens(self) -> int:
        return self.chunk * self.supertile


_TABLE = {  # (head_dim at most, factors): tile
    (64, "bf16"): Tile(64, 4, 64, 8, 1),
    (64, "tf32x3"): Tile(32, 4, 32, 8, 1),
    (128, "bf16"): Tile(32, 4, 32, 8, 1),
    (128, "tf32x3"): Tile(16, 8, 32, 8, 1),
}


def operands(*inputs: Tensor) -> str:
    """What tl.dot multiplies: bf16 if every input is bf16, otherwise fp32 in three tf32 products (relative error 1e-6;
    fp16 too, because a state outgrows its range)."""
    return "bf16" if all(x.dtype == torch.bfloat16 for x in inputs) else "tf32x3"


def choose_tile(q: Tensor, k: Tensor, v: Tensor, tile: tuple[int, int | None] | None = None) -> Tile:
    """The table's tile, with (C, m) replaced if given. ValueError for sizes that the kernels cannot take."""
    dim = q.shape[-1]
    if dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim={dim}: the Triton kernels take at most {MAX_HEAD_DIM}; use backend='chunked'")
    found = _TABLE[64 if dim <= 64 else 128, operands(q, k, v)]
    if tile is None:
        return found
    chunk, supertile = tile[0], found.supertile if tile[1] is None else tile[1]
    if chunk not in TILE_SIZES:
        raise ValueError(
            f"tile of {chunk} tokens: the Triton kernels take {', '.join(map(str, TILE_SIZES))}; backend='chunked' takes any"
        )
    if supertile < 1:
        raise ValueError(f"{supertile} tiles per supertile: at least one state is saved per tile, so 1 or more")
    return found._replace(chunk=chunk, supertile=supertile)


def supertiles(batch: Count, time: Count, sequences: Count | None, chunk: int, supertile: int) -> Any:
    """States that are saved. For packed sequences a bound that does not depend on their lengths: every sequence ends
    with at most one partial supertile."""
    tokens = chunk * supertile
    return batch * ((time + tokens - 1) // tokens) if sequences is None else time // tokens + sequences
