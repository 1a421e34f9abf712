"""What is changed in rattn@T/8, and what each change is worth on real text (specification 8, 03_ablate)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchard.nn import Decoder
from orchard.papers.rattention.profiles import Profile, chosen, model, run_config
from orchard.papers.rattention.sweep import best_rates, units_table
from orchard.runs import Finished, Runner, Setting

# What is changed in rattn@T/8 (specification 8, 03_ablate): the arm, and fields of its local layers.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("rattn@{eighth}", {}),
    "relu": ("rattn@{eighth}", {"feature_map": "relu"}),
    "identity": ("rattn@{eighth}", {"feature_map": "identity"}),
    "no norm": ("rattn@{eighth}", {"output_norm": None}),
    "no window": ("la", {}),
}


def variant(name: str, profile: Profile) -> Decoder.Config:
    """The decoder of a variant of the ablation."""
    template, fields = VARIANTS[name]
    return model(template.format(eighth=profile.eighth), profile, **fields)


def _ablated(setting: Setting, run: Runner) -> list[tuple[str, int, Finished]]:
    profile, seeds = chosen(setting)
    rate = best_rates(setting, run)["rattn"]
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
    profile, _ = chosen(setting)
    return units_table([({"variant": v}, s, d) for v, s, d in _ablated(setting, run)], profile)
