"""Every claim that measured numbers decide can come out either way, hangs on its gate, and is not supported where its control passes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.claims import Verdict, decide, load_claims
from orchard.papers.sbp.experiments import CONTROLS, EVIDENCE, GATES
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("sbp"))}
CELLS = [(0, seed) for seed in range(6)]


def documents(
    dep: float = -2.0, indep: float = 2.0, random: float = 0.0, uncond: float = 0.0, oracle: float = -4.0
) -> pd.DataFrame:
    """Losses of test documents: a level per document, the gain of each arm over repetition, and a little noise. ``indep``: SBP where
    nothing is shared, where random pairs and samples without a seed are as repetition."""
    draw = np.random.default_rng(0)
    rows = []
    for variant, gains in (("dep", (0.0, oracle, dep, random, uncond)), ("indep", (0.0, oracle, indep, 0.0, 0.0))):
        for world, seed in CELLS:
            level = draw.normal(20, 5, 40)
            for arm, gain in zip(("repetition", "oracle", "sbp-nn-lm", "sbp-random", "uncond"), gains, strict=True):
                loss = level + gain + draw.normal(0, 0.2, 40)
                part = pd.DataFrame({"document": range(40), "best": loss, "last": loss + 1})
                rows.append(part.assign(variant=variant, world=world, seed=seed, arm=arm, charged="without base"))
    return pd.concat(rows, ignore_index=True)


def curves(early: float = 3.0, end: float = -3.0, elsewhere: float = 3.0, first: int = 24) -> pd.DataFrame:
    """SBP minus repetition at one step of 160, at 15 %, and at the end; ``elsewhere``: at the end where nothing is shared."""
    return pd.DataFrame([
        {"variant": variant, "world": world, "seed": seed, "arm": arm, "step": step, "excess": 20 + gap * (arm == "sbp-nn-lm")}
        for variant, last in (("dep", end), ("indep", elsewhere)) for world, seed in CELLS for arm in ("repetition", "sbp-nn-lm")
        for step, gap in ((first, early), (80, 0.5), (160, last))
    ])  # fmt: skip


def partners(
    true: float = 70.0, random: float = 75.0, alone: float = 72.0, exact: float = 60.0, no_pairs: float = 72.0, law_alone: float = 64.0
) -> pd.DataFrame:  # fmt: skip
    """SBP with a true and a random partner, `uncond`, the exact law with and without partner, and pairs that share nothing."""
    own = {
        "sbp-nn-lm": (true, random),
        "sbp-unrelated": (no_pairs, 72.0),
        "uncond": (alone, alone),
        "exact": (exact, 90.0),
    }
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "arm": arm, "true": ends[0] + d, "random": ends[1] + d, "exact_true": exact + d,
         "exact_alone": law_alone + d}
        for seed in (0, 1) for arm, ends in own.items() for d in (-1.0, 1.0)
    ])  # fmt: skip


def laws(own: float = 1.0, alone: float = 3.0, no_pairs: float = 3.0) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "document": d, "arm": arm, "kl": value + random.normal(0, 0.1)}
        for seed in range(3) for d in range(20) for arm, value in (("sbp-nn-lm", own), ("uncond", alone), ("sbp-unrelated", no_pairs))
    ])  # fmt: skip


def quality(copying: float = 0.019, repeats: float = 0.0139, copies: float = 0.9) -> pd.DataFrame:
    """Upper ends of the intervals of raw samples, and of what must be found; what the filter leaves decides nothing."""
    highs = {"sbp-nn-lm": (copying, repeats), "real": (0.5, 0.5), "copies of the seed": (copies, copies)}
    rows = [
        {"variant": "dep", "world": 0, "seed": seed, "source": source, "state": "raw", "metric": metric, "rate": 0.004, "high": high}
        for seed in (0, 1) for source, ends in highs.items() for metric, high in zip(("pair-copying", "duplicate"), ends, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows + [row | {"state": "kept", "high": 0.0} for row in rows])


def sizes(
    *rates: float, possible: float = 0.8, flops: float = 10.0, real: tuple[float, ...] = (0.1, 0.3, 0.2, 0.4)
) -> pd.DataFrame:
    return pd.DataFrame([
        {"variant": "dep", "world": 0, "seed": seed, "metric": metric, "flops": 10.0 + flops * place, "rate": value, "real": control,
         "possible": possible}
        for seed in range(3) for metric in ("non-factual", "pair-irrelevance")
        for place, (value, control) in enumerate(zip(rates or (0.9, 0.7, 0.8, 0.2), real, strict=True))
    ])  # fmt: skip


def sweep(
    smaller: tuple[float, ...] = (0.375, 0.25, 0.375), larger: tuple[float, ...] = (0.5, 0.25, 0.75), law: float = 1.0,
    possible: float = 0.8
) -> pd.DataFrame:  # fmt: skip
    """A parabola of losses with its minimum at the given share, for each size and seed; ``law``: the same with documents of the world."""
    best = {("sbp-nn-lm", "smaller"): smaller, ("sbp-nn-lm", "larger"): larger}
    best |= {("exact-posterior", size): (law,) for size in ("smaller", "larger")}
    return pd.DataFrame([
        {"world": 0, "seed": seed, "arm": arm, "size": size, "share": share, "best": 20 + (share - at) ** 2, "possible": possible}
        for (arm, size), minima in best.items() for seed, at in enumerate(minima) for share in (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)
    ])  # fmt: skip


def stages(dep: float = 80.0, indep: float = 80.0) -> pd.DataFrame:
    return pd.DataFrame([
        {"variant": variant, "world": 0, "seed": seed, "arm": "sbp-nn-lm", "possible (%)": share + seed}
        for variant, share in (("dep", dep), ("indep", indep)) for seed in (0, 1)
    ])  # fmt: skip


def tuning(edge: str = "") -> pd.DataFrame:
    rows = [
        {"variant": "dep", "arm": arm, "chosen": True, "edge": arm == edge}
        for arm in ("repetition", "oracle", "sbp-nn-lm")
    ]
    return pd.DataFrame([*rows, *({**row, "chosen": False, "edge": True} for row in rows)])


GOOD: dict[str, Any] = {
    "documents": documents, "flop_matched": documents, "curves": curves, "partners": partners, "concept_law": laws, "quality": quality,
    "quality_by_size": sizes, "share_sweep": sweep, "stages": stages, "tuning": tuning,
}  # fmt: skip


def judged(name: str, profile: str = "laptop", **changed: pd.DataFrame) -> Verdict:
    """The verdict on a claim from good tables, some of them changed."""

    def tables(asked: str) -> pd.DataFrame:
        return changed[asked] if asked in changed else GOOD[asked]()

    gate, control = partial(GATES[name], tables), CONTROLS[name](tables)
    return decide(CLAIMS[name], EVIDENCE[name](tables), profile, gate, control=control)


BOTH_WAYS: list[tuple[str, pd.DataFrame, str]] = [
    ("K1", documents(), "supported"),
    ("K1", documents(0.0), "inconclusive"),
    ("K1", documents(2.0), "refuted"),
    ("K2", documents(-3.0), "supported"),
    ("K2", documents(-1.0), "refuted"),
    ("K3", documents(-2.0, 0.0), "supported"),
    ("K3", documents(-2.0, -2.0), "inconclusive"),
    ("K3", documents(-2.0, 6.0, random=-4.0), "refuted"),
    ("K3b", documents(-2.0, 0.0), "supported"),
    ("K3b", documents(-2.0, -2.0), "refuted"),
    ("K4", partners(), "supported"),
    ("K4", partners(75.0, 70.0), "refuted"),
    ("K4", partners(alone=69.0), "refuted"),  # a partner that is worse than none
    ("K4b", partners(), "supported"),
    ("K4b", partners(exact=71.0, law_alone=73.0), "refuted"),
    ("K5", laws(), "supported"),
    ("K5", laws(3.0, 1.0), "refuted"),
    ("K5", laws(2.0, 2.0), "inconclusive"),
    ("K6", curves(), "supported"),
    ("K6", curves(-3.0, -3.0), "refuted"),
    ("K6", curves(3.0, 3.0), "refuted"),
    ("K7", quality(), "supported"),
    ("K7", quality(0.021, 0.001), "refuted"),
    ("K7", quality(0.001, 0.0141), "refuted"),
    ("K8", sizes(), "supported"),
    ("K8", sizes(0.1, 0.2, 0.15, 0.4), "refuted"),
    ("K8", sizes(0.5, 0.5, 0.5, 0.5), "refuted"),
    ("K9", sweep(), "supported"),
    ("K9", sweep((0.375, 0.5, 0.375)), "refuted"),  # smaller for the larger model, once
    ("K9", sweep((0.0, 0.25, 0.375)), "refuted"),  # no synthetic documents at all
    ("K9", sweep(larger=(0.5, 1.0, 0.75)), "refuted"),  # nothing else
    ("K10", documents(-0.4), "supported"),
    ("K10", documents(0.4), "refuted"),
]


@pytest.mark.parametrize(("name", "table", "verdict"), BOTH_WAYS)
def test_a_claim_comes_out_either_way(name: str, table: pd.DataFrame, verdict: str) -> None:
    found = judged(name, **{CLAIMS[name].experiment: table})
    assert found.verdict == verdict
    assert judged(name, "smoke", **{CLAIMS[name].experiment: table}).verdict == "out of reach here"


NOTHING = stages(40.0, 40.0)
GATED: list[tuple[str, dict[str, pd.DataFrame], str]] = [
    *((name, {"stages": NOTHING}, "40 % are possible") for name in ("K1", "K2", "K3", "K3b", "K4", "K4b", "K5", "K6", "K7", "K10")),
    ("K1", {"tuning": tuning("repetition")}, "repetition at an edge"),
    ("K2", {"documents": documents(-0.3, oracle=-0.4)}, "1 needed"),
    ("K3", {"documents": documents(1.0, 6.0, random=3.0)}, "against repetition"),  # pairs gain, and repetition is better still
    ("K3", {"documents": documents(-1.0, 4.0, uncond=-2.0)}, "against uncond"),
    ("K6", {"curves": curves(first=40)}, "25.0% of the training"),
    ("K8", {"quality_by_size": sizes(flops=5.0)}, "2.5 times the smallest"),
    ("K8", {"quality_by_size": sizes(possible=0.3)}, "30 % are possible"),
    ("K9", {"share_sweep": sweep(possible=0.3)}, "30 % are possible"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changed", "words"), GATED)
def test_a_gate_that_fails_leaves_no_verdict(name: str, changed: dict[str, pd.DataFrame], words: str) -> None:
    found = judged(name, **changed)
    assert found.verdict == "gate not met"
    assert words in found.gate


CONTROLLED: list[tuple[str, pd.DataFrame]] = [
    ("K1", documents(-2.0, -2.0)),
    ("K2", documents(-3.0, -3.0)),
    ("K3", documents(-2.0, 2.0, random=3.0)),  # random pairs do harm: samples without a seed beat them as well
    ("K3b", documents(0.0, 0.0)),
    ("K4", partners(no_pairs=71.0)),
    ("K4b", partners(law_alone=60.0)),
    ("K5", laws(no_pairs=1.0)),
    ("K6", curves(elsewhere=-3.0)),
    ("K7", quality(copies=0.001)),
    ("K8", sizes(real=(0.4, 0.3, 0.2, 0.1))),
    ("K9", sweep(law=0.5)),
    ("K10", documents(-0.4, random=-0.4)),
]


@pytest.mark.parametrize(("name", "table"), CONTROLLED)
def test_a_claim_whose_control_passes_is_not_supported(name: str, table: pd.DataFrame) -> None:
    found = judged(name, **{CLAIMS[name].experiment: table})
    assert found.verdict == "gate not met"
    assert "meets the rule as well" in found.control


def test_every_claim_is_here() -> None:
    names = {name for name, *_ in BOTH_WAYS}
    assert names | {"K11"} == set(CLAIMS)  # K11, what holds by definition: the tests of its checks
    assert names == {name for name, *_ in GATED} == {name for name, _ in CONTROLLED} == set(CONTROLS) == set(GATES)
