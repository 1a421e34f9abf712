"""Profiles of the grids of ablations: what one changes is many runs, so they are shorter than those of the comparison.

At smoke the sizes are those of the comparison without continued pre-training: a predictor arm is then its `ifp_sft_short`, the same
run. At gpu the decoder is smaller, with as many bits of facts per parameter as there; that size has its own dense arms.
"""

from __future__ import annotations

import dataclasses

from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import ARMS, studies
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Cell, Profile, Rates, Steps, cells
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Runner, Setting

SMOKE, GPU = PROFILES["smoke"], PROFILES["gpu"]
GRIDS: dict[str, Profile] = {
    "smoke": dataclasses.replace(SMOKE, steps=dataclasses.replace(SMOKE.steps, cpt=0), seeds=(0,)),
    "gpu": dataclasses.replace(
        GPU, size=Size(dim=128, num_layers=4, num_heads=4, num_kv_heads=4, width=1024, keep=256),
        reader=Reader(dim=64, num_layers=2, num_heads=2, width=128, rank=32), steps=Steps(pretrain=400, cpt=150, sft=250),
        batch_size=128, rates=(Rates(2e-3, 5e-4),), corpus=FactGrid.Config(num_keys=4096, num_values=256, queries=32),
        seeds=(0,), validate_every=50,
    ),
    "paper": PROFILES["paper"],
}  # fmt: skip


def grid_cells(setting: Setting, **variant: float | int) -> list[Cell]:
    """One cell per seed of a grid (those of the setting, where a reader gives some), with FactGrid varied."""
    return cells(setting, GRIDS[setting.profile], **variant)


def compared(setting: Setting, run: Runner) -> frozenset[str]:
    """Fingerprints of the arms of the comparison."""
    return frozenset(study.arm(arm).fingerprint() for _, study in studies(setting, run) for arm in ARMS)


def recorded(arm: Train.Config, known: frozenset[str], name: str, whole: bool = False) -> Train.Config:
    """An arm whose collapse is a finding and no error, and whose runs are called by what is varied: those with masks, or the ``whole``
    chain where the dense model differs too. Arms of the comparison stay as they are: they are the same runs."""
    if arm.fingerprint() in known:
        return arm
    stage: Train.Config | None = arm.set(on_collapse="record")
    while stage is not None and (whole or stage.selector is not None):
        stage.set(label=f"{name}: {stage.label}")
        stage = stage.start
    return arm
