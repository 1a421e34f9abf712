"""Every size of the RATTENTION series, per profile, and the run that trains one arm on text.

Arms have equal parameters, except for the norm gains of RAttention, and see the same tokens in the same order.
``swa@W`` and ``rattn@W`` have the label W = w + 1. A profile changes sizes, steps and seeds, never what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchard.data import text_source
from orchard.nn import Decoder
from orchard.papers.rattention.data.ruler_tokens import TASKS
from orchard.papers.rattention.method.costs import Shape
from orchard.papers.rattention.method.models import arm
from orchard.runs import Runner, Setting
from orchard.runs.grid import Best, Trials, best_of
from orchard.train import AdamW, TrainLM

FAMILIES = ("full", "swa", "rattn")  # each has its own learning rate
TUNING_SEED = 100  # of every trial of a grid; no model that is compared has it


@dataclass(frozen=True)
class Ablation:
    """How long the variants of the ablation train, and on how much text they are scored."""

    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    eval_windows: int
    factors: tuple[float, ...]  # grid around the rate of rattn@T/8, for the variants that have one of their own
    drift_tokens: int  # length of the text over which a bf16 state is compared with an fp32 one
    variants: tuple[str, ...] | None = None  # None: all
    own_rates: bool = (
        False  # every variant has a grid; else those that decide claims, and the others take the base's rate
    )
    placebo_seeds: tuple[int, ...] = ()  # the base once more: what a comparison shows where nothing was changed


@dataclass(frozen=True)
class Ruler:
    """The long-context experiment. The model's shape and T are those of the window sweep."""

    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    needles: str
    batch_size: int
    steps: int
    seeds: tuple[int, ...]
    learning_rates: dict[str, tuple[float, ...]]  # the grid of each family, judged by validation loss
    test_examples: int  # sequences per task and length
    validations: int  # times during the training
    validation_examples: int = 32  # sequences per task
    multiples: tuple[int, ...] = (1, 2, 4, 8)


RECALL_SHAPE = Shape(dim=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=32, ffn_dim=128)


@dataclass(frozen=True)
class Recall:
    """Associative recall: two local layers, and beside them one local and one global layer."""

    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # the grid of every arm
    pairs: tuple[int, ...]  # a batch draws one of these; the middle one is tested at every filler
    fillers: tuple[int, ...]  # tested, the last one is the most that is trained
    decisive: tuple[int, ...]  # fillers that lie beyond what any window arm reaches through its layers
    test_examples: int
    validations: int
    window: int = 8
    keys: int = 32
    shape: Shape = RECALL_SHAPE


@dataclass(frozen=True)
class Timing:
    """What is timed. Heads and widths are those of the profile's model."""

    gpu: bool
    lengths: tuple[int, ...]  # of the operations
    tokens: int  # per call of an operation
    rounds: int
    step_lengths: tuple[int, ...]
    step_layers: int
    step_batch: int
    step_rounds: int
    tile_length: int | None  # None: no tiles, they are those of the Triton kernels
    contexts: tuple[int, ...]  # of decoding
    decode_batch: int
    decode_tokens: int
    window: int = 512  # of the operations and layers
    memory_lengths: tuple[int, ...] = (4096, 8192, 16384)
    memory_window: int = 512


@dataclass(frozen=True)
class Profile(Shape):
    """The model and the window sweep of a profile, and its other studies."""

    seq_len: int
    batch_size: int
    steps: int
    tuning_steps: int
    seeds: tuple[int, ...]
    arms: tuple[str, ...]  # of the window sweep
    learning_rates: tuple[float, ...]
    eval_windows: int
    ablation: Ablation
    ruler: Ruler
    recall: Recall
    timing: Timing
    main_seeds: tuple[int, ...] | None = None  # of the main arms, whose gaps are small (C8); None: as the others
    own_rates: bool = False  # every arm is tuned; else the main arm of each family, for its family

    @property
    def eighth(self) -> int:
        """The window T/8, the analogue of 512 of 4096."""
        return self.seq_len // 8

    @property
    def main_arm(self) -> dict[str, str]:
        """The arm of each family that its learning rate is tuned on."""
        return dict(zip(FAMILIES, self.main_arms, strict=True))

    @property
    def main_arms(self) -> tuple[str, str, str]:
        """One arm per family, whose learning curves are shown."""
        return "full_rope", f"swa@{self.eighth}", f"rattn@{self.eighth}"


def swept(windows: tuple[int, ...], *others: str) -> tuple[str, ...]:
    """The arms of a window sweep: those without a window, a sliding window and RAttention at every window, and others."""
    both = (f"{kind}@{window}" for kind in ("swa", "rattn") for window in windows)
    return ("full_rope", "full_rnope", "la", *both, *others)


