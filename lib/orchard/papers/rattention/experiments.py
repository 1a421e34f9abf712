"""Which runs the RATTENTION series needs, per profile, and the tidy tables they give.

Arms (specification 6.1) have equal parameters, except for the norm gains of RAttention, and see the same tokens in the same order.
``swa@W`` and ``rattn@W`` have the label W = w + 1. The learning rate of each family is chosen on a grid by validation loss.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard.config import REQUIRED
from orchard.data import text_source
from orchard.nn import Decoder
from orchard.papers.rattention import checks
from orchard.papers.rattention.arms import arm, paper_model
from orchard.papers.rattention.data import copy_distance, strata
from orchard.paths import root
from orchard.runs import Finished, Run, Runner, Setting, Workspace
from orchard.train import AdamW, TrainLM

BYTES = 2  # per element of a bf16 cache


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

    def arms(self) -> list[str]:
        """Names of the arms of the window sweep."""
        swept = [f"{kind}@{window}" for kind in ("swa", "rattn") for window in self.windows]
        return ["full_rope", "full_rnope", "la", *swept, *self.extra_arms]


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        dim=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=16, ffn_dim=176, seq_len=128, batch_size=16, steps=100,
        seeds=(0, 1), windows=(8, 16, 32), extra_arms=("swa_mem@16",), learning_rates=(1e-3, 2e-3, 4e-3, 8e-3), eval_windows=128,
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

# What is changed in rattn@T/8 (specification 8, 03_ablate): the arm, and fields of its local layers.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("rattn@{eighth}", {}),
    "relu": ("rattn@{eighth}", {"feature_map": "relu"}),
    "identity": ("rattn@{eighth}", {"feature_map": "identity"}),
    "no norm": ("rattn@{eighth}", {"output_norm": None}),
    "no window": ("la", {}),
}


def model(name: str, profile: Profile, **rattention: Any) -> Decoder.Config:
    """The decoder of an arm, for bytes; the vocabulary is set from the tokenizer."""
    return arm(
        name, dim=profile.dim, num_layers=profile.num_layers, num_heads=profile.num_heads, num_kv_heads=profile.num_kv_heads,
        head_dim=profile.head_dim, ffn_dim=profile.ffn_dim, vocab_size=257, seq_len=profile.seq_len, **rattention,
    )  # fmt: skip


def variant(name: str, profile: Profile) -> Decoder.Config:
    """The decoder of a variant of the ablation."""
    template, fields = VARIANTS[name]
    return model(template.format(eighth=profile.eighth), profile, **fields)


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


def tuning(setting: Setting, run: Runner) -> pd.DataFrame:
    """Validation loss of one arm per family on the grid of learning rates, at the first seed."""
    profile, seeds = _setting(setting)
    arms = ("full_rope", f"swa@{profile.eighth}", f"rattn@{profile.eighth}")
    grid = [(name, rate) for name in arms for rate in profile.learning_rates]
    runs = run(
        [run_config(model(n, profile), profile, setting, seeds[0], r, f"{n} seed {seeds[0]} lr {r:g}") for n, r in grid]
    )
    return pd.DataFrame(
        [{"arm": n, "family": family(n), "learning_rate": r, "seed": seeds[0], "validation_loss": done.result["validation_loss"]}
         for (n, r), done in zip(grid, runs, strict=True)]
    )  # fmt: skip


def _best_rates(setting: Setting, run: Runner) -> dict[str, float]:
    table = tuning(setting, run)
    best = table.loc[table.groupby("family")["validation_loss"].idxmin()]
    return dict(zip(best["family"], best["learning_rate"], strict=True))


def _sweep(setting: Setting, run: Runner) -> list[tuple[str, int, TrainLM.Config, Finished]]:
    profile, seeds = _setting(setting)
    rates = _best_rates(setting, run)
    cells = [(name, seed) for name in profile.arms() for seed in seeds]
    cfgs = [
        run_config(model(n, profile), profile, setting, s, rates[family(n)], f"{n} seed {s} lr {rates[family(n)]:g}")
        for n, s in cells
    ]
    return [(n, s, cfg, done) for (n, s), cfg, done in zip(cells, cfgs, run(cfgs), strict=True)]


def window_sweep(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and seed: loss, bits per byte, what the cache holds and what a token costs."""
    columns = ("bits_per_byte", "loss", "validation_loss", "parameters", "tokens", "flops_per_token", "cache_bytes")
    return pd.DataFrame(
        [{"arm": n, "family": n.split("@")[0], "window": _window(n), "seed": s, "learning_rate": cfg.optim.learning_rate,
          **{k: done.result[k] for k in columns}} for n, s, cfg, done in _sweep(setting, run)]
    )  # fmt: skip


def window_sweep_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, test window and copy-distance stratum: nats and bytes. What intervals are computed from."""
    profile, _ = _setting(setting)
    return _units([({"arm": n}, s, done) for n, s, _, done in _sweep(setting, run)], profile)


def training(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves of every arm of the sweep: arm, seed, step, loss, validation_loss (nats per token)."""
    return pd.concat(
        [done.metrics().assign(arm=n, seed=s) for n, s, _, done in _sweep(setting, run)], ignore_index=True
    )


