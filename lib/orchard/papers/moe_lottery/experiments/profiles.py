"""Sizes of the MoE lottery series, per profile, and the models that everything starts from.

A model is a decoder whose every feed-forward layer is a mixture of experts, trained on the five domains. Experts are dropped in
rounds of an eighth of each layer's experts, down to a quarter: 12.5, 25, 37.5, 50, 62.5 and 75 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchard.data import Source, text_source
from orchard.data.embedded import EmbeddedText
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data.domains import FiveDomains
from orchard.papers.moe_lottery.method.models import MIXTRAL, Shape, decoder
from orchard.runs import Setting
from orchard.train import AdamW, TrainLM


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

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


TINY = Shape(num_experts=8, top_k=2, hidden_dim=64)
FEW, MANY = Shape(num_experts=16, top_k=2, hidden_dim=512), Shape(num_experts=64, top_k=8, hidden_dim=128)

PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        dim=64, num_layers=3, num_heads=4, num_kv_heads=4, models=((TINY, 0),), bytes_per_domain=400_000, know=4, entities=32, seq_len=128,
        batch_size=16, steps=400, learning_rate=6e-3, calibration=128, eval_windows=48, draws=10,
    ),
    "gpu": Profile(
        dim=512, num_layers=8, num_heads=8, num_kv_heads=8, models=((FEW, 0), (FEW, 1), (FEW, 2), (MANY, 0)), bytes_per_domain=8_000_000,
        know=1, entities=512, seq_len=512, batch_size=128, steps=1500, learning_rate=1e-3, calibration=256, eval_windows=256, draws=10,
    ),
    "paper": Profile(
        dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, models=((MIXTRAL, 0),), bytes_per_domain=8_000_000, know=1, entities=512,
        seq_len=2048, batch_size=8, steps=0,  # nothing is trained from scratch: the paper takes Mixtral-8x7B
        learning_rate=1e-6, calibration=256, eval_windows=256, draws=10,
    ),
}  # fmt: skip


def source(setting: Setting) -> FiveDomains.Config:
    """The corpus of a setting."""
    profile = PROFILES[setting.profile]
    text: Source.Config = text_source(setting.data)
    if isinstance(text, EmbeddedText.Config):
        text.set(max_bytes=max(8_000_000, 4 * profile.bytes_per_domain))
    return FiveDomains.Config(
        text=text, bytes_per_domain=profile.bytes_per_domain, know=profile.know, entities=profile.entities
    )


def model_of(shape: Shape, profile: Profile) -> Decoder.Config:
    """The decoder of a shape at the width and depth of a profile, for bytes."""
    return decoder(
        shape, dim=profile.dim, num_layers=profile.num_layers, num_heads=profile.num_heads, num_kv_heads=profile.num_kv_heads
    )  # fmt: skip


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
    cells = profile.models
    if setting.seeds:
        cells = tuple((profile.models[0][0], seed) for seed in setting.seeds)
    made = []
    for shape, seed in cells:
        name = f"{shape.num_experts} experts, top {shape.top_k}, seed {seed}"
        run = TrainLM.Config(
            model=model_of(shape, profile), source=source(setting), optim=AdamW.Config(learning_rate=profile.learning_rate),
            seq_len=profile.seq_len, batch_size=profile.batch_size, steps=profile.steps, seed=seed,
            validate_every=max(1, profile.steps // 4), eval_windows=profile.eval_windows,
            log_every=max(1, profile.steps // 50), label=f"MoE, {name}",
        )  # fmt: skip
        made.append(Model(name, shape, seed, run))
    return made
