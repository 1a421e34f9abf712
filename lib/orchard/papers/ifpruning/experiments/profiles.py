"""Sizes of the series, per profile, and what a cell of an experiment is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchard.papers.ifpruning.data.corpus import Corpus
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.runs import Setting


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of the stages; every arm has their sum, `dense_k_long` 1.8 times as many before fine-tuning."""

    pretrain: int
    cpt: int
    sft: int

    @property
    def total(self) -> int:
        return self.pretrain + self.cpt + self.sft


@dataclass(frozen=True)
class Rates:
    """Learning rates of an arm: of the decoder in every stage, of what conditions it."""

    decoder: float
    selector: float


@dataclass(frozen=True)
class Profile:
    """Sizes of a profile; what is compared never changes."""

    size: Size
    reader: Reader
    steps: Steps
    batch_size: int
    rates: tuple[Rates, ...]  # of several, the best on validation questions, family by family (`arms.rates`)
    corpus: FactGrid.Config  # its seed is set from that of the cell
    seeds: tuple[int, ...]
    validate_every: int
    own_rates: Mapping[str, Rates] = field(default_factory=dict)  # arms for which others were best


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        size=Size(dim=32, num_layers=2, num_heads=2, num_kv_heads=2, width=128, keep=32),
        reader=Reader(dim=32, num_layers=1, num_heads=2, width=64, rank=32),
        steps=Steps(pretrain=150, cpt=100, sft=250), batch_size=32, rates=(Rates(8e-3, 1e-3),),  # of {2, 4, 8, 16}e-3, see NOTES.md
        corpus=FactGrid.Config(num_keys=144), seeds=(0, 1), validate_every=50,
        own_rates={"film_k": Rates(8e-3, 4e-3), "prefix_cond": Rates(8e-3, 4e-3), "moe": Rates(16e-3, 1e-3)},
    ),
    "gpu": Profile(  # half a bit of distinct facts per parameter of dense_k, as at smoke
        size=Size(dim=256, num_layers=4, num_heads=4, num_kv_heads=4, width=2048, keep=512),
        reader=Reader(dim=128, num_layers=2, num_heads=2, width=256, rank=64),
        steps=Steps(pretrain=400, cpt=300, sft=500), batch_size=256, rates=(Rates(1e-3, 5e-4), Rates(2e-3, 5e-4), Rates(4e-3, 5e-4)),
        corpus=FactGrid.Config(num_domains=32, group_size=4, num_keys=4096, num_values=256, queries=64, asked=512), seeds=(0, 1, 2),
        validate_every=100,
    ),
    "paper": Profile(
        size=Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656),
        reader=Reader(dim=1024, num_layers=24, num_heads=16, width=2730, rank=128),
        steps=Steps(pretrain=0, cpt=0, sft=60_000), batch_size=1024, rates=(Rates(2e-6, 1e-4),),  # those of public ports: not published
        corpus=FactGrid.Config(), seeds=(0,), validate_every=1000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A profile with one seed and one corpus, and the corpus that the predictor's language model reads."""

    profile: Profile
    corpus: Corpus.Config
    reading: Corpus.Config
    seed: int


def cells(setting: Setting, profile: Profile | None = None, /, **variant: float | int) -> list[Cell]:
    """One cell per seed of a setting, with FactGrid varied; the seed is that of the world, of the weights and of the order of the data."""
    profile = profile or PROFILES[setting.profile]
    seeds = setting.seeds or profile.seeds
    worlds = [profile.corpus.clone().set(seed=seed) for seed in seeds]  # their wordings do not depend on the variant
    return [Cell(profile, world.clone().set(**variant), world, seed) for world, seed in zip(worlds, seeds, strict=True)]
