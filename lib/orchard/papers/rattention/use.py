"""What 06_use needs: a trained arm of the sweep, and what caches hold, measured on the real tensors."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from orchard.papers.rattention.profiles import chosen, family, model, run_config
from orchard.papers.rattention.sweep import best_rates
from orchard.runs import Finished, Runner, Setting
from orchard.train import TrainLM

DOUBLINGS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)


def trained(setting: Setting, run: Runner, name: str) -> tuple[TrainLM.Config, Finished]:
    """The run of the window sweep that trains an arm at its family's best learning rate, at the first seed."""
    profile, seeds = chosen(setting)
    rate = best_rates(setting, run)[family(name)]
    label = f"{name} seed {seeds[0]} lr {rate:g}"
    cfg = run_config(model(name, profile), profile, setting, seeds[0], rate, label)
    return cfg, run([cfg])[0]


def memory_table(setting: Setting, names: Sequence[str], lengths: Sequence[int] = DOUBLINGS) -> pd.DataFrame:
    """Bytes of the tensors of real fp32 caches for one sequence, by arm and tokens; and of the local layers alone."""
    profile, _ = chosen(setting)
    rows = []
    for name in names:
        decoder = model(name, profile).build()
        for length in lengths:
            layers = decoder.new_cache(1, length, device="cpu", dtype=torch.float32).layers
            local = sum(layer.bytes() for i, layer in enumerate(layers, start=1) if i % 4)  # the global one is the 4th
            parts = {name: sum(layer.bytes() for layer in layers)}
            if not name.startswith("full"):
                parts[f"{name.replace('@', ' ')}, local layers"] = local
            rows += [{"arm": arm, "tokens": length, "bytes": size, "seed": 0} for arm, size in parts.items()]
    return pd.DataFrame(rows)
