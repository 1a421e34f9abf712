"""Sizes of the series, per profile, and what a cell of an experiment is."""

from __future__ import annotations

from dataclasses import dataclass

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary
from orchard.papers.ifpruning.factgrid import FactGrid
from orchard.runs import Setting


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


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of the stages; every arm has their sum, `dense_k_long` 1.8 times as many before fine-tuning."""

    pretrain: int
    cpt: int
    sft: int

    @property
    def total(self) -> int:
        return self.pretrain + self.cpt + self.sft


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

    size: Size
    reader: Reader
    steps: Steps
    batch_size: int
    dense_rate: float  # learning rates: dense pre-training, fine-tuning of the decoder, selectors
    sft_rate: float
    selector_rate: float
    corpus: FactGrid.Config  # its seed is set from that of the cell
    seeds: tuple[int, ...]
    validate_every: int


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        size=Size(dim=32, num_layers=2, num_heads=2, num_kv_heads=2, width=128, keep=32),
        reader=Reader(dim=32, num_layers=1, num_heads=2, width=64, rank=32),
        steps=Steps(pretrain=150, cpt=150, sft=300), batch_size=32, dense_rate=4e-3, sft_rate=4e-3, selector_rate=1e-3,
        corpus=FactGrid.Config(num_keys=144), seeds=(0, 1), validate_every=50,
    ),
    "gpu": Profile(
        size=Size(dim=384, num_layers=6, num_heads=6, num_kv_heads=6, width=3072, keep=768),
        reader=Reader(dim=128, num_layers=3, num_heads=2, width=256, rank=64),
        steps=Steps(pretrain=1200, cpt=400, sft=600), batch_size=256, dense_rate=6e-4, sft_rate=2e-4, selector_rate=2e-3,
        corpus=FactGrid.Config(num_domains=32, group_size=4, num_keys=16384, num_values=256, queries=32), seeds=(0, 1, 2),
        validate_every=200,
    ),
    "paper": Profile(
        size=Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656),
        reader=Reader(dim=1024, num_layers=24, num_heads=16, width=2816, rank=128),
        steps=Steps(pretrain=0, cpt=0, sft=60_000), batch_size=1024, dense_rate=1e-4, sft_rate=2e-6, selector_rate=1e-4,
        corpus=FactGrid.Config(), seeds=(0,), validate_every=1000,
    ),
}  # fmt: skip


def decoder(size: Size, width: int, vocab_size: int | None = None) -> Decoder.Config:
    """A dense decoder of a size whose feed-forward layers have ``width`` channels; its output matrix is its own."""
    head_dim = size.dim // size.num_heads
    attention = Attention.Config(
        num_heads=size.num_heads, num_kv_heads=size.num_kv_heads, head_dim=head_dim, rotary=Rotary.Config()
    )
    block = Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=width))
    made = Decoder.Config(dim=size.dim, layers=[block.clone() for _ in range(size.num_layers)])
    return made if vocab_size is None else made.set(vocab_size=vocab_size)


def reader(shape: Reader) -> Decoder.Config:
    """The backbone of a predictor; tied, since it predicts no tokens."""
    size = Size(shape.dim, shape.num_layers, shape.num_heads, shape.num_heads, shape.width, shape.width)
    return decoder(size, shape.width).set(tie_embeddings=True)


@dataclass(frozen=True)
class Cell:
    """A profile with one seed and one variant of the corpus."""

    profile: Profile
    corpus: FactGrid.Config
    seed: int


def cells(setting: Setting, **variant: float | int) -> list[Cell]:
    """One cell per seed of a setting, with FactGrid varied; the seed is that of the world, of the weights and of the order of the data."""
    profile = PROFILES[setting.profile]
    seeds = setting.seeds or profile.seeds
    return [Cell(profile, profile.corpus.clone().set(seed=seed, **variant), seed) for seed in seeds]
