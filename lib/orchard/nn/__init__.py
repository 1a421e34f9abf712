"""Building blocks of models. Tensors are [batch, time, heads, head_dim]; windows count left context (attention.py)."""

from orchard.nn.attention import (
    Attention,
    Cache,
    FullCache,
    RollingCache,
    attention,
    window_including_self,
    window_mask,
)
from orchard.nn.feedforward import FeedForward
from orchard.nn.norm import RMSNorm
from orchard.nn.packed import Packed
from orchard.nn.rotary import Rotary
from orchard.nn.transformer import Block, Decoder, DecoderCache

__all__ = [
    "Attention",
    "Block",
    "Cache",
    "Decoder",
    "DecoderCache",
    "FeedForward",
    "FullCache",
    "Packed",
    "RMSNorm",
    "RollingCache",
    "Rotary",
    "attention",
    "window_including_self",
    "window_mask",
]
