"""The one builder of every model that experts are dropped from, and the published shape.

A model is a decoder whose every feed-forward layer is a mixture of experts. Experts are dropped in rounds of an eighth of each layer's
experts, down to a quarter: 12.5, 25, 37.5, 50, 62.5 and 75 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchard.nn import Attention, Block, Decoder, MixtureOfExperts, Rotary

ROUNDS = 6  # of n/8 experts per layer


@dataclass(frozen=True)
class Shape:
    """Experts per layer, how many the router chooses, their inner width."""

    num_experts: int
    top_k: int
    hidden_dim: int

    @property
    def per_round(self) -> int:
        """Experts that a round drops from every layer."""
        return self.num_experts // 8


MIXTRAL = Shape(num_experts=8, top_k=2, hidden_dim=14336)  # Mixtral-8x7B


def decoder(
    shape: Shape, *, dim: int, num_layers: int, num_heads: int, num_kv_heads: int, vocab_size: int = 257
) -> Decoder.Config:
    """The decoder of a shape; by default for bytes."""
    attention = Attention.Config(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=dim // num_heads, rotary=Rotary.Config()
    )
    mixture = MixtureOfExperts.Config(
        hidden_dim=shape.hidden_dim, num_experts=shape.num_experts, top_k=shape.top_k, load_balance=0.01
    )
    layers = [Block.Config(attention=attention, feed_forward=mixture) for _ in range(num_layers)]
    return Decoder.Config(vocab_size=vocab_size, dim=dim, layers=layers)
