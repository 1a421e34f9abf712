"""Every size of every profile, those of single studies too, and what a cell of an experiment is. What is compared never changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from orchard.data import BPETokenizer, ByteTokenizer, Tokenizer
from orchard.papers.ifpruning.data.corpus import Corpus
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.data.stdlib10.corpus import Stdlib10
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.runs.speed import Latency, SoftTopKSpeed
from orchard.runs import Setting


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of the stages; every arm has their sum, `dense_k_long` 1.8 times as many before fine-tuning."""

    pretrain: int
    cpt: int
    sft: int


@dataclass(frozen=True)
class Rates:
    """Learning rates of an arm: of the decoder in every stage, of what conditions it."""

    decoder: float
    selector: float


@dataclass(frozen=True)
class Profile:
    """Sizes of the comparison at a profile, and which arms it trains beside all of them at the first seed."""

    size: Size
    reader: Reader
    steps: Steps
    batch_size: int
    rates: tuple[float, ...]  # of the decoder; of several, every family has its best (`arms.tuning`)
    selector_rate: float
    corpus: FactGrid.Config  # its seed is set from that of the cell
    seeds: tuple[int, ...]
    validate_every: int
    trial_seed: int = 0  # of the trials of `arms.tuning`; best none of `seeds`
    epsilons: tuple[float, ...] = (0.3,)  # of one mask for everything
    multipliers: tuple[float, ...] = (100.0,)  # rate of HardConcrete's multipliers over the predictor's
    other_seeds: tuple[str, ...] = ()  # arms at the seeds after the first
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # arms in the variants after the first
    once: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # further ones there, for controls, at the first seed
    few_seeds: int = 1  # of the seeds, for HardConcrete, prefixes and the size of the source
    ratios: tuple[int, ...] = ()  # D / k of sources
    dense_ratios: tuple[int, ...] = ()  # of them, those whose dense decoders are trained too


SELECTOR_RATES = {"film_k": 4.0, "prefix_cond": 4.0}  # over the profile's; the best of 0.5 to 4 in a pilot at smoke
_SIZE = Size(dim=32, num_layers=2, num_heads=2, num_kv_heads=2, width=128, keep=32)
_READER = Reader(dim=32, num_layers=1, num_heads=2, width=64, rank=32)
PROFILES: dict[str, Profile] = {
    "smoke": Profile(  # everything runs; the numbers mean nothing
        size=_SIZE, reader=_READER, steps=Steps(pretrain=16, cpt=8, sft=16), batch_size=16, rates=(8e-3,), selector_rate=1e-3,
        corpus=FactGrid.Config(num_keys=64), seeds=(0, 1), validate_every=8,
        other_seeds=("dense_k", "ifp"), ratios=(2, 4), dense_ratios=(4,),
    ),
    "laptop": Profile(  # 23k bits of facts, 1.5 or more per parameter of dense_k in every variant
        size=_SIZE, reader=_READER, steps=Steps(pretrain=800, cpt=600, sft=1100), batch_size=32, rates=(4e-3, 8e-3, 16e-3),
        selector_rate=1e-3, corpus=FactGrid.Config(num_keys=400, num_values=52), seeds=(1, 2, 3), validate_every=100,
        epsilons=(0.1, 0.3, 1.0), multipliers=(30.0, 100.0, 300.0),
        other_seeds=(
            "dense_k", "dense_k_long", "dense_D", "static", "static_kd", "ifp", "ifp_sft_only", "ifp_sft_short", "rand_mask",
            "hard_concrete",
        ),
        elsewhere={"null": ("dense_k", "ifp"), "kin": ("rand_mask", "rand_lsh", "ifp")}, once={"null": ("dense_k_long", "static_kd")},
        ratios=(2, 3, 4, 6), dense_ratios=(4,), few_seeds=3,
    ),
    "gpu": Profile(  # half a bit of distinct facts per parameter of dense_k
        size=Size(dim=256, num_layers=4, num_heads=4, num_kv_heads=4, width=2048, keep=512),
        reader=Reader(dim=128, num_layers=2, num_heads=2, width=256, rank=64),
        steps=Steps(pretrain=400, cpt=300, sft=500), batch_size=256, rates=(1e-3, 2e-3, 4e-3), selector_rate=5e-4,
        corpus=FactGrid.Config(num_domains=32, group_size=4, num_keys=4096, num_values=256, queries=64, asked=512), seeds=(1, 2, 3),
        validate_every=100, epsilons=(0.1, 0.3, 1.0), multipliers=(30.0, 100.0, 300.0),
        other_seeds=(
            "dense_k", "dense_k_long", "dense_D", "static", "static_kd", "ifp", "ifp_st", "ifp_sft_only", "ifp_sft_short", "oracle",
            "rand_mask", "rand_lsh", "film_k", "moe", "hard_concrete",
        ),
        elsewhere={"null": ("dense_k", "ifp"), "kin": ("film_k", "rand_mask", "rand_lsh", "ifp", "ifp_st")},
        once={"null": ("dense_k_long", "static_kd")},
        few_seeds=3, ratios=(2, 3, 4, 6), dense_ratios=(2, 3, 4, 6),
    ),
    "paper": Profile(
        size=Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656),
        reader=Reader(dim=1024, num_layers=24, num_heads=16, width=2730, rank=128),
        steps=Steps(pretrain=0, cpt=0, sft=60_000), batch_size=1024, rates=(2e-6,), selector_rate=1e-4,  # those of public ports
        corpus=FactGrid.Config(), seeds=(0,), validate_every=1000,
    ),
}  # fmt: skip


