"""The one builder of every model that is compared, from plain numbers, and the published shapes.

Layers of the vision transformer and of the language model are those of `orchard.nn`: gated feed-forward, RMSNorm. Every arm has the same
language model; what differs is which tokens it reads and writes. Published of Manzano are the sizes' names alone: the shapes of language
models here are ours, near their names without the embedding; the image decoders are DiT-Air L, XL and XXL, whose blocks have 0.71, 1.37
and 2.77 of the 0.9, 1.75 and 3.52 billion weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchard.nn import Attention, Block, Decoder, FeedForward, VisionTransformer
from orchard.papers.manzano.method.autoencoder import AutoEncoder
from orchard.papers.manzano.method.decoder import ImageDecoder, RegressionDecoder
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.tokenizer import HybridTokenizer
from orchard.papers.manzano.method.unified import Vocabulary


@dataclass(frozen=True)
class Size:
    """The shape of a transformer."""

    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int = 0  # inner width of its gated feed-forward; 0 where it has none
    num_kv_heads: int | None = None  # None: as many as num_heads


@dataclass(frozen=True)
class Picture:
    """Pixels, the side of a patch of the vision transformer, and r: a code stands for patch r pixels a side."""

    height: int
    width: int
    patch: int = 4
    r: int = 3

    @property
    def square(self) -> int:
        return self.patch * self.r

    @property
    def tokens(self) -> int:
        return (self.height // self.square) * (self.width // self.square)


def tokenizer(
    picture: Picture, size: Size, levels: list[int], hidden_dim: int, dim: int, rounded: bool = True
) -> HybridTokenizer.Config:
    """Vision transformer of a size, two adapters of inner width `hidden_dim`, for a language model of width `dim`."""
    layers = _layers(size, causal=False)
    vision = VisionTransformer.Config(
        height=picture.height, width=picture.width, patch=picture.patch, dim=size.dim, layers=layers
    )
    return HybridTokenizer.Config(
        vision=vision, quantizer=FSQ.Config(levels=levels), hidden_dim=hidden_dim, dim=dim, r=picture.r, rounded=rounded
    )


def language_model(size: Size, vocabulary: Vocabulary) -> Decoder.Config:
    """The decoder of a size over text and codes; `Vocabulary(text, 0)` is that of stage 0."""
    layers = _layers(size, causal=True)
    return Decoder.Config(vocab_size=vocabulary.size, dim=size.dim, layers=layers, tie_embeddings=True)


def image_decoder(
    picture: Picture, size: Size, patch: int, code_dim: int, square: int | None = None, reference: bool = False,
    channels: int = 3,
) -> ImageDecoder.Config:  # fmt: skip
    """A DiT-Air of a size; `square` where the codes are not the hybrid tokenizer's."""
    return ImageDecoder.Config(
        height=picture.height, width=picture.width, patch=patch, square=square or picture.square, code_dim=code_dim,
        dim=size.dim, num_layers=size.num_layers, num_heads=size.num_heads, reference=reference, channels=channels,
    )  # fmt: skip


def regression_decoder(
    picture: Picture, size: Size, code_dim: int, square: int | None = None
) -> RegressionDecoder.Config:
    """The decoder of smoke runs."""
    return RegressionDecoder.Config(
        height=picture.height, width=picture.width, square=square or picture.square, code_dim=code_dim,
        dim=size.dim, num_layers=size.num_layers, num_heads=size.num_heads,
    )  # fmt: skip


def autoencoder(square: int, dim: int, levels: list[int]) -> AutoEncoder.Config:
    """The auto-encoder of the dual-encoder arm."""
    return AutoEncoder.Config(square=square, dim=dim, quantizer=FSQ.Config(levels=levels))


def _layers(size: Size, causal: bool) -> list[Block.Config]:
    attention = Attention.Config(num_heads=size.num_heads, num_kv_heads=size.num_kv_heads, causal=causal)
    if not causal:
        attention.set(rotary=None)
    block = Block.Config(
        attention=attention, feed_forward=FeedForward.Config(hidden_dim=size.hidden_dim, activation="gelu")
    )
    return [block.clone() for _ in range(size.num_layers)]


PAPER_PICTURE = Picture(588, 588, patch=14)  # 42 x 42 patches, 196 tokens; 672 pixels at patch 16 have as many
PAPER_LEVELS = [8, 8, 8, 5, 5, 5]  # 64,000 codes
VIT_L = Size(1024, 24, 16, 2730)  # two thirds of 4,096: a gated feed-forward of as many weights
LANGUAGE_MODELS = {
    "300M": Size(1024, 24, 8, 3072, 2),
    "1B": Size(2048, 22, 16, 5632, 4),  # the width of the paper's example
    "3B": Size(2048, 56, 16, 6656, 4),
    "30B": Size(6144, 64, 48, 20_480, 8),
}
DIT_AIR = {
    name: Size(64 * layers, layers, layers) for name, layers in {"S": 12, "B": 18, "L": 24, "XL": 30, "XXL": 38}.items()
}
MANZANO_DECODERS = {"0.9B": "L", "1.75B": "XL", "3.52B": "XXL"}
