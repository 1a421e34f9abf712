"""Every claim that measured numbers decide can come out either way, and is decided at the profile that it names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.papers.sbp.experiments import EVIDENCE
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("sbp"))}
Table = Callable[..., pd.DataFrame]


def documents(dep: float, indep: float = 0.0, random: float = 0.0, oracle: float = -5.0) -> pd.DataFrame:
    """Losses of test documents: a level per document, the gain of each arm over repetition, and a little noise."""
    draw = np.random.default_rng(0)
    rows = []
    for variant, own in (("dep", dep), ("indep", indep)):
        for seed in range(6):
            level = draw.normal(20, 5, 40)
            for arm, gain in (("repetition", 0.0), ("oracle", oracle), ("sbp-nn-lm", own), ("sbp-random", random)):
                loss = level + gain + draw.normal(0, 0.2, 40)
                part = pd.DataFrame({"document": range(40), "best": loss, "last": loss + 1})
                rows.append(part.assign(variant=variant, world=0, seed=seed, arm=arm, charged="without base"))
    return pd.concat(rows, ignore_index=True)


def curves(early: float, end: float) -> pd.DataFrame:
    """SBP minus repetition at 20 of 160 steps and at the end."""
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "arm": arm, "step": step, "excess": 20 + gap * (arm == "sbp-nn-lm")}
        for seed in range(6) for arm in ("repetition", "sbp-nn-lm") for step, gap in ((20, early), (80, 0.5), (160, end))
    ])  # fmt: skip


def partners(true: float, random: float, exact: float) -> pd.DataFrame:
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "arm": arm, "true": true + d, "random": random + d, "exact_true": exact + d}
        for seed in (0, 1) for arm in ("sbp-nn-lm", "sbp-random", "uncond", "exact") for d in (-1.0, 1.0)
    ])  # fmt: skip


def laws(own: float, alone: float) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "document": d, "arm": arm, "kl": value + random.normal(0, 0.1)}
        for seed in range(3) for d in range(20) for arm, value in (("sbp-nn-lm", own), ("uncond", alone))
    ])  # fmt: skip


def quality(copying: float, repeats: float) -> pd.DataFrame:
    """Upper ends of the intervals of raw samples; what the filter leaves decides nothing."""
    rows = [
        {"variant": "dep", "world": 0, "seed": seed, "source": source, "state": "raw", "metric": metric, "rate": 0.004, "high": high}
        for seed in (0, 1)
        for source, highs in (("sbp-nn-lm", (copying, repeats)), ("real", (0.5, 0.5)))
        for metric, high in zip(("pair-copying", "duplicate"), highs, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows + [row | {"state": "kept", "high": 0.0} for row in rows])


def sizes(*rates: float) -> pd.DataFrame:
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "metric": metric, "flops": 10.0 * place, "rate": value}
        for seed in range(3) for metric in ("non-factual", "pair-irrelevance") for place, value in enumerate(rates)
    ])  # fmt: skip


def sweep(smaller: tuple[float, ...], larger: tuple[float, ...]) -> pd.DataFrame:
    """A parabola of losses with its minimum at the given share, for each size and seed."""
    return pd.DataFrame([
        {"world": 0, "seed": seed, "size": size, "share": share, "best": 20 + (share - at) ** 2}
        for size, best in (("smaller", smaller), ("larger", larger)) for seed, at in enumerate(best)
        for share in (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)
    ])  # fmt: skip


BOTH_WAYS: list[tuple[str, Table, tuple[object, ...], str]] = [
    ("K1", documents, (-2.0,), "supported"),
    ("K1", documents, (0.0,), "inconclusive"),
    ("K1", documents, (2.0,), "refuted"),
    ("K2", documents, (-4.0,), "supported"),
    ("K2", documents, (-1.0,), "refuted"),
    ("K3", documents, (-2.0, 0.0), "supported"),
    ("K3", documents, (-2.0, -2.0), "inconclusive"),
    ("K3", documents, (0.0, -2.0), "refuted"),
    ("K3", documents, (2.0, 6.0), "refuted"),
    ("K3b", documents, (-2.0, 0.0), "supported"),
    ("K3b", documents, (-2.0, -2.0), "refuted"),
    ("K4", partners, (70.0, 75.0, 60.0), "supported"),
    ("K4", partners, (75.0, 70.0, 60.0), "refuted"),
    ("K4b", partners, (70.0, 75.0, 60.0), "supported"),
    ("K4b", partners, (70.0, 75.0, 71.0), "refuted"),
    ("K5", laws, (1.0, 3.0), "supported"),
    ("K5", laws, (3.0, 1.0), "refuted"),
    ("K5", laws, (2.0, 2.0), "inconclusive"),
    ("K6", curves, (3.0, -3.0), "supported"),
    ("K6", curves, (-3.0, -3.0), "refuted"),
    ("K6", curves, (3.0, 3.0), "refuted"),
    ("K7", quality, (0.019, 0.0139), "supported"),
    ("K7", quality, (0.021, 0.001), "refuted"),
    ("K7", quality, (0.001, 0.0141), "refuted"),
    ("K8", sizes, (0.9, 0.7, 0.8, 0.2), "supported"),
    ("K8", sizes, (0.1, 0.2, 0.15, 0.4), "refuted"),
    ("K8", sizes, (0.5, 0.5, 0.5, 0.5), "refuted"),
    ("K9", sweep, ((0.375, 0.25, 0.375), (0.5, 0.25, 0.75)), "supported"),
    ("K9", sweep, ((0.375, 0.5, 0.375), (0.5, 0.25, 0.75)), "refuted"),  # smaller for the larger model, once
    ("K9", sweep, ((0.0, 0.25, 0.375), (0.5, 0.25, 0.75)), "refuted"),  # no synthetic documents at all
    ("K9", sweep, ((0.375, 0.25, 0.375), (0.5, 1.0, 0.75)), "refuted"),  # nothing else
    ("K10", documents, (-0.4,), "supported"),
    ("K10", documents, (0.4,), "refuted"),
]


@pytest.mark.parametrize(("name", "table", "effects", "verdict"), BOTH_WAYS)
def test_a_claim_comes_out_either_way(name: str, table: Table, effects: tuple[object, ...], verdict: str) -> None:
    claim = CLAIMS[name]
    evidence = EVIDENCE[name](lambda asked: {claim.experiment: table(*effects)}[asked])
    assert decide(claim, evidence, claim.profile).verdict == verdict
    if claim.profile != "smoke":
        assert decide(claim, evidence, "smoke").verdict == "out of reach here"


def test_every_claim_is_here() -> None:
    assert {name for name, *_ in BOTH_WAYS} | {"K11"} == set(CLAIMS)  # K11: the tests of its checks
