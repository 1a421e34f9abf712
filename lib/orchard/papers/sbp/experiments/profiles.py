"""Every size of every profile, those of single studies too, and what a cell of an experiment is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from orchard.data import BPETokenizer, Tokenizer
from orchard.papers.sbp.data.docstrings import STDLIB
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.models import B3, B6, M10, M40, TINIER, TINY, WIDER, Size
from orchard.papers.sbp.runs.mix import ORDERS
from orchard.runs import Setting


@dataclass(frozen=True)
class Regular:
    """What is tuned for an arm before anything is compared."""

    weight_decay: float
    dropout: float
    learning_rate: float
    tuning_decay: float = 1.0  # weight decay of the arm's synthesizer


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Of notebook 03."""

    documents: int  # of a synthetic corpus, measured at most
    duplicates_at: int  # K of duplicate@K
    partners: int  # held-out documents with a partner, at most
    seeds: int  # seed documents of the concept laws
    each: int  # samples from each of them
    others: tuple[Size, ...] = ()  # of synthesizers beside the profile's own
    shares: tuple[float, ...]  # of the tuning steps, at every size
    size_cells: int  # cells of `dep` in which sizes are compared
    size_samples: int  # documents from each size


@dataclass(frozen=True, kw_only=True)
class Ablations:
    """Values besides the comparison's own, which every ablation has too."""

    cells: int  # of `dep`
    neighbours: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    top_ps: tuple[float, ...] = ()
    orders: tuple[str, ...] = ()
    truths: tuple[float, ...] = (0.0, 1.0)
    shares: tuple[float, ...]  # the first is 0
    share_cells: int
    share_decays: tuple[float, ...] = (0.5, 1.0)  # factors of the tuned weight decay, at every share
    scratch: bool = False  # also a synthesizer from scratch, which takes as long as a pretraining
    distilled: bool = False  # also a model distilled from the ensemble


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What is trained for longer, with as many FLOPs. K10 needs repetition alone."""

    cells: int  # of `dep`
    charged: tuple[str, ...] = ("without base",)  # without, with: the base model's training
    longer: tuple[str, ...] = ("repetition",)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Of bootstrapping."""

    rounds: int
    cells: int  # of `dep`
    judged: int  # synthetic documents of each round


@dataclass(frozen=True, kw_only=True)
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
    tuned: tuple[str, ...] = ()  # arms that are regularised by themselves; none named: all
    widen: int = 2  # how often a grid may grow
    start: Regular  # where tuning begins
    weight_decays: tuple[float, ...]
    learning_rates: tuple[float, ...]
    dropouts: tuple[float, ...]
    oracle_start: Regular
    oracle_weight_decays: tuple[float, ...]
    oracle_learning_rates: tuple[float, ...]
    tuning_decays: tuple[float, ...] = (1.0, 2.0)  # of synthesizers
    share: float = 0.375  # of the budget that is synthetic
    exceedance: float  # of random pairs: with N documents a document has about N times as many partners
    neighbours: int = 8  # k
    tuning_steps: int
    tuning_batch: int  # pairs
    sampling_batch: int  # documents
    evaluations: int  # along a training
    worlds: tuple[int, ...]
    seeds: tuple[int, ...]
    seeds_elsewhere: int  # how many of them the variants after the first have
    variants: tuple[str, ...]
    all_arms: bool = False  # in every cell, not in the first alone
    per_concept: tuple[int, ...]  # documents of D per concept, in the bounds on what they tell
    scaling: tuple[int, ...]  # documents of D; the last is the profile's
    scaling_cells: int = 1  # of `dep`
    analysis: Analysis
    ablations: Ablations
    matched: Matched
    rounds: Rounds
    sampling: dict[str, Any]  # documents that each timed way samples in a call, and rounds of calls


FEW = {"batched": 512, "batched_no_cache": 16, "alone": 2, "alone_no_cache": 2, "rounds": 3}
MANY = {"batched": 8192, "batched_no_cache": 512, "alone": 8, "alone_no_cache": 4, "rounds": 5}

