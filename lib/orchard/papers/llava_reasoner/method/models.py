"""The one builder of every model that is compared, from plain numbers, and the published shapes.

Every arm is the same model; what differs is what it is trained on. The blocks are those of `orchard.nn`: gated feed-forward, RMSNorm.
That is Llama 3's language model to the weight. Of the published vision transformer (CLIP ViT-L/14, 336 pixels) it is the width, depth and
size: a gated feed-forward of inner width 2,730 has as many weights as one of two matrices and 4,096.

A picture is read in up to five crops of 336 x 336 pixels, 576 vectors each. LLaVA-NeXT takes them from the last layer but one, so 23 of the
24 layers count.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary, VisionTransformer
from orchard.papers.llava_reasoner.method.vlm import VisionLanguageModel


@dataclass(frozen=True)
class Size:
    """The shape of a transformer. `theta` is of its rotary embedding, where it has one."""

    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int  # inner width of its gated feed-forward
    num_kv_heads: int | None = None  # None: as many as num_heads
    theta: float = 10_000.0


@dataclass(frozen=True)
class Picture:
    """Pixels, the side of a patch, and r: r x r patches become one vector that the decoder reads."""

    height: int
    width: int
    patch: int = 4
    r: int = 3

    @property
    def tokens(self) -> int:
        side = self.patch * self.r
        return (self.height // side) * (self.width // side)


def vision_language_model(
    picture: Picture, vision: Size, language: Size, vocab_size: int, hidden_dim: int, normalise: bool = True,
    tie_embeddings: bool = True,
) -> VisionLanguageModel.Config:  # fmt: skip
    """Vision transformer and decoder of given sizes, and a connector of inner width `hidden_dim`."""
    tower = VisionTransformer.Config(
        height=picture.height, width=picture.width, patch=picture.patch, dim=vision.dim, layers=_layers(vision, False)
    )
    decoder = Decoder.Config(
        vocab_size=vocab_size, dim=language.dim, layers=_layers(language, True), tie_embeddings=tie_embeddings
    )
    return VisionLanguageModel.Config(
        vision=tower, decoder=decoder, hidden_dim=hidden_dim, r=picture.r, normalise=normalise
    )


def published() -> VisionLanguageModel.Config:
    """LLaVA-NeXT with Llama 3 8B, for one crop; to be built on the meta device alone."""
    return vision_language_model(
        PAPER_PICTURE, VIT_L, LLAMA3_8B, LLAMA3_VOCABULARY, LLAMA3_8B.dim, normalise=False, tie_embeddings=False
    )


def _layers(size: Size, causal: bool) -> list[Block.Config]:
    rotary = Rotary.Config(theta=size.theta) if causal else None
    attention = Attention.Config(num_heads=size.num_heads, num_kv_heads=size.num_kv_heads, causal=causal, rotary=rotary)
    block = Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=size.hidden_dim))
    return [block.clone() for _ in range(size.num_layers)]


PAPER_PICTURE = Picture(336, 336, patch=14, r=1)  # one crop: 24 x 24 vectors
MOST_CROPS = 5  # the whole picture and a grid of 2 x 2
VIT_L = Size(1024, 23, 16, 2730)  # the layers that are read
LLAMA3_8B = Size(4096, 32, 32, 14_336, 8, theta=500_000.0)
LLAMA3_VOCABULARY = 128_256
