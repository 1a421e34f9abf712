"""Every claim that measured numbers decide can come out either way, hangs on its gate, and is not supported where its control passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.claims import Verdict, decide, load_claims
from orchard.papers.manzano.experiments import CONTROLS, EVIDENCE, GATES
from orchard.papers.manzano.experiments.strategies import DRAWN, METRICS
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("manzano"))}
SEEDS, ITEMS = (1, 2, 3, 4, 5), 10
THREE = ("general", "text-rich", DRAWN)
Shares = dict[str, tuple[float, ...]]  # by arm, of METRICS: general, knowledge, text-rich, GenEval-mini
LEVELS: Shares = {
    "hybrid": (0.9, 0.9, 0.95, 0.6), "pure_discrete": (0.9, 0.8, 0.7, 0.6), "pure_discrete_feat": (0.5, 0.5, 0.5, 0.2),
    "hybrid_other": (0.25, 0.1, 0.1, 0.0), "pure_discrete_other": (0.25, 0.1, 0.1, 0.0), "dual_encoder": (0.9, 0.9, 0.9, 0.2),
    "dual_semantic": (0.9, 0.9, 0.9, 0.4), "und_only": (0.9, 0.9, 0.95, 0.0), "gen_only": (0.0, 0.0, 0.0, 0.6),
    "blind": (0.25, 0.1, 0.1, 0.0), "quarter": (0.4, 0.3, 0.2, 0.2), "hybrid_shuffled": (0.0, 0.0, 0.0, 0.1),
}  # fmt: skip


def shares(level: float, seed: int, spread: float = 0.01) -> np.ndarray:
    """Shares right of every item, about a level."""
    return level + np.random.default_rng([seed, round(1000 * level)]).normal(0, spread, ITEMS)


def items(levels: dict[tuple[Any, ...], float], *names: str, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Items of every seed about a level for each key, whose parts are columns called ``names``."""
    parts = [
        pd.DataFrame({"unit": range(ITEMS), "value": shares(level, seed)}).assign(seed=seed, **dict(zip(names, key, strict=True)))
        for key, level in levels.items() for seed in seeds
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def strategies(ceiling: float = 0.8, baseline: str = "pure_discrete", **changed: tuple[float, ...]) -> pd.DataFrame:
    """The table of strategies; a level of 0 is not measured."""
    every = {(arm, METRICS[i]): level for arm, of in (LEVELS | changed).items() for i, level in enumerate(of) if level}
    table = items(every, "arm", "metric")
    table["ceiling"] = np.where(table["metric"] == DRAWN, ceiling, np.nan)
    return table.assign(baseline=table["arm"].str.removesuffix("_other") == baseline, tag="")


def single_task(unified: float = 0.9, single: float = 0.9, quarter: float = 0.5) -> pd.DataFrame:
    arms = {"unified": unified, "single": single, "quarter": quarter}
    return items({(arm, metric): level for arm, level in arms.items() for metric in THREE}, "arm", "metric")


def tokenizers(continuous: float = 0.97, discrete: float = 0.7, loss: float = 0.1, other: float = 8.0) -> pd.DataFrame:
    """The worst seed is the last."""
    levels = {"continuous": (continuous, loss), "discrete": (discrete, loss)}
    levels |= {f"another picture through the {name}": (0.1, other) for name in ("continuous", "discrete")}
    return pd.DataFrame([
        {"seed": seed, "stream": stream, "adapter": adapter, "accuracy": min(1.0, accuracy + 0.01 * (5 - seed)), "loss": nats,
         "initial": 5.0 if adapter in ("continuous", "discrete") else np.nan, "rho": rho}
        for seed in SEEDS for adapter, (accuracy, nats) in levels.items()
        for stream, rho in (("read k1", 3.0), ("read k2", 1.5), ("objects k2", np.nan))
    ])  # fmt: skip


def density(*gaps: float, other: float = 0.0) -> pd.DataFrame:
    """The gap at k = 1, 2, 3 with 1,000 codes; ``other``: at k = 3 where another strip is shown."""
    levels: dict[tuple[Any, ...], float] = {}
    for k, gap in zip((1, 2, 3), gaps or (0.0, 0.2, 0.4), strict=True):
        levels |= {(k, "hybrid"): 0.9, (k, "pure_discrete"): 0.9 - gap}
        levels |= {(k, "hybrid_other"): 0.1 + other * (k == 3), (k, "pure_discrete_other"): 0.1}
    wide = items(levels, "k", "arm", seeds=SEEDS[:3]).assign(codes=1000)
    wide["baseline"] = wide["arm"].str.startswith("pure")
    return pd.concat([wide, wide[wide["k"] == 2].assign(codes=240, value=0.5)], ignore_index=True)


def density_tokenizers(least: float = 0.95) -> pd.DataFrame:
    return pd.DataFrame([
        {"seed": seed, "k": k, "codes": 1000, "adapter": "continuous", "accuracy": least if k == 3 else 1.0}
        for seed in SEEDS[:3] for k in (1, 2, 3, 6)
    ])  # fmt: skip


def adapters(hybrid: float = 0.75, posthoc: float = 0.6, bottleneck: float = 0.9, other: float = 0.1) -> pd.DataFrame:
    """``other``: the first arm of each claim, given another picture."""
    own = {("hybrid", "own"): hybrid, ("posthoc", "own"): posthoc, ("bottleneck", "own"): bottleneck}
    others = {("hybrid", "another"): other, ("posthoc", "another"): 0.1, ("bottleneck", "another"): other}
    return items(own | others, "arm", "shown", seeds=SEEDS[:3])


def adapter_training(settled: int = 200) -> pd.DataFrame:
    return pd.DataFrame({"seed": 1, "arm": ["posthoc", "bottleneck"], "settled": settled, "steps": 400})


def ceilings(hybrid: float = 0.8, pixels: float = 0.9) -> pd.DataFrame:
    drawn_by = ["decoder", "decoder", "auto-encoder"]
    codes, overall = ["hybrid", "auto-encoder", "auto-encoder"], [hybrid, pixels, np.nan]
    return pd.DataFrame({"seed": 1, "codes": codes, "drawn by": drawn_by, "overall": overall})


def checks(parsed: float = 1.0) -> pd.DataFrame:
    parts = ["frozen bytes", "control: language_model.embedding.weight", "objects"]
    return pd.DataFrame({"claim": ["S3", "S3", "S6"], "part": parts, "seed": 0, "unit": 0, "value": [0.0, 5.0, parsed]})


def scaling(smallest: float = 0.4, largest: float = 0.8, blind: float = 0.1, large_blind: float = 0.1) -> pd.DataFrame:
    levels = {("hybrid", 16): smallest, ("hybrid", 64): (smallest + largest) / 2, ("hybrid", 96): largest}
    levels |= {("blind", 16): blind, ("blind", 96): large_blind}
    every = {(*key, metric): level for key, level in levels.items() for metric in THREE}
    table = items(every, "arm", "dim", "metric", seeds=SEEDS[:3])
    return table[(table["arm"] != "blind") | (table["metric"] != DRAWN)]


def decoder_scaling(
    small: float = 0.5, large: float = 0.6, drawn: float = 0.0, shuffled: float = -0.4, objects: float = 0.9
) -> pd.DataFrame:
    """``drawn``, ``shuffled``: what the largest decoder adds to GenEval-mini, and with other codes to anything."""
    levels = {
        ("structure", "hybrid"): (small, large), ("structure", "shuffled"): (0.1, small + shuffled),
        (DRAWN, "hybrid"): (0.8, 0.8 + drawn), (DRAWN, "shuffled"): (0.1, 0.8 + shuffled), ("objects", "hybrid"): (objects, 1.0),
    }  # fmt: skip
    every = {(*key, dim): level for key, ends in levels.items() for dim, level in zip((128, 384), ends, strict=True)}
    return items(every, "metric", "arm", "dim", seeds=SEEDS[:3])


def edits(both: int = 8, one: int = 1, reference: int = 0, instruction: int = 1) -> pd.DataFrame:
    """How many of the 10 edits of a seed succeed."""
    counts = {
        ("both", "nothing"): both, ("language model", "nothing"): one, ("decoder", "nothing"): 0, ("true codes", "nothing"): 10,
        ("both", "reference"): reference, ("both", "instruction"): instruction,
    }  # fmt: skip
    return pd.DataFrame([
        {"seed": seed, "arm": arm, "shuffled": what, "unit": f"add {item}", "success": float((7 * item) % ITEMS < count)}
        for (arm, what), count in counts.items() for seed in SEEDS[:3] for item in range(ITEMS)
    ])  # fmt: skip


def edit_reader(accuracy: float = 0.95) -> pd.DataFrame:
    return pd.DataFrame({"seed": SEEDS[:3], "accuracy": [1.0, 1.0, accuracy]})


MAKERS: list[Callable[[], pd.DataFrame]] = [
    strategies, single_task, tokenizers, density, density_tokenizers, adapters, adapter_training, ceilings, checks, scaling,
    decoder_scaling, edits, edit_reader,
]  # fmt: skip
GOOD = {make.__name__: make() for make in MAKERS}


def judged(name: str, changed: dict[str, pd.DataFrame] | None = None, profile: str = "gpu") -> Verdict:
    """The verdict on a claim from good tables, some of them changed."""

    tables = (GOOD | (changed or {})).__getitem__
    gate = partial(GATES[name], tables) if name in GATES else None
    control = CONTROLS[name](tables) if name in CONTROLS else None
    return decide(CLAIMS[name], EVIDENCE[name](tables), profile, gate, control=control)


REFUTED: list[tuple[str, pd.DataFrame]] = [
    ("M1a", strategies(hybrid=(0.9, 0.9, 0.72, 0.6))),  # ahead, by less than asked
    ("M1a", strategies(baseline="pure_discrete_feat", pure_discrete_feat=(0.9, 0.9, 0.95, 0.6))),  # the better one
    ("M1b", strategies(dual_encoder=(0.9, 0.95, 0.9, 0.2))),
    ("M2", strategies(hybrid=(1.0, 0.9, 0.8, 0.6))),  # as much on objects as on text
    ("M2c", density(0.2, 0.2, 0.25)),
    ("M2b", adapters(bottleneck=0.6)),
    ("R1", adapters(posthoc=0.75)),
    ("M3a", strategies(hybrid=(0.9, 0.9, 0.95, 0.65))),  # better is not equivalent
    ("M3b", strategies(dual_encoder=(0.9, 0.9, 0.9, 0.55))),
    ("M11", strategies(dual_semantic=(0.9, 0.9, 0.9, 0.6))),
    ("M4", single_task(0.8)),
    ("M5", scaling(0.75, 0.8)),
    ("M6", decoder_scaling(large=0.51)),
    ("M6b", decoder_scaling(drawn=0.1)),
    ("M9", edits(one=8)),
    ("S7", tokenizers(loss=2.3)),  # which character it is was not learned
    ("S7b", tokenizers(discrete=0.0)),
]
DECIDED = {name for name, _ in REFUTED} | {"S3"}  # by what is measured; a changed byte of S3 is a test of its run


@pytest.mark.parametrize("name", sorted(DECIDED))
def test_a_claim_is_supported_where_its_tables_are_good(name: str) -> None:
    assert judged(name).verdict == "supported"


@pytest.mark.parametrize(("name", "table"), REFUTED)
def test_a_claim_is_refuted_where_its_table_says_so(name: str, table: pd.DataFrame) -> None:
    assert judged(name, {CLAIMS[name].experiment: table}).verdict == "refuted"


def test_smoke_decides_nothing() -> None:
    assert judged("M1a", profile="smoke").verdict == "out of reach here"


def test_too_few_seeds_decide_nothing() -> None:
    table = strategies()
    assert judged("M1a", {"strategies": table[table["seed"] < 5]}).verdict == "out of reach here"


BAD_CEILING, BAD_EYES = ceilings(0.5), tokenizers(continuous=0.85)
GATED: list[tuple[str, dict[str, pd.DataFrame], str]] = [
    *((name, {"tokenizers": BAD_EYES}, "0.85 (0.9 needed)") for name in ("M1a", "M2", "M2b", "R1")),
    *((name, {"ceilings": BAD_CEILING}, "0.50 (0.6 needed)") for name in ("M3a", "M3b", "M11")),
    ("M1a", {"tokenizers": tokenizers(discrete=0.5)}, "0.50 (0.6 needed)"),
    ("M1a", {"tokenizers": tokenizers().assign(rho=1.2)}, "rho 1.20"),
    ("M2c", {"density_tokenizers": density_tokenizers(0.8)}, "0.80 at k = 3"),
    ("M2b", {"adapter_training": adapter_training(390)}, "98% of their steps"),
    ("M3a", {"checks": checks(0.99)}, "99.0%"),
    ("M3b", {"ceilings": ceilings(pixels=0.5)}, "0.50"),
    ("M1b", {"strategies": strategies(blind=(0.25, 0.1, 0.7, 0.0))}, "0.2"),
    ("M4", {"strategies": strategies(gen_only=(0.0, 0.0, 0.0, 0.3))}, "at least 0.38 of its ceiling"),
    ("M5", {"scaling": scaling(0.4, 0.98)}, "0.98 right"),
    ("M5", {"scaling": scaling(0.1, 0.8, blind=0.15)}, "-0.05"),
    ("M6", {"decoder_scaling": decoder_scaling(objects=0.5)}, "0.50"),
    ("M6b", {"decoder_scaling": decoder_scaling(objects=0.5)}, "0.50"),
    ("M9", {"edit_reader": edit_reader(0.8)}, "0.80"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changed", "words"), GATED)
def test_a_gate_that_fails_leaves_no_verdict(name: str, changed: dict[str, pd.DataFrame], words: str) -> None:
    found = judged(name, changed)
    assert found.verdict == "gate not met"
    assert words in found.gate


CONTROLLED: list[tuple[str, dict[str, pd.DataFrame]]] = [
    ("M1a", {"density": density(0.2, 0.2, 0.4)}),  # even where both should read everything
    ("M1b", {"strategies": strategies(quarter=(0.95, 0.95, 0.95, 0.5))}),
    ("M2", {"strategies": strategies(hybrid_other=(0.25, 0.1, 0.4, 0.0))}),
    ("M2c", {"density": density(other=0.3)}),
    ("M2b", {"adapters": adapters(other=0.3)}),
    ("R1", {"adapters": adapters(other=0.3)}),
    ("M3a", {"strategies": strategies(hybrid_shuffled=(0.0, 0.0, 0.0, 0.6))}),
    ("M3b", {"strategies": strategies(hybrid_shuffled=(0.0, 0.0, 0.0, 0.6))}),
    ("M11", {"strategies": strategies(hybrid_shuffled=(0.0, 0.0, 0.0, 0.6))}),
    ("M4", {"single_task": single_task(quarter=0.9)}),
    ("M5", {"scaling": scaling(large_blind=0.4)}),
    ("M6", {"decoder_scaling": decoder_scaling(shuffled=0.1)}),
    ("M6b", {"decoder_scaling": decoder_scaling(shuffled=0.0)}),
    ("M9", {"edits": edits(instruction=7)}),
    ("S3", {"checks": checks().assign(value=0.0)}),
    ("S7", {"tokenizers": tokenizers(other=0.5)}),
]


@pytest.mark.parametrize(("name", "changed"), CONTROLLED)
def test_a_claim_whose_control_passes_is_not_supported(name: str, changed: dict[str, pd.DataFrame]) -> None:
    found = judged(name, changed)
    assert found.verdict == "gate not met"
    assert "meets the rule as well" in found.control


def test_the_printed_score_of_the_3b_model_does_not_follow_from_its_parts() -> None:
    found = judged("P1")
    assert found.verdict == "refuted"
    assert {part.name for part in found.parts if part.outcome == "contradicts"} == {"GenEval of Manzano-3B"}


def test_every_claim_is_here() -> None:
    exact = {"M10", "S1", "S2", "S4", "S5", "S6"}  # rows of `runs.checks` as they are: its own tests
    assert set(CLAIMS) == DECIDED | exact | {"P1", "M7", "M8"}
    assert set(CLAIMS) - set(EVIDENCE) == {"M7", "M8"}
    assert {name for name, *_ in GATED} == set(GATES)
    assert {name for name, _ in CONTROLLED} == set(CONTROLS)
