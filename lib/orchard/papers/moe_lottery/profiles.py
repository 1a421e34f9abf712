"""Sizes of the MoE lottery series, per profile, and the models that everything starts from.

A model is a decoder whose every feed-forward layer is a mixture of experts, trained on the five domains. Experts are dropped in
rounds of an eighth of each layer's experts, down to a quarter: 12.5, 25, 37.5, 50, 62.5 and 75 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchard.data import ByteTokenizer, Source, TokenCorpus, Windows, text_source, tokens
from orchard.data.embedded import EmbeddedText
from orchard.nn import Attention, Block, Decoder, MixtureOfExperts, Rotary
from orchard.papers.moe_lottery.data import FiveDomains
from orchard.runs import Setting
from orchard.train import AdamW, TrainLM

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


MIXTRAL = Shape(num_experts=8, top_k=2, hidden_dim=14336)
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


def decoder(shape: Shape, profile: Profile, vocab_size: int = 257) -> Decoder.Config:
    """The decoder of a shape; by default for bytes."""
    attention = Attention.Config(
        num_heads=profile.num_heads, num_kv_heads=profile.num_kv_heads, head_dim=profile.dim // profile.num_heads,
        rotary=Rotary.Config(),
    )  # fmt: skip
    mixture = MixtureOfExperts.Config(
        hidden_dim=shape.hidden_dim, num_experts=shape.num_experts, top_k=shape.top_k, load_balance=0.01
    )
    layers = [Block.Config(attention=attention, feed_forward=mixture) for _ in range(profile.num_layers)]
    return Decoder.Config(vocab_size=vocab_size, dim=profile.dim, layers=layers)


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
            model=decoder(shape, profile), source=source(setting), optim=AdamW.Config(learning_rate=profile.learning_rate),
            seq_len=profile.seq_len, batch_size=profile.batch_size, steps=profile.steps, seed=seed,
            validate_every=max(1, profile.steps // 4), eval_windows=profile.eval_windows,
            log_every=max(1, profile.steps // 50), label=f"MoE, {name}",
        )  # fmt: skip
        made.append(Model(name, shape, seed, run))
    return made


def corpus(cfg: Source.Config, split: str) -> TokenCorpus:
    """The bytes of a split."""
    return tokens(cfg, ByteTokenizer.Config(), split)


def windows(cfg: Source.Config, split: str, length: int) -> Windows:
    """Windows over a split. Calibration reads validation windows, evaluation test windows, fine-tuning train windows: no two of
    the three share a document, and every criterion is calibrated on the same windows."""
    return Windows(corpus(cfg, split), length)
