"""Every size of every profile of the MoE lottery series, and the models that everything starts from.

A profile never changes what is compared, only sizes, steps, rates and seeds. `smoke` says that everything runs; its numbers mean
nothing. `laptop` decides; one part of the series takes about as long as another there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from orchard.data import Source, text_source
from orchard.data.embedded import EmbeddedText
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data.domains import FiveDomains
from orchard.papers.moe_lottery.method.models import MIXTRAL, Shape, decoder
from orchard.papers.moe_lottery.runs.speed import Speed
from orchard.runs import Setting
from orchard.train import AdamW, TrainLM


@dataclass(frozen=True)
class SuiteSize:
    """MC-Suite: windows per evaluation, calibration samples."""

    leave_one_out: tuple[int, int]  # windows of the test split and of the validation split
    curves: tuple[int, int]
    samples: tuple[int, ...]  # windows of the disjoint calibration samples
    subsets: int  # most sets of one layer that are tried
    subset_windows: int
    reconstruction: int  # calibration windows of NAEE


@dataclass(frozen=True)
class ArmSize:
    """One-shot, iterative, lottery and their controls."""

    first: int  # steps of fine-tuning after the first round; see `runs.trajectory.budget`
    batch_size: int  # windows per step
    learning_rates: tuple[
        float, ...
    ]  # of several, the best on validation text, for every number of steps in `saturation`
    factors: tuple[float, ...]  # on these rates, of several and of both schedules the lottery's and the control's best
    controls: tuple[int, ...]  # rounds with token-matched controls
    scratch: tuple[int, ...]  # rounds whose size is also trained from scratch
    scratch_rates: tuple[float, ...]  # of several, the best on validation text
    saturation: tuple[int, ...]  # steps, doubled each time
    draws_per_run: int  # a run costs about as much to start as two fine-tunings of a tiny model


@dataclass(frozen=True)
class CapabilitySize:
    """Questions and helps. Every fine-tuning has `steps` steps of `batch_size` windows, whatever it is."""

    sums: int
    shots: tuple[int, ...]
    random_shots: tuple[int, ...]  # of the ten random draws
    helped: tuple[str, ...]  # criteria whose smaller models are fine-tuned too
    helped_shares: tuple[float, ...]  # at which fine-tuning on episodes is tried; the controls at one half
    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]  # of several, each arm's best on validation text


@dataclass(frozen=True)
class CheckpointSize:
    """Calibration text of a checkpoint."""

    sequences: int
    length: int
    batch_size: int


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    models: tuple[tuple[Shape, int], ...]  # shape and seed of every model
    bytes_per_domain: int
    know: int  # times as many bytes of the made-up facts
    entities: int
    seq_len: int
    batch_size: int
    steps: int
    learning_rate: float
    calibration: int  # windows, of the validation split
    eval_windows: int  # of the test split
    draws: int  # random droppings
    suite: SuiteSize
    arms: ArmSize
    capabilities: CapabilitySize
    speed: Speed.Config  # shapes: dim, experts, hidden_dim, top_k
    checkpoint: CheckpointSize
    compile: Literal["auto"] | bool = False  # on a CPU in fp32 a graph breaks at every mixture


TINY = Shape(num_experts=8, top_k=2, hidden_dim=16)  # with 64, two experts from scratch did as well as eight
FEW, MANY = Shape(num_experts=16, top_k=2, hidden_dim=512), Shape(num_experts=64, top_k=8, hidden_dim=128)
SHARES = (0.25, 0.5, 0.75)
SPEED = "speed of mixtures and collector"

SMOKE = Profile(
    dim=64, num_layers=3, num_heads=4, num_kv_heads=4, models=((TINY, 0),), bytes_per_domain=60_000, know=4, entities=16, seq_len=128,
    batch_size=16, steps=40, learning_rate=6e-3, calibration=16, eval_windows=12, draws=2,
    suite=SuiteSize(
        leave_one_out=(8, 6), curves=(4, 3), samples=(2, 4, 8), subsets=100, subset_windows=4, reconstruction=4
    ),
    arms=ArmSize(
        first=1, batch_size=8, learning_rates=(3e-4,), factors=(1.0,), controls=(6,), scratch=(6,), scratch_rates=(6e-3,),
        saturation=(2, 4), draws_per_run=2,
    ),
    capabilities=CapabilitySize(
        sums=6, shots=(0, 1, 3, 5), random_shots=(0,), helped=("ean",), helped_shares=(0.5,), steps=4, batch_size=8,
        learning_rates=(3e-4,),
    ),
    speed=Speed.Config(gpu=False, shapes=[[64, 8, 64, 2], [256, 16, 128, 2]], batch=8, length=128, rounds=3, label=SPEED),
    checkpoint=CheckpointSize(sequences=16, length=64, batch_size=4),
)  # fmt: skip
LAPTOP = Profile(  # about 65 core-minutes: bases 8, from scratch 18, MC-Suite 6, arms and their rates 20, capabilities 12
    dim=64, num_layers=3, num_heads=4, num_kv_heads=4, models=((TINY, 0), (TINY, 1), (TINY, 2)), bytes_per_domain=800_000, know=4,
    entities=208, seq_len=128, batch_size=16, steps=3000, learning_rate=6e-3, calibration=128, eval_windows=192, draws=10,
    suite=SuiteSize(
        leave_one_out=(192, 96), curves=(96, 32), samples=(4, 16, 64), subsets=100, subset_windows=32, reconstruction=16
    ),
    arms=ArmSize(  # 8 steps of 8 windows of 128: 8 thousand tokens
        first=8, batch_size=8, learning_rates=(1e-4, 3e-4, 1e-3), factors=(1 / 3, 1.0), controls=(4, 6),
        scratch=(6,), scratch_rates=(3e-3, 6e-3, 1.2e-2),
        saturation=(8, 16, 32, 64, 128), draws_per_run=5,
    ),
    capabilities=CapabilitySize(
        sums=64, shots=(0, 1, 3, 5), random_shots=(0,), helped=("ean",), helped_shares=(0.5,), steps=150, batch_size=8,
        learning_rates=(1e-4, 3e-4, 1e-3),
    ),
    speed=Speed.Config(
        gpu=False, shapes=[[64, 8, 64, 2], [512, 16, 512, 2], [256, 64, 128, 8]], batch=16, length=128, rounds=5, label=SPEED
    ),
    checkpoint=CheckpointSize(sequences=64, length=128, batch_size=4),
)  # fmt: skip
GPU = Profile(
    dim=512, num_layers=8, num_heads=8, num_kv_heads=8, models=((FEW, 0), (FEW, 1), (FEW, 2), (MANY, 0)), bytes_per_domain=8_000_000,
    know=1, entities=512, seq_len=512, batch_size=128, steps=1500, learning_rate=1e-3, calibration=256, eval_windows=256, draws=10,
    suite=SuiteSize(
        leave_one_out=(128, 64), curves=(96, 32), samples=(8, 32, 128), subsets=150, subset_windows=128, reconstruction=16
    ),
    arms=ArmSize(  # 32 steps of 32 windows of 512: 0.5 million tokens
        first=32, batch_size=32, learning_rates=(1e-5, 1e-4, 3e-4), factors=(1 / 3, 1.0), controls=(2, 4, 6),
        scratch=(4, 6), scratch_rates=(5e-4, 1e-3, 2e-3),
        saturation=(32, 64, 128, 256, 512), draws_per_run=1,
    ),
    capabilities=CapabilitySize(
        sums=80, shots=(0, 1, 3, 5), random_shots=(0, 1, 3, 5), helped=("ean", "ege"), helped_shares=SHARES, steps=150,
        batch_size=32, learning_rates=(1e-5, 1e-4, 3e-4),
    ),
    speed=Speed.Config(
        gpu=True, shapes=[[512, 16, 512, 2], [512, 64, 128, 8], [2048, 64, 1024, 8]], batch=32, length=512, rounds=10, label=SPEED
    ),
    checkpoint=CheckpointSize(sequences=256, length=256, batch_size=16), compile="auto",
)  # fmt: skip
PAPER = replace(
    GPU, dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, models=((MIXTRAL, 0),), seq_len=2048, batch_size=8,
    steps=0, learning_rate=1e-6,  # nothing is trained from scratch: the paper takes Mixtral-8x7B
    suite=replace(GPU.suite, subsets=100),
    arms=ArmSize(  # 12 steps of 8 windows of 2048: 0.2 million tokens
        first=12, batch_size=8, learning_rates=(1e-6,), factors=(1.0,), controls=(1, 2, 3, 4, 5, 6), scratch=(), scratch_rates=(),
        saturation=(16, 31, 69, 138), draws_per_run=1,
    ),
    capabilities=replace(GPU.capabilities, steps=2500, batch_size=8),
    speed=Speed.Config(gpu=True, shapes=[[4096, 8, 14336, 2]], batch=8, length=2048, rounds=10, label=SPEED),
    checkpoint=CheckpointSize(sequences=256, length=2048, batch_size=4),
)  # fmt: skip
PROFILES: dict[str, Profile] = {"smoke": SMOKE, "laptop": LAPTOP, "gpu": GPU, "paper": PAPER}


def source(setting: Setting) -> FiveDomains.Config:
    """The corpus of a setting."""
    profile = PROFILES[setting.profile]
    text: Source.Config = text_source(setting.data)
    if isinstance(text, EmbeddedText.Config):
        text.set(max_bytes=max(8_000_000, 4 * profile.bytes_per_domain))
    sizes = {name: getattr(profile, name) for name in ("bytes_per_domain", "know", "entities")}
    return FiveDomains.Config(text=text, **sizes)


def model_of(shape: Shape, profile: Profile) -> Decoder.Config:
    """The decoder of a shape at the width and depth of a profile, for bytes."""
    fields = ("dim", "num_layers", "num_heads", "num_kv_heads")
    return decoder(shape, **{name: getattr(profile, name) for name in fields})


def scale(profile: str) -> str:
    """How large the models of a profile are, which stands beside its verdicts."""
    sizes, found = PROFILES[profile], []
    for shape in dict.fromkeys(shape for shape, _ in sizes.models):
        with torch.device("meta"):
            found.append(f"{model_of(shape, sizes).build().num_parameters() / 1e6:.1f} M")
    return f"{' and '.join(found)} parameters, {len(sizes.models)} models"


@dataclass(frozen=True)
class Model:
    """A model that experts are dropped from: its name in tables, its shape, its seed and the run that trains it."""

    name: str
    shape: Shape
    seed: int
    run: TrainLM.Config


def models(setting: Setting) -> list[Model]:
    """The models of a setting: those of the profile, or the profile's first shape with the setting's seeds."""
    profile = PROFILES[setting.profile]
    made = []
    for shape, seed in [(profile.models[0][0], seed) for seed in setting.seeds or ()] or profile.models:
        name = f"{shape.num_experts} experts, top {shape.top_k}, seed {seed}"
        run = TrainLM.Config(
            model=model_of(shape, profile), source=source(setting), optim=AdamW.Config(learning_rate=profile.learning_rate),
            seq_len=profile.seq_len, batch_size=profile.batch_size, steps=profile.steps, seed=seed,
            compile=profile.compile, validate_every=max(1, profile.steps // 4), eval_windows=profile.eval_windows,
            log_every=max(1, profile.steps // 50), label=f"MoE, {name}",
        )  # fmt: skip
        made.append(Model(name, shape, seed, run))
    return made
