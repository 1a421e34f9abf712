"""What the rules reject of each arm's samples, and what they would reject of real documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from orchard.papers.sbp.experiments.comparison import finished
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, cells, world
from orchard.papers.sbp.method.rules import REASONS
from orchard.papers.sbp.runs.filter import Filter, RealRules
from orchard.runs import Runner, Setting

REAL = "real, held out"


def rejections(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and reason: variant, world, seed, arm, reason, documents, share (of the sampled documents).

    The arm `REAL` is held-out documents under the same rules, as if they had been sampled: what the rules cost the innocent.
    """
    rows = []
    for cell, arm, _, cfg, _ in finished(setting, run):
        if isinstance(cfg.mix.synthetic, Filter.Config):
            rows += _shares(cell, arm, run([cfg.mix.synthetic])[0].result["rejections"])
    held_out, chosen = PROFILES[setting.profile].held_out, cells(setting)
    cfgs = [
        RealRules.Config(corpus=world(setting, cell.variant, cell.world), held_out=held_out, label=f"rules on real; {cell.name}")
        for cell in chosen
    ]  # fmt: skip
    for cell, done in zip(chosen, run(cfgs), strict=True):
        rows += _shares(cell, REAL, done.result["rejections"])
    return pd.DataFrame(rows)


def _shares(cell: Cell, arm: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    about, total = {**cell.columns, "arm": arm}, sum(counts.values())
    order = [name for name in REASONS if name in counts]
    return [{**about, "reason": name, "documents": counts[name], "share": counts[name] / total} for name in order]


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"rejections": rejections}