def _without_cpt(profile: Profile, sft: int) -> Profile:
    steps = dataclasses.replace(profile.steps, cpt=0, sft=sft)
    return dataclasses.replace(profile, steps=steps, rates=(8e-3,), seeds=profile.seeds[:1])


# What one changes in grids is many runs, so these are shorter. At smoke and laptop they leave continued pre-training out, as
# `ifp_sft_short` of the comparison does. At gpu the decoder is smaller, with as many bits of facts per parameter.
GRIDS: dict[str, Profile] = {
    "smoke": _without_cpt(PROFILES["smoke"], 16),
    "laptop": _without_cpt(PROFILES["laptop"], 800),
    "gpu": dataclasses.replace(
        PROFILES["gpu"], size=Size(dim=128, num_layers=4, num_heads=4, num_kv_heads=4, width=1024, keep=256),
        reader=Reader(dim=64, num_layers=2, num_heads=2, width=128, rank=32), steps=Steps(pretrain=400, cpt=150, sft=250),
        batch_size=128, rates=(2e-3,), corpus=FactGrid.Config(num_keys=4096, num_values=256, queries=32), seeds=(0,), validate_every=50,
    ),
    "paper": PROFILES["paper"],
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """How masks begin. ``rate`` is over that of the profile."""

    r: float = 3.5
    epsilon: float = 0.3
    mode: str = "soft"
    reads: bool = True  # the predictor starts as a language model; otherwise with new weights
    rate: float = 1.0

    @property
    def name(self) -> str:
        """For people."""
        first = "language model" if self.reads else "new weights"
        return f"r {self.r:g}, epsilon {self.epsilon:g}, {self.mode}, {first}, rate x {self.rate:g}"


def _starts(spreads: tuple[float, ...], modes: tuple[str, ...] = ("soft", "st")) -> tuple[Start, ...]:
    return tuple(Start(r=r, mode=mode, reads=reads) for reads, mode, r in product((True, False), modes, spreads))


STARTS: dict[str, tuple[Start, ...]] = {
    "smoke": _starts((0.3, 3.5), ("soft",)),
    "laptop": _starts((0.3, 1.2, 3.5, 7.0)),
    "gpu": (
        *_starts((0.01, 0.3, 1.2, 3.5, 7.0)),
        *(Start(r=r, epsilon=e) for e in (0.05, 1.0) for r in (0.3, 3.5)),
        *(Start(r=r, mode=m, rate=rate) for rate in (0.1, 4.0) for m in ("soft", "st") for r in (1.2, 3.5)),
    ),
    "paper": (),
}
# By ablation, the values besides the comparison's own, which every ablation has too.
ABLATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "smoke": {"mode": ("soft_binarize", "st_full")},
    "laptop": {"mode": ("soft_binarize", "st_full")},
    "gpu": {
        "mode": ("soft_binarize", "st", "st_full"), "head": ("identity",), "rank": (4, 8, 16, 64, 128), "chunks": (4,),
        "fade-in": (0.1, 0.5), "entropy": ("bernoulli",), "contrast": (0.1, 1.0), "decay": ("on",), "frozen": ("in fine-tuning",),
    },
    "paper": {},
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A corpus of the phase diagram. rho_grp is half of what rho_all leaves."""

    rho_all: float = 0.0
    tagless: float = 0.0
    mix: int = 1

    @property
    def variant(self) -> dict[str, float]:
        """The fields of FactGrid."""
        shares = {"rho_all": self.rho_all, "rho_grp": (1 - self.rho_all) / 2, "tagless": self.tagless}
        return shares | {"mix": self.mix, "mix_share": float(self.mix > 1)}

    @property
    def name(self) -> str:
        """For people."""
        return f"rho_all {self.rho_all:g}, tagless {self.tagless:g}, mix {self.mix}"


_MIXES = (Point(), Point(mix=2), Point(mix=4))
_MANY = {
    "sharing": tuple(Point(rho_all=r, tagless=t) for r, t in product((0.0, 0.5, 1.0), (0.0, 0.5))), "mixing": _MIXES,
}  # fmt: skip
_FEW: dict[str, tuple[Point, ...]] = {"sharing": (Point(), Point(rho_all=1.0)), "mixing": (Point(), Point(mix=2))}
DIAGRAMS: dict[str, dict[str, tuple[Point, ...]]] = {  # of the phase diagram, its points
    "smoke": _FEW,
    "laptop": _MANY,
    "gpu": {
        "sharing": tuple(Point(rho_all=r, tagless=t) for r, t in product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5))),
        "mixing": _MIXES,
    },
    "paper": {},
}  # fmt: skip
TOKEN_ROUTED = dict.fromkeys(("laptop", "gpu"), (*_MIXES, Point(tagless=0.5)))  # those that also have a moe


_TIMED = Latency.Config(
    label="latency by part", size=asdict(Size(dim=256, num_layers=3, num_heads=4, num_kv_heads=2, width=2048, keep=512)),
    reader=asdict(Reader(dim=64, num_layers=2, num_heads=2, width=128, rank=32)), prompt=128, answer=6, rounds=20,
)  # fmt: skip
_TIMED_GPU = Latency.Config(
    label="latency by part", size=asdict(Size(dim=2048, num_layers=16, num_heads=16, num_kv_heads=2, width=16384, keep=4096)), gpu=True,
    reader=asdict(Reader(dim=512, num_layers=12, num_heads=8, width=1408, rank=128)), prompt=4000, answer=32, rounds=30,
)  # fmt: skip
LATENCY: dict[str, Latency.Config] = {
    "smoke": _TIMED.clone().set(rounds=3),
    "laptop": _TIMED.clone().set(answer=200),
    "gpu": _TIMED_GPU,
    "paper": _TIMED_GPU.clone().set(
        size=asdict(Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656)), answer=100,
        reader=asdict(Reader(dim=1024, num_layers=24, num_heads=16, width=2816, rank=128)),
    ),
}  # fmt: skip
SOFTTOPK: dict[str, SoftTopKSpeed.Config] = {
    profile: SoftTopKSpeed.Config(label="speed of SoftTopK", batch=batch, rounds=rounds)
    for profile, batch, rounds in (("smoke", 1, 3), ("laptop", 1, 10), ("gpu", 8, 30), ("paper", 8, 30))
}


@dataclass(frozen=True)
class TextSize:
    """Sizes of the comparison on real text; ``longest`` and ``longest_prompt`` are those of instructions of your own, in tokens."""

    profile: Profile
    stdlib: Stdlib10.Config
    tokenizer: Tokenizer.Config  # of instructions of your own
    longest: int
    longest_prompt: int
    items: int
    chunk: int
    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)


_TEXT = TextSize(
    dataclasses.replace(PROFILES["smoke"], steps=Steps(pretrain=4, cpt=4, sft=8), validate_every=8),
    Stdlib10.Config(items=4, chunk=32), ByteTokenizer.Config(), 1536, 1024, 8, 64, ("dense_k", "ifp"),
)  # fmt: skip
_GPU_TEXT = TextSize(
    dataclasses.replace(PROFILES["gpu"], steps=Steps(pretrain=1500, cpt=500, sft=1500), batch_size=128),
    Stdlib10.Config(items=128), BPETokenizer.Config(vocab_size=4096), 1024, 768, 256, 128, ("dense_k", "dense_D", "ifp"),
)  # fmt: skip
TEXT: dict[str, TextSize] = {
    "smoke": _TEXT,
    "laptop": dataclasses.replace(
        _TEXT, profile=dataclasses.replace(_TEXT.profile, steps=Steps(pretrain=200, cpt=100, sft=300), validate_every=100),
        stdlib=Stdlib10.Config(items=16, chunk=64),
    ),
    "gpu": _GPU_TEXT,
    "paper": _GPU_TEXT,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A profile with one seed and one corpus, and the corpus that the predictor's language model reads."""

    profile: Profile
    corpus: Corpus.Config
    reading: Corpus.Config
    seed: int


def cells(setting: Setting, profile: Profile | None = None, /, **variant: float | int) -> list[Cell]:
    """One cell per seed of a setting, with FactGrid varied; the seed is that of the world, of the weights and of the order of the data.

    A variant has as many keys as fill as many bits, so that a decoder that could not hold the one world cannot hold the other."""
    profile = profile or PROFILES[setting.profile]
    seeds = setting.seeds or profile.seeds
    full = as_full(profile.corpus, **variant)
    worlds = [full.clone().set(seed=seed) for seed in seeds]  # their wordings do not depend on what is shared
    return [Cell(profile, world.clone().set(**variant), world, seed) for world, seed in zip(worlds, seeds, strict=True)]


def as_full(world: FactGrid.Config, **variant: float | int) -> FactGrid.Config:
    """The world with the number of keys at which its variant takes about as many bits, and no more questions than before."""
    built, varied = world.build(), world.clone().set(**variant).build()
    wanted = built.bits / varied.bits * world.num_keys
    sides = [side for side in range(2, 2 + 2 * math.isqrt(round(wanted))) if side**2 % world.queries == 0]
    keys = min((side**2 for side in sides), key=lambda count: abs(count - wanted))
    if keys == world.num_keys:
        return world.clone()
    return world.clone().set(num_keys=keys, asked=min(world.asked or world.num_keys, keys))


def grid_cells(setting: Setting, **variant: float | int) -> list[Cell]:
    """One cell per seed of a grid (those of the setting, where a reader gives some), with FactGrid varied."""
    return cells(setting, GRIDS[setting.profile], **variant)
