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
from orchard.nn.prefix import Conditioned
from orchard.nn.projection import Projection
from orchard.nn.rotary import Rotary
from orchard.nn.transformer import Block, Decoder, DecoderCache
from orchard.nn.vit import VisionTransformer, channel_to_space, patches, space_to_channel, unpatches

__all__ = [
    "Attention",
    "Block",
    "Cache",
    "Conditioned",
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
    "VisionTransformer",
    "attention",
    "auxiliary_loss",
    "channel_to_space",
    "generate_each",
    "patches",
    "space_to_channel",
    "stream",
    "unpatches",
    "window_including_self",
    "window_mask",
]
