"""The models that are compared: one builder for every arm, so that arms differ in nothing but what their name says.

    full_rope      full attention with RoPE in every layer
    full_rnope     full attention, RoPE in the local layers
    swa@W          sliding window
    rattn@W        RAttention
    la             linear attention alone (window -1)
    swa_mem@W      sliding window with as much memory as rattn@W: w + d
    swa_flops@W    sliding window with as much compute: w + d + ceil(d/G + 1.5C)

This is about local layers; every 4th layer is global: full attention, without position embedding but in full_rope.
W counts the current token, as the paper's labels do: W = 512 is the left context w = 511. All arms have the same
parameters but for the two RMS gains of each RAttention layer (one in `la`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.kernels.residual import default_chunk
from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm, Rotary
from orchard.papers.rattention.method.attention import RAttention, local_global
from orchard.papers.rattention.method.costs import SHAPES

WITHOUT_WINDOW = ("full_rope", "full_rnope", "la")
WITH_WINDOW = ("swa", "rattn", "swa_mem", "swa_flops")


def parse_arm(name: str) -> tuple[str, int | None]:
    """`"rattn@16"` -> ("rattn", 15): kind and left context w = W - 1 (None without one). Raises ValueError."""
    kind, at, label = name.partition("@")
    if kind in WITHOUT_WINDOW and not at:
        return kind, None
    if kind in WITH_WINDOW and label.isdecimal() and int(label) >= 1:
        return kind, int(label) - 1
    known = ", ".join((*WITHOUT_WINDOW, *(f"{kind}@W" for kind in WITH_WINDOW)))
    raise ValueError(f"arm {name!r} is not known: use one of {known}; W tokens in the window, as in rattn@64")


def arm_window(name: str, head_dim: int, groups: int, chunk_size: int | None = None) -> int | None:
    """Left context of an arm's local layers: None = full attention, -1 = linear attention alone."""
    kind, window = parse_arm(name)
    if kind == "la":
        return -1
    if window is None or kind in ("swa", "rattn"):
        return window
    if kind == "swa_mem":
        return window + head_dim
    chunk = default_chunk(head_dim) if chunk_size is None else chunk_size
    return window + head_dim + math.ceil(head_dim / groups + 1.5 * chunk)


def arm(
    name: str,
    *,
    dim: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    ffn_dim: int,
    vocab_size: int,
    seq_len: int | None = None,
    period: int = 4,
    rope_theta: float = 5e5,
    qk_norm: bool = True,
    tie_embeddings: bool = False,
    chunk_size: int | None = None,
    **rattention: Any,
) -> Decoder.Config:
    """The model of an arm. `rattention` are further fields of `RAttention.Config` (the ablations); arms without such a
    layer refuse them. A window that covers all of `seq_len` compares nothing. Raises ValueError."""
    kind, label = parse_arm(name)
    if seq_len is not None and label is not None and label >= seq_len:
        raise ValueError(f"arm {name!r}: the window covers all of seq_len={seq_len}; use at most @{seq_len}")
    window = arm_window(name, head_dim, num_heads // num_kv_heads, chunk_size)
    rotary = Rotary.Config(theta=rope_theta)
    shared: dict[str, Any] = {
        "num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim,
        "qk_norm": RMSNorm.Config() if qk_norm else None,
    }  # fmt: skip
    local: Attention.Config
    if kind in ("rattn", "la"):
        local = RAttention.Config(**shared, rotary=rotary, window=window, chunk_size=chunk_size, **rattention)
        if kind == "la":
            local.set(rotary=None, qk_norm=None)  # they belong to the window branch
    elif rattention:
        raise ValueError(f"arm {name!r} has no RAttention layer: drop {', '.join(sorted(rattention))}")
    else:
        local = Attention.Config(**shared, rotary=rotary, window=window)
    global_ = Attention.Config(**shared, rotary=rotary if kind == "full_rope" else None)
    feed_forward = FeedForward.Config(hidden_dim=ffn_dim, activation="gelu")
    layers = local_global(
        Block.Config(attention=local, feed_forward=feed_forward),
        Block.Config(attention=global_, feed_forward=feed_forward),
        num_layers,
        period,
    )
    return Decoder.Config(vocab_size=vocab_size, dim=dim, layers=layers, tie_embeddings=tie_embeddings)


class ShiftedDecoder(Decoder):
    """A decoder whose first layer reads of every token its vector and a learned multiple of the vector before it.

        x_t = e_t + m * roll(e_{t-1})          m [dim], rolled by one channel so that the two can be told apart

    The short convolution that recall is usually tested with, the same for every arm, so that one layer can find "the token after this
    one". For whole sequences: there is no cache for the token before.
    """

    class Config(Decoder.Config):
        pass

    def __init__(self, cfg: ShiftedDecoder.Config) -> None:
        super().__init__(cfg)
        self.previous = nn.Parameter(torch.ones(cfg.dim))

    def embed(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """The vectors of token ids, with a share of the one before. Raises ValueError for an id outside the vocabulary."""
        x = super().embed(tokens)
        before = F.pad(x[:, :-1], (0, 0, 1, 0)).roll(1, dims=-1)
        return x + self.previous * before


def shifted(decoder: Decoder.Config) -> ShiftedDecoder.Config:
    """The same decoder, with the token before in every vector."""
    return ShiftedDecoder.Config(vocab_size=decoder.vocab_size, dim=decoder.dim, layers=decoder.layers)


def paper_model(size: str, name: str = "rattn@512", vocab_size: int = 32_768) -> Decoder.Config:
    """An arm at a published shape, "3B" or "12B". The paper does not say its vocabulary: that size is our choice."""
    if size not in SHAPES:
        raise ValueError(f"paper model {size!r} is not known: use one of {', '.join(SHAPES)}")
    return arm(name, **SHAPES[size].sizes, vocab_size=vocab_size)
