"""A study so small that its synthesizers train in a second, for the tests of the analyses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments import concepts, partners, quality
from orchard.papers.sbp.experiments.arms import Study
from orchard.papers.sbp.experiments.profiles import PROFILES, Analysis, Cell, Regular
from orchard.papers.sbp.method.models import Size
from orchard.runs import Finished, Run, Runner, Setting, Store

SETTING = Setting("smoke")
ARMS = ["sbp-random", "uncond", "exact-posterior"]
TINY = Analysis(
    documents=60, duplicates_at=30, partners=25, seeds=3, each=5, shares=(0.5, 1.0), size_cells=1, size_samples=30
)  # fmt: skip


def corpus(variant: str = "dep") -> ConceptWorld.Config:
    """Five concepts that twelve words tell apart."""
    return ConceptWorld.Config(
        variant=variant, concepts=5, words=40, content=12, genres=2, functions=3, documents=48, pool=5, held_out=45
    )


def tiny(variant: str = "dep") -> Study:
    """The study of one cell; what its models have learned does not matter."""
    profile = replace(
        PROFILES["smoke"], documents=48, pool=5, held_out=20, batch=16, neighbours=3, exceedance=0.2, tuning_steps=6, tuning_batch=8,
        sampling_batch=64, evaluations=2, analysis=TINY,
    )  # fmt: skip
    world = corpus(variant)
    budget = 5 * 48 * (world.build().cap + 1)
    return Study(profile, world, f"tiny {variant}", 0, Regular(0.5, 0.0, 2e-2), Size(16, 1, 2, 2, 32), budget, 40)


def runner(base: Path) -> Runner:
    """Computes in this process, into one store for all tests of a session."""
    store = Store(base / "tiny_synthesizers")

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    return run


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments see the tiny study in place of the profile's cells."""
    study = tiny()

    def studies(*_: Any) -> list[tuple[Cell, Study]]:
        return [(Cell("dep", 0, 0), study)]

    for module in (concepts, partners, quality):
        monkeypatch.setattr(module, "studies", studies)
        monkeypatch.setattr(module, "synthetic_arms", lambda setting, cell: ARMS)
    monkeypatch.setitem(PROFILES, "smoke", study.profile)
