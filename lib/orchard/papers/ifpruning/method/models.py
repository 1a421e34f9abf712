"""The decoders that are compared, from plain numbers: dense ones of any inner width, and the predictor's backbone."""

from __future__ import annotations

from dataclasses import dataclass

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary


@dataclass(frozen=True)
class Size:
    """The shape of a decoder, the width of its feed-forward layers and the k that a mask leaves of it."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    width: int  # D
    keep: int  # k


@dataclass(frozen=True)
class Reader:
    """The shape of the predictor."""

    dim: int
    num_layers: int
    num_heads: int
    width: int
    rank: int


def decoder(size: Size, width: int, vocab_size: int | None = None) -> Decoder.Config:
    """A dense decoder of a size whose feed-forward layers have ``width`` channels; its output matrix is its own."""
    head_dim = size.dim // size.num_heads
    attention = Attention.Config(
        num_heads=size.num_heads, num_kv_heads=size.num_kv_heads, head_dim=head_dim, rotary=Rotary.Config()
    )
    block = Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=width))
    made = Decoder.Config(dim=size.dim, layers=[block] * size.num_layers)
    return made if vocab_size is None else made.set(vocab_size=vocab_size)


def reader(shape: Reader) -> Decoder.Config:
    """The backbone of a predictor; tied, since it predicts no tokens."""
    size = Size(shape.dim, shape.num_layers, shape.num_heads, shape.num_heads, shape.width, shape.width)
    return decoder(size, shape.width).set(tie_embeddings=True)
