"""The one builder of every model that is compared, and the published shapes.

Llama-3's block with QK-norm; both residual branches drop out in training, a regulariser for repeated data:

    x + Dropout(Attention(RMSNorm(x)))        x + Dropout(FeedForward(RMSNorm(x)))
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm, Rotary
from orchard.nn.attention import Cache
from orchard.nn.packed import Packed


class DropoutBlock(Block):
    """A layer whose two residual branches are dropped out in training: a regulariser for repeated data."""

    class Config(Block.Config):
        dropout: float = 0.0

    def __init__(self, cfg: DropoutBlock.Config) -> None:
        super().__init__(cfg)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(
        self, x: Float[Tensor, "batch time dim"], cache: Cache | None = None, packed: Packed | None = None
    ) -> Float[Tensor, "batch time dim"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache, packed))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


@dataclass(frozen=True)
class Size:
    """The shape of a decoder: Llama-3's block with QK-norm, as the paper has it."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_dim: int
    tie_embeddings: bool = True


TINY, TINIER, WIDER = Size(64, 2, 4, 4, 160), Size(48, 2, 4, 4, 128), Size(96, 2, 6, 6, 240)
M10, M40 = Size(320, 8, 5, 5, 864), Size(512, 12, 8, 8, 1376)
B3, B6 = Size(3072, 26, 24, 8, 8064, tie_embeddings=False), Size(4096, 32, 32, 8, 11008, tie_embeddings=False)


def decoder(size: Size, dropout: float, vocab_size: int = 1) -> Decoder.Config:
    """The decoder of a size; the vocabulary is set from the corpus."""
    block = DropoutBlock.Config(
        attention=Attention.Config(
            num_heads=size.num_heads, num_kv_heads=size.num_kv_heads, qk_norm=RMSNorm.Config(), rotary=Rotary.Config()
        ),
        feed_forward=FeedForward.Config(hidden_dim=size.hidden_dim),
        dropout=dropout,
    )
    layers: list[Block.Config] = [block.clone() for _ in range(size.num_layers)]
    return Decoder.Config(vocab_size=vocab_size, dim=size.dim, layers=layers, tie_embeddings=size.tie_embeddings)