def _ablated(setting: Setting, run: Runner) -> list[tuple[str, int, Finished]]:
    profile, seeds = _setting(setting)
    rate = _best_rates(setting, run)["rattn"]
    cells, cfgs = [], []
    for name in VARIANTS:
        for seed in seeds:
            cells.append((name, seed))
            cfgs.append(
                run_config(
                    variant(name, profile), profile, setting, seed, rate, f"ablation {name} seed {seed} lr {rate:g}"
                )
            )
    return [(name, seed, done) for (name, seed), done in zip(cells, run(cfgs), strict=True)]


def ablation(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant and seed: bits per byte and loss."""
    return pd.DataFrame(
        [{"variant": v, "seed": s, "bits_per_byte": d.result["bits_per_byte"], "validation_loss": d.result["validation_loss"],
          "parameters": d.result["parameters"]} for v, s, d in _ablated(setting, run)]
    )  # fmt: skip


def ablation_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, seed, test window and stratum: nats and bytes."""
    profile, _ = _setting(setting)
    return _units([({"variant": v}, s, d) for v, s, d in _ablated(setting, run)], profile)


class ExactChecks(Run):
    """The deterministic checks of the method and the closed forms; a run, so that they are computed once."""

    class Config(Run.Config):
        published: str = REQUIRED  # SHA-256 of the paper's tables

    def compute(self, work: Workspace) -> dict[str, Any]:
        """The rows of :func:`checks.exact_checks`."""
        return {"rows": checks.exact_checks().to_dict("records")}


def exact_checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Deterministic checks of the method and closed forms, independent of profile and data: claim, part, seed, unit, value."""
    tables = (root() / "papers" / "rattention" / "published.csv").read_bytes()
    cfg = ExactChecks.Config(published=hashlib.sha256(tables).hexdigest(), label="exact checks")
    return pd.DataFrame(run([cfg])[0].result["rows"])


class PaperShapes(Run):
    """The published models on the meta device; a run, because building a hundred layers takes seconds."""

    class Config(Run.Config):
        pass

    def compute(self, work: Workspace) -> dict[str, Any]:
        """The rows of :func:`paper_shapes`."""
        return {"rows": paper_shapes().to_dict("records")}


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per published size and arm: parameters, FLOPs per token, cache, training FLOPs."""
    return pd.DataFrame(run([PaperShapes.Config(label="published shapes")])[0].result["rows"])


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return checks.published()


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "exact_checks": exact_checks,
    "published": published,
    "paper_shapes": published_shapes,
    "tuning": tuning,
    "training": training,
    "window_sweep": window_sweep,
    "window_sweep_units": window_sweep_units,
    "ablation": ablation,
    "ablation_units": ablation_units,
}


def paper_shapes() -> pd.DataFrame:
    """The published models on the meta device: parameters, forward FLOPs per token, cache bytes, and how to launch them."""
    rows = []
    for size in ("3B", "12B"):
        for name in ("full_rope", "swa@2048", "rattn@512"):
            with torch.device("meta"):
                decoder = paper_model(size, name).build()
            rows.append({
                "model": size, "arm": name,
                "parameters": decoder.num_parameters(embedding=False),
                "matmul parameters": decoder.num_parameters(embedding=False, norms=False),
                "GFLOPs per token at 4k": decoder.flops_per_token(4096) / 1e9,
                "KV MiB at 4k": decoder.cache_bytes(4096, BYTES) / 2**20,
                "KV MiB at 32k": decoder.cache_bytes(32768, BYTES) / 2**20,
                "training FLOPs": 3 * decoder.flops_per_token(4096) * {"3B": 400e9, "12B": 600e9}[size],
            })  # fmt: skip
    return pd.DataFrame(rows)


LAUNCH = "orchard run rattention --profile paper --device cuda   (one arm after the other on one accelerator)"


def _setting(setting: Setting) -> tuple[Profile, tuple[int, ...]]:
    profile = PROFILES[setting.profile]
    return profile, setting.seeds or profile.seeds


def _window(name: str) -> float:
    label = name.partition("@")[2]
    return float(label) if label else math.nan


def _units(cells: list[tuple[dict[str, str], int, Finished]], profile: Profile) -> pd.DataFrame:
    rows = []
    for names, seed, done in cells:
        scores = done.tensors("eval")
        nll = scores["nll"].double().numpy()
        text = scores["tokens"].numpy()
        masks = _strata(text.tobytes(), text.shape, profile.seq_len)
        for stratum, mask in masks.items():
            count = mask.sum(axis=1)
            nats = np.where(mask, nll, 0.0).sum(axis=1)
            rows.append(
                pd.DataFrame(
                    {
                        **names,
                        "seed": seed,
                        "unit": np.arange(len(nll)),
                        "stratum": stratum,
                        "nats": nats,
                        "bytes": count,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


@lru_cache(maxsize=8)
def _strata(text: bytes, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
    """The strata of test windows; every arm is scored on the same ones."""
    return strata(copy_distance(np.frombuffer(text, dtype=np.int32).reshape(shape)), length)
