"""Sizes of the RATTENTION series, per profile, and the run that trains one arm.

Arms have equal parameters, except for the norm gains of RAttention, and see the same tokens in the same order.
``swa@W`` and ``rattn@W`` have the label W = w + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchard.data import text_source
from orchard.nn import Decoder
from orchard.papers.rattention.method.models import arm
from orchard.runs import Setting
from orchard.train import AdamW, TrainLM


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    seq_len: int
    batch_size: int
    steps: int
    seeds: tuple[int, ...]
    windows: tuple[int, ...]
    extra_arms: tuple[str, ...]
    learning_rates: tuple[float, ...]
    eval_windows: int

    @property
    def eighth(self) -> int:
        """The window T/8, the analogue of 512 of 4096."""
        return self.seq_len // 8

    @property
    def main_arms(self) -> tuple[str, str, str]:
        """One arm per family: what learning rates are tuned on, and whose learning curves are shown."""
        return "full_rope", f"swa@{self.eighth}", f"rattn@{self.eighth}"

    def arms(self) -> list[str]:
        """Names of the arms of the window sweep."""
        swept = [f"{kind}@{window}" for kind in ("swa", "rattn") for window in self.windows]
        return ["full_rope", "full_rnope", "la", *swept, *self.extra_arms]


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        dim=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=16, ffn_dim=176, seq_len=128, batch_size=8,
        steps=40, seeds=(0, 1), windows=(8, 16, 32), extra_arms=("swa_mem@16", "swa_flops@16"),
        learning_rates=(2e-3, 4e-3, 8e-3, 16e-3), eval_windows=32,
    ),
    "gpu": Profile(
        dim=384, num_layers=8, num_heads=6, num_kv_heads=2, head_dim=64, ffn_dim=1024, seq_len=1024, batch_size=32, steps=500,
        seeds=(0, 1, 2), windows=(32, 64, 128, 256, 512), extra_arms=("swa_mem@32", "swa_mem@64", "swa_mem@128", "swa_mem@256",
        "swa_flops@128"), learning_rates=(5e-4, 1e-3, 2e-3), eval_windows=256,
    ),
    "paper": Profile(
        dim=2048, num_layers=56, num_heads=16, num_kv_heads=4, head_dim=128, ffn_dim=6656, seq_len=4096, batch_size=1024,
        steps=95_367, seeds=(0,), windows=(32, 64, 128, 256, 512, 1024, 2048), extra_arms=(), learning_rates=(1e-3,), eval_windows=0,
    ),
}  # fmt: skip


def model(name: str, profile: Profile, **rattention: Any) -> Decoder.Config:
    """The decoder of an arm, for bytes; the vocabulary is set from the tokenizer."""
    return arm(
        name, dim=profile.dim, num_layers=profile.num_layers, num_heads=profile.num_heads, num_kv_heads=profile.num_kv_heads,
        head_dim=profile.head_dim, ffn_dim=profile.ffn_dim, vocab_size=257, seq_len=profile.seq_len, **rattention,
    )  # fmt: skip


def run_config(
    decoder: Decoder.Config, profile: Profile, setting: Setting, seed: int, learning_rate: float, label: str
) -> TrainLM.Config:
    """The run that trains one arm."""
    return TrainLM.Config(
        model=decoder, source=text_source(setting.data), optim=AdamW.Config(learning_rate=learning_rate), seq_len=profile.seq_len,
        batch_size=profile.batch_size, steps=profile.steps, seed=seed, validate_every=max(1, profile.steps // 4),
        eval_windows=profile.eval_windows, log_every=max(1, profile.steps // 50), label=label,
    )  # fmt: skip


def family(name: str) -> str:
    """The family whose learning rate an arm uses: full, swa or rattn (linear attention only is rattn without its window)."""
    head = name.split("@")[0]
    return "full" if head.startswith("full") else "swa" if head.startswith("swa") else "rattn"


def chosen(setting: Setting) -> tuple[Profile, tuple[int, ...]]:
    """The profile of a setting and its seeds."""
    profile = PROFILES[setting.profile]
    return profile, setting.seeds or profile.seeds