PROFILES: dict[str, Profile] = {
    "smoke": Profile(  # does everything run? Its numbers mean nothing
        concepts=16, words=256, content=20, documents=60, pool=20, held_out=96, size=TINY, other_size=TINIER, batch=30,
        tuned=("repetition", "oracle", "sbp-nn-lm"), widen=0, tuning_decays=(1.0,),
        start=Regular(4.0, 0.1, 16e-3), weight_decays=(2.0, 4.0), learning_rates=(8e-3, 16e-3), dropouts=(0.1,),
        oracle_start=Regular(1.0, 0.0, 16e-3), oracle_weight_decays=(1.0, 4.0), oracle_learning_rates=(8e-3, 16e-3),
        exceedance=3e-2, tuning_steps=16, tuning_batch=32, sampling_batch=512, evaluations=4,
        worlds=(0,), seeds=(0,), seeds_elsewhere=1, variants=("dep", "indep"), per_concept=(2, 4, 16), scaling=(30, 60),
        analysis=Analysis(
            documents=512, duplicates_at=256, partners=100, seeds=6, each=16, shares=(0.5, 1.0), size_cells=1, size_samples=96,
        ),
        ablations=Ablations(
            cells=1, thresholds=(1e-1,), temperatures=(0.7,), orders=("synthetic_first",), shares=(0.0, 0.375, 0.75), share_cells=1,
            share_decays=(1.0,),
        ),
        matched=Matched(cells=1), rounds=Rounds(rounds=1, cells=1, judged=300),
        sampling={"batched": 64, "batched_no_cache": 8, "alone": 2, "alone_no_cache": 2, "rounds": 2},
    ),
    "laptop": Profile(
        concepts=64, words=256, content=20, documents=512, pool=20, held_out=500, size=TINY, other_size=WIDER, batch=32,
        start=Regular(4.0, 0.1, 8e-3), weight_decays=(1.0, 2.0, 4.0), learning_rates=(8e-3, 16e-3), dropouts=(0.0, 0.1, 0.3, 0.5),
        tuning_decays=(0.25, 0.5, 1.0, 2.0),
        oracle_start=Regular(1.0, 0.0, 8e-3), oracle_weight_decays=(0.25, 0.5, 1.0), oracle_learning_rates=(8e-3, 16e-3),
        exceedance=1e-2, tuning_steps=160, tuning_batch=32, sampling_batch=1024, evaluations=7,
        worlds=(0, 1), seeds=(1, 2, 3), seeds_elsewhere=3, variants=("dep", "indep"),
        per_concept=(2, 4, 8, 16, 64), scaling=(128, 256, 512), scaling_cells=3,
        analysis=Analysis(
            documents=2048, duplicates_at=1024, partners=500, seeds=64, each=64,
            others=(Size(32, 2, 2, 2, 80), WIDER), shares=(1 / 8, 1 / 4, 1 / 2, 1.0), size_cells=3, size_samples=1024,
        ),
        ablations=Ablations(
            cells=1, neighbours=(2,), thresholds=(1e-3, 1e-1), temperatures=(0.7,), orders=ORDERS[1:],
            truths=(0.0, 0.25, 0.5, 0.75, 1.0), shares=(0.0, 0.25, 0.5, 0.75, 1.0), share_cells=3, distilled=True,
        ),
        matched=Matched(cells=6), rounds=Rounds(rounds=2, cells=1, judged=2_000), sampling=FEW,
    ),
    "gpu": Profile(
        concepts=2048, words=4096, content=100, documents=32_768, pool=20, held_out=2_000, size=M10, other_size=M40, batch=512,
        start=Regular(0.5, 0.1, 2e-3), weight_decays=(0.1, 0.5, 1.0), learning_rates=(1e-3, 2e-3, 4e-3), dropouts=(0.0, 0.1, 0.2),
        oracle_start=Regular(0.1, 0.0, 2e-3), oracle_weight_decays=(0.1, 0.5), oracle_learning_rates=(1e-3, 2e-3, 4e-3),
        exceedance=1e-3, tuning_steps=500, tuning_batch=256, sampling_batch=8192, evaluations=20,
        worlds=(0, 1), seeds=(1, 2, 3), seeds_elsewhere=3, variants=("dep", "indep", "hier", "facts"), all_arms=True,
        per_concept=(2, 4, 8, 16, 32), scaling=(2_048, 4_096, 8_192, 16_384, 32_768), scaling_cells=3,
        analysis=Analysis(
            documents=4_096, duplicates_at=4_096, partners=2_000, seeds=64, each=64,
            others=(Size(128, 4, 2, 2, 344), Size(192, 6, 3, 3, 512)), shares=(0.1, 0.25, 0.5, 1.0), size_cells=3, size_samples=4_096,
        ),
        ablations=Ablations(
            cells=3, neighbours=(1, 2, 4, 16), thresholds=(1e-4, 1e-2), temperatures=(0.5, 0.7, 1.3), top_ps=(0.8, 0.95),
            orders=ORDERS[1:], truths=(0.0, 0.25, 0.5, 0.75, 1.0), shares=(0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0), share_cells=3,
            scratch=True, distilled=True,
        ),
        matched=Matched(
            cells=6, charged=("without base", "with base"), longer=("repetition", "oracle")
        ),
        rounds=Rounds(rounds=4, cells=3, judged=5_000), sampling=MANY,
    ),
}  # fmt: skip
PROFILES["paper"] = replace(  # nothing is trained: shapes, budgets and costs alone
    PROFILES["gpu"], size=B3, other_size=B6, batch=2048, start=Regular(0.1, 0.0, 1e-2), weight_decays=(0.1,), learning_rates=(1e-2,),
    dropouts=(0.0,), oracle_start=Regular(0.1, 0.0, 1e-2), oracle_weight_decays=(0.1,), oracle_learning_rates=(1e-2,),
    tuning_batch=2048, worlds=(0,), seeds=(0,), seeds_elsewhere=1, variants=("dep",), per_concept=(), scaling=(32_768,), scaling_cells=1,
    analysis=Analysis(
        documents=1_000_000, duplicates_at=1_000_000, partners=2_000, seeds=64, each=64, shares=(1.0,), size_cells=1, size_samples=4_096,
    ),
    ablations=Ablations(cells=1, shares=(), share_cells=1, scratch=True),
    matched=Matched(cells=1, longer=("repetition", "oracle")), rounds=Rounds(rounds=1, cells=1, judged=1),
)  # fmt: skip


