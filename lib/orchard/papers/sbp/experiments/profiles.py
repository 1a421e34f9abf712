"""Sizes of the series, per profile, and what a cell of an experiment is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.models import B3, B6, M10, M40, TINIER, TINY, Size
from orchard.runs import Setting


@dataclass(frozen=True)
class Regular:
    """What is tuned for an arm before anything is compared."""

    weight_decay: float
    dropout: float
    learning_rate: float


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

    concepts: int
    words: int
    content: int  # words of a document
    documents: int  # of D
    pool: int  # times as many for the oracle, and the number of repeats of the baseline
    held_out: int  # documents
    size: Size
    other_size: Size  # of the share sweep
    batch: int  # documents per step, about
    start: Regular  # where tuning begins
    weight_decays: tuple[float, ...]
    learning_rates: tuple[float, ...]
    dropouts: tuple[float, ...]
    oracle_start: Regular
    oracle_weight_decays: tuple[float, ...]
    oracle_learning_rates: tuple[float, ...]
    share: float  # of the budget that is synthetic
    exceedance: float  # of random pairs: with N documents a document has about N times as many partners
    neighbours: int  # k
    tuning_steps: int
    tuning_batch: int  # pairs
    sampling_batch: int  # documents
    evaluations: int  # along a training
    worlds: tuple[int, ...]
    seeds: tuple[int, ...]
    seeds_elsewhere: int  # how many of them the variants after the first have
    variants: tuple[str, ...]


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        concepts=16, words=256, content=20, documents=112, pool=20, held_out=128, size=TINY, other_size=TINIER, batch=20,
        start=Regular(4.0, 0.1, 16e-3), weight_decays=(2.0, 4.0, 8.0), learning_rates=(8e-3, 16e-3, 32e-3), dropouts=(0.1, 0.2, 0.3),
        oracle_start=Regular(1.0, 0.0, 16e-3), oracle_weight_decays=(1.0, 4.0), oracle_learning_rates=(8e-3, 16e-3, 32e-3),
        share=0.375, exceedance=1e-2, neighbours=8, tuning_steps=40, tuning_batch=32, sampling_batch=512, evaluations=6,
        worlds=(0,), seeds=(0, 1), seeds_elsewhere=1, variants=("dep", "indep"),
    ),
    "gpu": Profile(
        concepts=2048, words=4096, content=100, documents=32_768, pool=20, held_out=2_000, size=M10, other_size=M40, batch=512,
        start=Regular(0.5, 0.1, 2e-3), weight_decays=(0.1, 0.5, 1.0), learning_rates=(1e-3, 2e-3, 4e-3), dropouts=(0.0, 0.1, 0.2),
        oracle_start=Regular(0.1, 0.0, 2e-3), oracle_weight_decays=(0.1, 0.5), oracle_learning_rates=(1e-3, 2e-3, 4e-3),
        share=0.375, exceedance=1e-3, neighbours=8, tuning_steps=500, tuning_batch=256, sampling_batch=8192, evaluations=20,
        worlds=(0, 1), seeds=(0, 1, 2), seeds_elsewhere=3, variants=("dep", "indep", "hier", "facts"),
    ),
    "paper": Profile(  # nothing is trained: shapes, budgets and costs alone
        concepts=2048, words=4096, content=100, documents=32_768, pool=20, held_out=2_000, size=B3, other_size=B6, batch=2048,
        start=Regular(0.1, 0.0, 1e-2), weight_decays=(0.1,), learning_rates=(1e-2,), dropouts=(0.0,),
        oracle_start=Regular(0.1, 0.0, 1e-2), oracle_weight_decays=(0.1,), oracle_learning_rates=(1e-2,),
        share=0.375, exceedance=1e-3, neighbours=8, tuning_steps=500, tuning_batch=2048, sampling_batch=8192, evaluations=20,
        worlds=(0,), seeds=(0,), seeds_elsewhere=1, variants=("dep",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One world and one seed of the models: what arms are compared within."""

    variant: str
    world: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}, world {self.world}, seed {self.seed}"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that say in a table which cell a row belongs to."""
        return {"variant": self.variant, "world": self.world, "seed": self.seed}


def cells(setting: Setting, *variants: str) -> list[Cell]:
    """The cells of a setting; of the named variants only, where some are named and the profile has them. Seeds that a reader asks for
    are those of every variant."""
    profile = PROFILES[setting.profile]
    chosen = [v for v in profile.variants if not variants or v in variants]
    seeds = {v: profile.seeds if v == profile.variants[0] else profile.seeds[: profile.seeds_elsewhere] for v in chosen}
    return [
        Cell(variant, world, seed)
        for variant in chosen
        for world in profile.worlds
        for seed in (seeds[variant] if setting.seeds is None else setting.seeds)
    ]


def world(setting: Setting, variant: str, number: int, documents: int | None = None) -> ConceptWorld.Config:
    """The corpus of a cell."""
    profile = PROFILES[setting.profile]
    return ConceptWorld.Config(
        variant=variant, concepts=profile.concepts, words=profile.words, content=profile.content,
        documents=profile.documents if documents is None else documents, pool=profile.pool, held_out=2 * profile.held_out,
        world_seed=number, corpus_seed=number,
    )  # fmt: skip
