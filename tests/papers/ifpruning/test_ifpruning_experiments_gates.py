"""Every claim on tables made by hand: it can come out either way, its gate can fail, and its control can meet the rule as well."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.papers.ifpruning.experiments import CONTROLS, EVIDENCE, GATES
from orchard.papers.ifpruning.experiments.arms import EPSILON, MULTIPLIERS
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("ifpruning"))}
SEEDS, QUESTIONS = (1, 2, 3), 60
DOMAINS = ("A1", "A2", "A3", "A4", "B1", "B2", "B3", "B4")
SHARES: dict[tuple[str, str, str], float] = {  # right answers by variant, arm and evaluation: a world in which every claim holds
    ("win", "dense_k", "test"): 0.6, ("win", "dense_k_long", "test"): 0.62, ("win", "dense_D", "test"): 0.97,
    ("win", "dense_k_sft_only", "test"): 0.6, ("win", "dense_k_sft_short", "test"): 0.6, ("win", "static", "test"): 0.65,
    ("win", "static_kd", "test"): 0.65, ("win", "ifp", "test"): 0.93, ("win", "ifp", "task"): 0.93, ("win", "ifp", "swapped"): 0.3,
    ("win", "hard_concrete", "test"): 0.93,
    ("win", "ifp_sft_only", "test"): 0.85, ("win", "ifp_sft_short", "test"): 0.8, ("win", "rand_mask", "test"): 0.9,
    ("null", "dense_k", "test"): 0.7, ("null", "dense_k_long", "test"): 0.7, ("null", "static_kd", "test"): 0.7,
    ("null", "ifp", "test"): 0.7, ("null", "ifp", "swapped"): 0.7, ("kin", "ifp", "test"): 0.9, ("kin", "ifp", "mixed"): 0.9,
    ("kin", "rand_lsh", "test"): 0.7, ("kin", "rand_lsh", "mixed"): 0.7, ("kin", "rand_mask", "test"): 0.9,
    ("kin", "rand_mask", "mixed"): 0.6,
}  # fmt: skip
TUNED = (
    "dense_k",
    "dense_k_long",
    "dense_D",
    "static_kd",
    "rand_lsh",
    "ifp_sft_only",
    "hard_concrete",
    EPSILON,
    MULTIPLIERS,
)


def answers(shares: dict[tuple[str, str, str], float]) -> pd.DataFrame:
    tables = []
    for (variant, arm, evaluation), share in shares.items():
        for seed in SEEDS:
            right = np.roll(np.arange(QUESTIONS) < round(share * QUESTIONS), 7 * seed).astype(float)
            table = pd.DataFrame({"question": np.arange(QUESTIONS), "domain": 0, "right": right})
            tables.append(table.assign(variant=variant, seed=seed, arm=arm, evaluation=evaluation))
    return pd.concat(tables, ignore_index=True)


def overlaps(related: float, other: float, first_layer: float, random: float, random_first: float) -> pd.DataFrame:
    """Two layers of ifp, all pairs alike in the first, and of random masks, whose groups mean nothing."""
    rows = []
    for arm, seed, layer, row, column in itertools.product(("ifp", "rand_mask"), SEEDS, (1, 2), DOMAINS, DOMAINS):
        kin = row[0] == column[0]
        value = first_layer if layer == 1 else related if kin else other
        if arm == "rand_mask":
            value = random_first if layer == 1 else random
        noise = 0.01 * np.cos(17 * seed + sum(ord(c) ** 2 for c in row + column))
        rows.append({"seed": seed, "arm": arm, "layer": layer, "row": row, "column": column, "row_block": row[0],
                     "column_block": column[0], "overlap": value + noise, "chance": 0.25})  # fmt: skip
    return pd.DataFrame(rows)


def latency(**seconds: float) -> pd.DataFrame:
    parts = {
        "ifp select": 0.1, "ifp load": 0.05, "ifp prefill": 1.0, "ifp decode": 5.0, "dense_k prefill": 1.0, "dense_k decode": 5.0,
        "dense_D prefill": 3.0, "ifp_masked prefill": 3.0, "ifp_masked decode": 12.0, "moe decode": 9.0, "ifp_copied load": 0.7,
    } | {name.replace("__", " "): value for name, value in seconds.items()}  # fmt: skip
    rows = [
        dict(zip(("model", "part"), name.split(), strict=True)) | {"round": turn, "seconds": value * (1 + 0.01 * (turn % 5))}
        for name, value in parts.items() for turn in range(20)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(device="cpu", hardware="a machine")


def whole(shares: dict[tuple[str, str, str], float] | None = None, **changed: Any) -> dict[str, pd.DataFrame]:
    """All tables that claims read. ``changed``: a table of another kind, or how it is made."""
    right = SHARES | (shares or {})
    mean = pd.Series(right).unstack().rename_axis(["variant", "arm"]).reset_index()
    gauge = {"across": 0.3, "within": 0.95, "union": 0.8, "chance": 0.25, "bits": 22000.0, "active_parameters": 14000.0}
    arms = pd.concat([mean.assign(seed=seed) for seed in SEEDS], ignore_index=True).assign(**gauge)
    grid = itertools.product(TUNED, ((0.1, 0.5), (0.3, 0.9), (1.0, 0.5)))
    rates = [
        {"family": family, "value": value, "score": score, "chosen": score == 0.9} for family, (value, score) in grid
    ]
    sizes = [
        {"line": "IFP", "D": 32 * d, "score": 10 * d + seed, "swapped": 40 - 3 * d + seed, "seed": seed}
        for d in (2, 3, 4, 6)
        for seed in SEEDS
    ]
    spread = pd.DataFrame(
        {
            "within": np.linspace(0.5, 1, 16),
            "right": np.linspace(0.4, 0.9, 16),
            "across": np.tile([0.2, 0.9], 8),
            "seed": 1,
        }
    )
    found = {
        "answers": answers(right), "arms": arms, "rates": pd.DataFrame(rates), "source_sizes": pd.DataFrame(sizes),
        "mask_overlaps": overlaps(0.7, 0.4, 0.9, 0.25, 0.25), "initial_spread": spread, "latency": latency(),
        "collapse": pd.DataFrame([{"arm": "ifp_unread", "seed": 1, "across": 1.0, "union": 0.25, "chance": 0.25}]),
    }  # fmt: skip
    return found | {name: change(found[name]) if callable(change) else change for name, change in changed.items()}


def verdict(name: str, tables: dict[str, pd.DataFrame]) -> Any:
    claim, get = CLAIMS[name], lambda table: tables[table].copy()
    return decide(claim, EVIDENCE[name](get), claim.profile, lambda: GATES[name](get), "", CONTROLS[name](get))


def win(evaluation: str = "test", variant: str = "win", **shares: float) -> dict[str, pd.DataFrame]:
    return whole({(variant, arm, evaluation): share for arm, share in shares.items()})


def on_edge(family: str) -> dict[str, pd.DataFrame]:
    """The best of a family lies on the edge of its grid."""
    return whole(rates=lambda t: t.assign(chosen=np.where(t["family"] == family, t["value"] == 1.0, t["chosen"])))


def arms(**columns: float) -> dict[str, pd.DataFrame]:
    return whole(arms=lambda t: t.assign(**columns))


OTHERWISE = {  # of every claim, tables on which it is refuted, or at least not supported
    "C1": win(ifp=0.4), "C1s": win(ifp=0.63), "C1f": win(ifp=0.4), "C1n": win(variant="null", ifp=0.95), "C2": win(ifp=0.4),
    "C2s": whole({("kin", "ifp", name): 0.4 for name in ("test", "mixed")}), "C3": win(ifp=0.7),
    "C4": whole(source_sizes=lambda t: t.assign(score=-t["score"])), "C5": win("task", ifp=0.6), "C8": win(ifp=0.6),
    "C6a": whole(mask_overlaps=overlaps(0.44, 0.4, 0.9, 0.25, 0.25)), "C6a2": whole(mask_overlaps=overlaps(0.7, 0.2, 0.9, 0.25, 0.25)),
    "C6b": whole(mask_overlaps=overlaps(0.5, 0.4, 0.3, 0.25, 0.25)), "C6c": arms(across=0.95), "C6d": win("swapped", ifp=0.9),
    "C7": whole(latency=latency(ifp__select=0.9)), "C7b": whole(latency=latency(ifp__decode=8.0)),
    "C9": whole(latency=latency(moe__decode=3.0)),
    "C10": win(hard_concrete=0.8),
    "C11": whole(initial_spread=lambda t: t.assign(right=-t["right"])), "C11b": whole(initial_spread=lambda t: t.assign(right=-t["right"])),
}  # fmt: skip
CLOSED = [  # a gate that does not hold, while the rule is met
    *((name, arms(bits=9000.0)) for name in ("C1", "C1s", "C1f", "C1n", "C2", "C2s", "C3", "C4")),
    *((name, win(dense_D=0.85)) for name in ("C1", "C1s", "C1f", "C2", "C3")),
    ("C1", win(dense_k=0.98)),
    *((name, win(dense_k_long=0.85)) for name in ("C1", "C1f", "C2")), ("C1", on_edge("dense_k")), ("C1f", on_edge("dense_k_long")),
    ("C1n", win(variant="null", ifp=1.0, dense_k=1.0)), ("C2", win(static=0.55)), ("C2", win(static_kd=0.55)), ("C2", on_edge(EPSILON)),
    ("C2s", whole({("kin", "rand_lsh", "test"): 0.4})), ("C2s", arms(across=0.95)), ("C3", on_edge("dense_D")), ("C4", arms(across=0.95)),
    *((name, arms(across=0.95)) for name in ("C5", "C6a", "C6a2", "C6b")), *((name, win("swapped", ifp=0.9)) for name in ("C5", "C6a")),
    ("C6c", win(ifp=0.4)), ("C6d", win(ifp=0.45)), ("C8", win(ifp_sft_short=0.4)), ("C8", on_edge("ifp_sft_only")),
    *((name, whole(latency=lambda t: t[t["round"] < 10])) for name in ("C7", "C7b", "C9")),
    ("C10", on_edge(MULTIPLIERS)), ("C10", arms(across=0.95)),
    *((name, whole(initial_spread=lambda t: t[:8])) for name in ("C11", "C11b")),
]  # fmt: skip
AS_WELL = {  # of every claim, tables on which its control meets the rule as well
    "C1": win(variant="null", ifp=0.9), "C1s": win(variant="null", ifp=0.9), "C1f": win(variant="null", ifp=0.9),
    "C1n": win(ifp=0.6), "C2": win(variant="null", ifp=0.9), "C2s": whole({("kin", "rand_mask", "mixed"): 0.9}),
    "C3": win(static_kd=0.9), "C4": whole(source_sizes=lambda t: t.assign(swapped=t["score"])), "C5": None,
    "C6a": whole(mask_overlaps=lambda t: t.assign(overlap=np.where(t["row_block"] == t["column_block"], 0.7, 0.4))),
    "C6a2": whole(mask_overlaps=overlaps(0.7, 0.4, 0.9, 0.4, 0.9)), "C6b": whole(mask_overlaps=overlaps(0.7, 0.4, 0.9, 0.4, 0.9)),
    "C6c": whole(collapse=lambda t: t.assign(across=0.3, union=0.8)), "C6d": win("swapped", "null", ifp=0.3),
    "C7": whole(latency=latency(ifp_copied__load=0.06)), "C7b": whole(latency=latency(ifp_masked__decode=5.0)),
    "C8": win(dense_k=0.62, dense_k_sft_only=0.4, dense_k_sft_short=0.4), "C9": whole(latency=latency(dense_k__decode=6.0)),
    "C10": win(static=0.93), "C11": whole(initial_spread=lambda t: t.assign(across=t["within"])),
    "C11b": whole(initial_spread=lambda t: t.assign(across=t["within"])),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_a_claim_holds_and_can_come_out_otherwise(name: str) -> None:
    found = verdict(name, whole())
    assert found.verdict == "supported", found.reason
    assert "fails it" in found.control
    assert verdict(name, OTHERWISE[name]).verdict in ("refuted", "inconclusive", "gate not met")
    measured = EVIDENCE[name](lambda table: OTHERWISE[name][table].copy())
    bare = decide(CLAIMS[name], measured, CLAIMS[name].profile, lambda: (True, ""), "", measured)
    assert bare.verdict == "refuted", bare.reason


@pytest.mark.parametrize(("name", "tables"), CLOSED, ids=[name for name, _ in CLOSED])
def test_a_gate_that_does_not_hold_gives_no_verdict(name: str, tables: dict[str, pd.DataFrame]) -> None:
    holds, said = GATES[name](lambda table: tables[table].copy())
    assert not holds, said
    assert verdict(name, tables).verdict == "gate not met"


@pytest.mark.parametrize("name", [name for name, tables in AS_WELL.items() if tables])
def test_a_control_that_meets_the_rule_as_well_gives_no_support(name: str) -> None:
    found = verdict(name, AS_WELL[name])
    assert "meets the rule as well" in found.control, found.control
    assert found.verdict == "gate not met"


def test_every_finding_of_the_paper_has_a_gate_and_a_control() -> None:
    empirical = {name for name, claim in CLAIMS.items() if name.startswith("C")}
    assert empirical == set(GATES) == set(CONTROLS) == set(OTHERWISE) == set(AS_WELL) == {name for name, _ in CLOSED}


def test_the_control_of_c5_is_what_its_gate_excludes() -> None:
    """Masks of another domain that change nothing would meet the rule; the gate asks for the opposite."""
    tables = win("swapped", ifp=0.93)
    found = verdict("C5", tables)
    assert "meets the rule as well" in found.control
    assert found.verdict == "gate not met"


def test_related_domains_are_told_by_a_permutation_of_all_seeds_and_every_pair_counts_once() -> None:
    table = whole()["mask_overlaps"]
    found = EVIDENCE["C6a"](lambda _: table)
    assert found["seed"].tolist() == list(SEEDS)
    assert found["value"].nunique() == 1
    assert found["value"].iloc[0] < 0.001
    assert len(EVIDENCE["C6a2"](lambda _: table)) == len(SEEDS) * 16  # four domains with four others
    assert len(EVIDENCE["C6b"](lambda _: table)) == len(SEEDS) * 28