SMALL: dict[str, Any] = {
    "dim": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 176, "seq_len": 128,
}  # fmt: skip
LONG = (1024, 2048, 4096, 8192, 16384, 32768, 65536)

PROFILES: dict[str, Profile] = {
    # Shows that everything runs, in two minutes. RULER-lite has one token per needle: with two-token keys a model of this size stays
    # at guessing level, at laptop too.
    "smoke": Profile(
        **SMALL, batch_size=8, steps=6, tuning_steps=6, seeds=(0,), arms=swept((8, 16, 32), "swa_mem@16", "swa_flops@16"),
        learning_rates=(4e-3, 8e-3), eval_windows=8,
        ablation=Ablation(steps=2, batch_size=2, seeds=(0,), eval_windows=4, factors=(1.0,), drift_tokens=64),
        ruler=Ruler(
            arms=("rattn@16", "full_rope", "swa@16"), tasks=("niah_multikey_1", "kv_overwrite"), needles="pair", batch_size=8,
            steps=6, seeds=(0,), learning_rates={"full": (6e-3,), "swa": (4e-3,), "rattn": (3e-3,)}, test_examples=4,
            validations=2, validation_examples=4,
        ),
        recall=Recall(
            steps=3, batch_size=4, seeds=(0,), learning_rates=(5e-3,), pairs=(4, 8, 16), fillers=(0, 32, 64), decisive=(64,),
            test_examples=4, validations=1,
        ),
        timing=Timing(
            gpu=False, lengths=(128, 256, 512), tokens=512, rounds=2, step_lengths=(128, 256), step_layers=4, step_batch=1, step_rounds=3,
            tile_length=None, contexts=(128, 256, 512), decode_batch=1, decode_tokens=7, window=64, memory_lengths=(512, 1024, 2048),
            memory_window=128,
        ),
    ),
    # Every arm is tuned by itself, at a seed that no compared model has; what it costs stands in NOTES.md.
    "laptop": Profile(
        **SMALL, batch_size=16, steps=1500, tuning_steps=300, seeds=(0, 1, 2), main_seeds=(0, 1, 2, 3, 4), own_rates=True,
        arms=("full_rope", *(f"{kind}@{w}" for kind in ("swa", "rattn", "swa_mem") for w in (8, 16, 32)), "swa@64"),
        learning_rates=(3e-3, 6e-3, 12e-3), eval_windows=400,
        ablation=Ablation(
            steps=400, batch_size=16, seeds=(0, 1, 2), eval_windows=200, factors=(0.5, 1.0, 2.0), drift_tokens=1024,
            variants=("base", "relu", "identity", "−norm", "gain 0.1", "−SWA", "−RLA", "head split"), placebo_seeds=(3, 4, 5),
        ),
        ruler=Ruler(
            arms=("full_rope", "full_rnope", "swa@16", "swa@64", "swa_mem@16", "rattn@8", "rattn@16", "rattn@32"),
            tasks=("niah_single_2", "niah_multikey_1", "fwe", "kv_overwrite"), needles="pair", batch_size=32, steps=400, seeds=(0, 1, 2),
            learning_rates=dict.fromkeys(FAMILIES, (2e-3, 4e-3, 8e-3)), test_examples=64, validations=8,
        ),
        recall=Recall(
            steps=800, batch_size=32, seeds=(0, 1, 2), learning_rates=(2.5e-3, 5e-3, 1e-2, 2e-2), pairs=(6, 12, 24),
            fillers=(0, 16, 32, 64, 96, 128), decisive=(96, 128), test_examples=128, validations=8,
        ),
        timing=Timing(
            gpu=False, lengths=(256, 1024, 4096), tokens=4096, rounds=5, step_lengths=(128, 256), step_layers=4, step_batch=2,
            step_rounds=20, tile_length=None, contexts=(256, 1024, 4096), decode_batch=2, decode_tokens=50, window=128,
        ),
    ),
    # Estimated for ten minutes a notebook, not measured.
    "gpu": Profile(
        dim=384, num_layers=8, num_heads=6, num_kv_heads=2, head_dim=64, ffn_dim=1024, seq_len=1024, batch_size=32, steps=500,
        tuning_steps=500, seeds=(0, 1, 2), main_seeds=(0, 1, 2, 3, 4),
        arms=swept((32, 64, 128, 256, 512), "swa_mem@32", "swa_mem@64", "swa_mem@128", "swa_mem@256", "swa_flops@128"),
        learning_rates=(5e-4, 1e-3, 2e-3), eval_windows=256,
        ablation=Ablation(
            steps=225, batch_size=16, seeds=(0, 1, 2), eval_windows=128, factors=(0.5, 1.0, 2.0), drift_tokens=1024,
            placebo_seeds=(3, 4, 5),
        ),
        ruler=Ruler(
            arms=("full_rope", "full_rnope", "la", "swa@128", "swa@512", "swa_mem@128", "rattn@64", "rattn@128", "rattn@256"),
            tasks=TASKS, needles="words", batch_size=24, steps=1000, seeds=(0, 1, 2), test_examples=256, validations=20,
            learning_rates=dict.fromkeys(FAMILIES, (1e-3, 2e-3, 4e-3)),
        ),
        recall=Recall(
            steps=2000, batch_size=64, seeds=(0, 1, 2), learning_rates=(1.25e-3, 2.5e-3, 5e-3, 1e-2), pairs=(6, 12, 24),
            fillers=(0, 16, 32, 64, 128, 256), decisive=(128, 256), test_examples=256, validations=20,
        ),
        timing=Timing(
            gpu=True, lengths=LONG, tokens=65536, rounds=10, step_lengths=(4096, 8192), step_layers=8, step_batch=8, step_rounds=20,
            tile_length=8192, contexts=(1024, 4096, 16384, 65536), decode_batch=8, decode_tokens=50,
        ),
    ),
    "paper": Profile(
        dim=2048, num_layers=56, num_heads=16, num_kv_heads=4, head_dim=128, ffn_dim=6656, seq_len=4096, batch_size=1024,
        steps=95_367, tuning_steps=95_367, seeds=(0,), arms=swept((32, 64, 128, 256, 512, 1024, 2048)),
        learning_rates=(1e-3,), eval_windows=0,
        ablation=Ablation(
            steps=95_367, batch_size=1024, seeds=(0,), eval_windows=0, factors=(1.0,), drift_tokens=32_768
        ),
        ruler=Ruler(
            arms=("full_rope", "swa@2048", "rattn@1024", "rattn@512"), tasks=TASKS, needles="words", batch_size=1020, steps=95_367,
            seeds=(0,), learning_rates=dict.fromkeys(FAMILIES, (1e-3,)), test_examples=500, validations=20,
        ),
        recall=Recall(
            steps=2000, batch_size=64, seeds=(0,), learning_rates=(5e-3,), pairs=(6, 12, 24), fillers=(0, 16, 32, 64, 128, 256),
            decisive=(128, 256), test_examples=256, validations=20,
        ),
        timing=Timing(
            gpu=True, lengths=LONG, tokens=65536, rounds=10, step_lengths=(4096, 8192), step_layers=4, step_batch=2, step_rounds=20,
            tile_length=8192, contexts=(4096, 8192, 16384, 32768), decode_batch=8, decode_tokens=50,
        ),
    ),
}  # fmt: skip


