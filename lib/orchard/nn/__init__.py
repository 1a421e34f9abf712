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
from orchard.nn.generation import Sampling, generate_each, stream
from orchard.nn.moe import MixtureOfExperts, auxiliary_loss
from orchard.nn.norm import RMSNorm
from orchard.nn.packed import Packed
from orchard.nn.projection import Projection
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
    "MixtureOfExperts",
    "Packed",
    "Projection",
    "RMSNorm",
    "RollingCache",
    "Rotary",
    "Sampling",
    "attention",
    "auxiliary_loss",
    "generate_each",
    "stream",
    "window_including_self",
    "window_mask",
]
