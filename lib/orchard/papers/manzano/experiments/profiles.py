"""Every size of every profile, as data. What is compared never changes.

Sizes of `laptop` come from pilots of cost and competence (NOTES.md): scenes are learned first, then text of one character a token, then
denser text, all by the continuous adapter, then by both; everything mixed from step 0 stays at chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.papers.manzano.method.models import Picture, Size, language_model
from orchard.papers.manzano.method.unified import Vocabulary
from orchard.papers.manzano.runs.tokenizer import VOCABULARY
from orchard.runs import Setting


@dataclass(frozen=True)
class Lesson:
    """A phase of stage 0: its last step, shares by "task k", the chance of the discrete adapter."""

    until: int
    streams: Mapping[str, float]
    discrete: float


@dataclass(frozen=True)
class Mix:
    """A stage of the language model: its last step, sequences of each kind in a batch."""

    until: int
    understanding: int
    generation: int
    text: int


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The study of density: pictures of text alone."""

    densities: tuple[int, ...]
    more_levels: tuple[tuple[int, ...], ...] = ()  # codebooks at the profile's own density, at the first seed
    train: int
    test: int
    until: tuple[int, int, int]  # steps of one character a token, of the density, of both adapters
    steps: int  # of the language models


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes of a profile."""

    world: SceneWorld.Config
    levels: tuple[int, ...]
    vision: Size
    adapter: int  # inner width of both adapters
    reader: Size  # the language model of stage 0
    lessons: tuple[Lesson, ...]
    tokenizer_batch: int
    tokenizer_rate: float
    posthoc_steps: int
    size: Size  # of the language models that are compared
    other_sizes: tuple[Size, ...]  # of M5
    stages: tuple[Mix, ...]
    rates: tuple[float, ...]  # of language models and adapters after the fact; of several, every family has its best
    widen: int = 2  # how often a grid may grow
    decoder: Size
    decoder_patch: int = 6  # pixels; 0: a regression decoder, but where it edits
    editing_patch: int = 6  # of the decoder that edits: finer, since it copies
    decoder_stages: tuple[tuple[int, int], ...]  # last step, pixels a side that become one
    decoder_batch: int = 32
    decoder_rate: float = 2e-3
    other_decoders: tuple[Size, ...] = ()  # of M6
    square: int = 6  # pixels a side of a code of the auto-encoder
    autoencoder: int = 32  # its channels
    autoencoder_steps: int
    strips: Strips
    edits: tuple[str, ...] = ("recolour", "remove", "add")
    edit_items: int = 200  # of a kind
    items: int = 600  # of a score
    euler: int = 20  # steps of the decoder
    guidance: float = 1.0
    seeds: tuple[int, ...]
    few: int  # of them, in the studies that need fewer
    tuning_seed: int = 0  # it decides nothing; from `laptop` on no compared model has it
    timed: int = 32  # items of a call
    rounds: int = 5

    @property
    def picture(self) -> Picture:
        return Picture(self.world.height, self.world.width)

    @property
    def sizes(self) -> list[Size]:
        """Those of M5, smallest first."""
        return sorted((self.size, *self.other_sizes), key=lambda size: size.dim)


def llama(dim: int, layers: int) -> Size:
    """A shape with heads of 16 to 64 channels."""
    return Size(dim, layers, dim // (16 if dim < 128 else 32), dim * 8 // 3)


BOTH = {"objects k2": 0.5, "read k2": 0.4, "read k1": 0.1}
PROFILES: dict[str, Profile] = {
    "smoke": Profile(  # does everything run? Its numbers mean nothing
        world=SceneWorld.Config(k=1, train=1500, validation=200, test=200), levels=(8, 5, 5, 5), vision=llama(48, 2), adapter=96,
        reader=llama(48, 2), tokenizer_batch=32, tokenizer_rate=3e-3, posthoc_steps=10,
        lessons=(Lesson(120, {"read k1": 1.0}, 0.0), Lesson(180, {"read k1": 0.7, "objects k1": 0.3}, 0.5)),
        size=llama(48, 2), other_sizes=(llama(16, 2),), rates=(3e-3,), widen=0,
        stages=(Mix(32, 16, 16, 8), Mix(40, 16, 18, 6)),
        decoder=llama(48, 2), decoder_patch=0, decoder_stages=((60, 1),), autoencoder=16, autoencoder_steps=20,
        strips=Strips(densities=(1, 2), train=400, test=60, until=(10, 20, 30), steps=10),
        edit_items=20, items=60, euler=5, seeds=(0,), few=1, timed=8, rounds=3,
    ),
    "laptop": Profile(
        world=SceneWorld.Config(k=2), levels=(8, 5, 5, 5), vision=llama(48, 2), adapter=96, reader=llama(64, 2),
        lessons=(
            Lesson(500, {"objects k2": 1.0}, 0.0), Lesson(700, {"objects k2": 0.5, "read k1": 0.5}, 0.0), Lesson(1100, BOTH, 0.0),
            Lesson(2400, BOTH, 0.5),
        ),
        tokenizer_batch=48, tokenizer_rate=1e-3, posthoc_steps=300,
        size=llama(64, 2), other_sizes=(llama(16, 2), llama(32, 2)), rates=(1.5e-3, 3e-3, 6e-3),
        stages=(Mix(960, 20, 20, 10), Mix(1200, 20, 23, 7)),
        decoder=llama(64, 3), decoder_patch=12, decoder_stages=((1200, 1),), decoder_batch=24, autoencoder_steps=400,
        strips=Strips(
            densities=(1, 2, 3, 6), more_levels=((8, 6, 5), (8, 8, 8, 6, 5)), train=8000, test=600, until=(100, 250, 800), steps=300
        ),
        edits=("recolour", "remove"), euler=12, guidance=1.5, seeds=(1, 2, 3, 4, 5), few=3,
    ),
    "gpu": Profile(
        world=SceneWorld.Config(height=48, width=48, k=2, shapes=6, colours=8, most=5, alphabet=16, train=100_000, test=2000),
        levels=(8, 8, 8, 6, 5), vision=llama(256, 6), adapter=512, reader=llama(256, 4),
        lessons=(Lesson(300, {"read k1": 1.0}, 0.0), Lesson(1300, BOTH, 0.0), Lesson(7000, BOTH, 0.5)),
        tokenizer_batch=512, tokenizer_rate=1e-3, posthoc_steps=2000,
        size=llama(192, 6), other_sizes=(llama(96, 4), llama(384, 8), llama(576, 10)), rates=(5e-4, 1e-3, 2e-3),
        stages=(Mix(2000, 205, 205, 102), Mix(2500, 210, 230, 72)),
        decoder=llama(256, 6), decoder_patch=4, editing_patch=4, decoder_stages=((1500, 2), (4000, 1)), decoder_batch=256,
        decoder_rate=1e-3, other_decoders=(llama(128, 4), llama(384, 8)), autoencoder=64, autoencoder_steps=3000,
        strips=Strips(
            densities=(1, 2, 3, 6), more_levels=((8, 6, 5), (8, 5, 5, 5), (8, 8, 8, 5, 5, 5)), train=50_000, test=1000,
            until=(200, 600, 2000), steps=1000,
        ),
        edit_items=600, items=2000, euler=30, seeds=(1, 2, 3, 4, 5), few=3, timed=512,
    ),
}  # fmt: skip
PROFILES["paper"] = replace(PROFILES["gpu"], seeds=(0,), few=1, rates=(1e-3,))  # nothing is trained: shapes alone


def seeds(setting: Setting) -> tuple[int, ...]:
    """Those of the models that are compared."""
    return setting.seeds or PROFILES[setting.profile].seeds


def scale(profile: str) -> str:
    """The size of a profile's models in a few words."""
    size = PROFILES[profile]
    codes = codebook_size(size.levels)
    vocabulary = Vocabulary(VOCABULARY.text_size, codes)
    with torch.device("meta"):
        parameters = language_model(size.size, vocabulary).build().num_parameters(embedding=False)
    return f"language model of {parameters / 1e6:.2g} M parameters, {codes:,} codes, {len(size.seeds)} models"