def model(name: str, profile: Profile, **rattention: Any) -> Decoder.Config:
    """The decoder of an arm, for bytes; the vocabulary is set from the tokenizer."""
    return arm(name, **profile.sizes, vocab_size=257, seq_len=profile.seq_len, **rattention)


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
    head = name.split("@")[0].split("_")[0]
    return "rattn" if head == "la" else head


def tuned(setting: Setting, run: Runner, grids: Mapping[str, Sequence[float]], trials: Trials) -> Best:
    """The learning rate of each grid with the lowest validation loss. Smoke claims nothing, so its grids stay as they are."""
    widen = 0 if setting.profile == "smoke" else 2
    return best_of(grids, trials, lambda done: done.result["validation_loss"], run, widen=widen)


def tuned_arms(profile: Profile, arms: Sequence[str]) -> Sequence[str]:
    """The arms that have a grid: all of them, or the main arm of each family for its family."""
    return arms if profile.own_rates else profile.main_arms


def tuning_table(found: Best, name: str = "arm") -> pd.DataFrame:
    """One row per arm that has a grid and value: the arm, seed, learning_rate, validation_loss, chosen, widened, failed."""
    names = {"family": name, "value": "learning_rate", "score": "validation_loss"}
    return found.table.rename(columns=names).assign(seed=TUNING_SEED)


def rate_of(found: Best, profile: Profile, name: str) -> float:
    """The chosen rate of an arm, or of the main arm of its family."""
    return found.chosen[name if name in found.chosen else profile.main_arm[family(name)]]


def chosen(setting: Setting, study: str = "") -> tuple[Profile, tuple[int, ...]]:
    """The profile of a setting, and the seeds: those asked for, or the profile's for the sweep or another ``study``."""
    profile = PROFILES[setting.profile]
    return profile, setting.seeds or (getattr(profile, study) if study else profile).seeds


def seeds_of(setting: Setting, name: str) -> tuple[int, ...]:
    """The seeds of an arm of the window sweep."""
    profile, seeds = chosen(setting)
    return (name in profile.main_arms and not setting.seeds and profile.main_seeds) or seeds
