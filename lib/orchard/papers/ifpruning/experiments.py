"""Ifpruning: which runs its series needs, per profile, and the tidy tables they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchard.config import REQUIRED
from orchard.data import Source, text_source
from orchard.papers.ifpruning.data import sample
from orchard.papers.ifpruning.method import byte_entropy
from orchard.runs import Run, Runner, Setting, Workspace


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

    lengths: tuple[int, ...]  # bytes
    seeds: tuple[int, ...]


PROFILES: dict[str, Profile] = {
    "smoke": Profile(lengths=(256, 1024, 4096), seeds=(0, 1)),
    "gpu": Profile(lengths=(256, 1024, 4096, 16384), seeds=(0, 1, 2)),
    "paper": Profile(lengths=(1_000_000,), seeds=(0,)),
}


class Entropy(Run):
    """The byte entropy of a sample of text."""

    class Config(Run.Config):
        source: Source.Config = REQUIRED
        length: int = REQUIRED
        seed: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        return {"entropy": byte_entropy(sample(self.cfg.source.build(), self.cfg.length, self.cfg.seed))}


def entropy_by_length(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns arm, length (bytes), seed, entropy (bits per byte)."""
    profile = PROFILES[setting.profile]
    cells = [(length, seed) for length in profile.lengths for seed in setting.seeds or profile.seeds]
    source = text_source(setting.data)
    configs: list[Run.Config] = [
        Entropy.Config(source=source, length=length, seed=seed, label=f"{length} bytes seed {seed}")
        for length, seed in cells
    ]
    rows = [
        {"arm": "text", "length": length, "seed": seed, "entropy": done.result["entropy"]}
        for (length, seed), done in zip(cells, run(configs), strict=True)
    ]
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"entropy_by_length": entropy_by_length}


def paper_shapes() -> pd.DataFrame:
    """What the published scale would need; models are instantiated on the meta device and cost no memory."""
    return pd.DataFrame([{"experiment": "entropy_by_length", "bytes": PROFILES["paper"].lengths[0], "parameters": 0}])


LAUNCH = "orchard run ifpruning --profile paper"