@dataclass(frozen=True)
class TextSize:
    """Sizes of the comparison on real text. ``sizes`` replaces fields of the series' profile."""

    packages: tuple[str, ...]
    max_bytes: int | None  # of source, a package
    tokenizer: Tokenizer.Config
    cap: int  # tokens
    length: int  # tokens of a document with eos, about: configs do not depend on what a machine has installed
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    grams: tuple[int, ...]  # lengths whose novelty is measured, in tokens
    sizes: Profile


EVERYTHING = (  # profile gpu; those that are installed
    STDLIB, "numpy", "scipy", "pandas", "matplotlib", "sklearn", "torch", "transformers", "sympy", "networkx", "datasets",
    "lightning", "huggingface_hub", "pyarrow", "IPython", "jinja2", "rich", "fsspec", "statsmodels",
)  # fmt: skip
_FOUR = ("repetition", "oracle", "sbp-nn-lm", "sbp-random")
_GPU = TextSize(
    EVERYTHING, None, BPETokenizer.Config(vocab_size=4096), 256, 100, (*_FOUR, "sbp-nn-tfidf"), (1, 2, 3), (2, 3, 5, 8, 13),
    replace(
        PROFILES["gpu"], documents=1_200, pool=20, held_out=1_000, size=M10, batch=64, start=Regular(0.5, 0.1, 1e-3),
        oracle_start=Regular(0.1, 0.1, 1e-3),
        weight_decays=(0.5, 1.0, 2.0), oracle_weight_decays=(0.1, 0.5), exceedance=1e-2, tuning_batch=64, sampling_batch=4096,
    ),
)  # fmt: skip
TEXT: dict[str, TextSize] = {
    "smoke": TextSize(
        (STDLIB,), 1_500_000, BPETokenizer.Config(vocab_size=512), 48, 35, _FOUR, (0,), (1, 2, 5),
        replace(
            PROFILES["smoke"], documents=48, pool=12, held_out=60, batch=16, start=Regular(4.0, 0.0, 8e-3), weight_decays=(2.0, 4.0),
            oracle_start=Regular(1.0, 0.0, 8e-3),
            oracle_weight_decays=(0.3, 1.0), tuning_batch=16, sampling_batch=384,
        ),
    ),
    "laptop": TextSize(
        (STDLIB,), None, BPETokenizer.Config(vocab_size=512), 64, 45, _FOUR, (1, 2), (1, 2, 3, 5, 8),
        replace(
            PROFILES["laptop"], documents=256, pool=16, held_out=400, size=TINY, batch=16, start=Regular(4.0, 0.0, 8e-3),
            oracle_start=Regular(1.0, 0.0, 8e-3),
            weight_decays=(2.0, 4.0, 8.0), oracle_weight_decays=(0.3, 1.0, 3.0), exceedance=2e-2, tuning_steps=80, tuning_batch=32,
            sampling_batch=512, evaluations=8,
        ),
    ),
    "gpu": _GPU,
    "paper": _GPU,
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
        Cell(variant, number, seed)
        for variant, number in product(chosen, profile.worlds)
        for seed in (seeds[variant] if setting.seeds is None else setting.seeds)
    ]


def scale(profile: str) -> str:
    """How large the models and the corpus of a profile are, which stands beside its verdicts."""
    sizes = PROFILES[profile]
    cells = f"{len(sizes.worlds)} × {len(sizes.seeds)}"
    return f"{sizes.size.num_layers} layers of {sizes.size.dim}, {sizes.documents} documents, worlds × seeds {cells}"


def world(setting: Setting, variant: str, number: int, documents: int | None = None) -> ConceptWorld.Config:
    """The corpus of a cell."""
    profile = PROFILES[setting.profile]
    return ConceptWorld.Config(
        variant=variant, concepts=profile.concepts, words=profile.words, content=profile.content,
        documents=profile.documents if documents is None else documents, pool=profile.pool, held_out=2 * profile.held_out,
        world_seed=number, corpus_seed=number,
    )  # fmt: skip
