"""Gates and controls on made-up tables: a broken gate or a control that passes as well leaves no verdict, else the rule decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest

from orchard.claims import Verdict, decide, load_claims
from orchard.papers.rattention.experiments import CONTROLS, EVIDENCE, GATES
from orchard.series import papers_folder

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("rattention"))}
TEXT = (
    "full_rope",
    "swa@8",
    "swa@16",
    "swa@32",
    "rattn@8",
    "rattn@16",
    "rattn@32",
    "swa_mem@8",
    "swa_mem@16",
    "swa_mem@32",
)
STRATA = ("none", "1–8", "9–16", "17–32", "33–128")
Tables = dict[str, pd.DataFrame]


def verdict(claim: str, tables: Tables) -> Verdict:
    gate = partial(GATES[claim], tables.__getitem__)
    evidence, control = (found[claim](tables.__getitem__) for found in (EVIDENCE, CONTROLS))
    return decide(CLAIMS[claim], evidence, CLAIMS[claim].profile, gate, "made up", control)


def noise(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.assign(**{column: table[column] + np.random.default_rng(0).normal(0, 0.02, len(table))})


def tuning(names: tuple[str, ...], by: str, best: int = 1) -> pd.DataFrame:
    """Grids of three rates whose lowest loss is the ``best``-th."""
    rows = [(name, rate, 1.0 + (place != best)) for name in names for place, rate in enumerate((1e-3, 2e-3, 4e-3))]
    return pd.DataFrame(rows, columns=[by, "learning_rate", "validation_loss"])


def text(
    far: float = 0.5,
    near: float = 0.0,
    everywhere: float = 0.0,
    full_far: float = 0.5,
    full: float = 1.7,
    edge: bool = False,
) -> Tables:
    """T = 128; RAttention gains ``far`` and ``near`` its window, and ``everywhere``; full attention ``full_far`` beyond T/4."""
    rows = []
    for arm in TEXT:
        window = int(arm.partition("@")[2] or 128)
        for stratum in STRATA:
            low = int(stratum.split("–")[0]) if stratum != "none" else 0
            gain = 0.0 if stratum == "none" else far if low > window else near
            gain = (
                gain + everywhere
                if arm.startswith("rattn")
                else full_far * (arm == "full_rope" and stratum == "33–128")
            )
            rows += [
                {"arm": arm, "seed": s, "unit": u, "stratum": stratum, "bytes": 10, "bits": full - gain}
                for s in range(5)
                for u in range(12)
            ]
    units = noise(pd.DataFrame(rows), "bits")
    units["nats"] = units["bits"] * units["bytes"] * np.log(2)
    sweep = pd.DataFrame({"arm": ["full_rope", "rattn@16"], "bits_per_byte": [full, full]})
    return {"window_sweep_units": units, "window_sweep": sweep, "tuning": tuning(TEXT, "arm", best=0 if edge else 1)}


def recall(
    rattn: float = 0.95, full: float = 1.0, also_global: float = 0.95, near: float = 1.0, edge: bool = False
) -> Tables:
    far = {"full_rope": full, "rattn@8": rattn, "swa@8": 0.05, "swa_mem@8": 0.05, "rattn@8+global": 0.95}
    far |= dict.fromkeys(("swa@8+global", "swa_mem@8+global"), also_global)
    rows = [
        {"arm": arm, "seed": seed, "example": i, "filler": filler, "far": share, "near": near}
        for arm, share in far.items() for seed in range(3) for i in range(12) for filler in (96, 128)
    ]  # fmt: skip
    table = noise(noise(pd.DataFrame(rows), "far"), "near")
    return {"recall_decisive": table, "recall_tuning": tuning(tuple(far), "arm", best=2 if edge else 1)}


def ruler(
    at_length: float = 0.0, full: float = 0.9, swa: float = 0.6, small: float = 0.0, slope: float = -0.1, slope_at_length: float = 0.0,
    edge: bool = False,
) -> Tables:  # fmt: skip
    """T = 128. At 4T RAttention leads full attention by 0.5; ``at_length`` is its lead at T, ``small`` what swa@16 gains on swa@64 at 4T;
    accuracy changes by ``slope`` with every doubling of RAttention's window at 4T and 8T."""
    arms = {
        "full_rope": full,
        "full_rnope": full,
        "swa@64": full,
        "swa@16": swa,
        "swa_mem@16": swa,
        "rattn@8": 0.9,
        "rattn@16": 0.9,
        "rattn@32": 0.9,
    }
    units, random = [], np.random.default_rng(0)
    for arm, at_t in arms.items():
        place = np.log2(float(arm.partition("@")[2]) / 16) if arm.startswith("rattn") else 0.0
        for multiple in (1, 4, 8):
            mean = at_t + (at_length + slope_at_length * place) * arm.startswith("rattn")
            if multiple > 1:
                mean = (
                    0.7 + slope * place if arm.startswith("rattn") else 0.2 + small * (arm in ("swa@16", "swa_mem@16"))
                )
            units += [
                {"arm": arm, "family": arm.split("@")[0], "window": float(arm.partition("@")[2] or "nan"), "seed": seed, "task": task,
                 "ruler": True, "multiple": multiple, "length": 128 * multiple, "example": i, "correct": mean + random.normal(0, 0.02)}
                for seed in range(3) for task in ("niah_single_2", "niah_multikey_1", "fwe") for i in range(8)
            ]  # fmt: skip
    table = pd.DataFrame(units)
    keys = ["arm", "family", "window", "seed", "task", "ruler", "multiple", "length"]
    means = table.groupby(keys, dropna=False)["correct"].mean().rename("accuracy").reset_index()
    return {"ruler_units": table, "ruler": means, "ruler_tuning": tuning(tuple(arms), "arm", best=2 if edge else 1)}


def ablation(worse: float = 0.3, placebo: float = 0.0, base: float = 2.3, edge: bool = False) -> Tables:
    names = {"base": 0.0, "identity": worse, "−SWA": worse, "−norm": worse, "head split": worse, "placebo": placebo}
    rows = [
        {"variant": name, "seed": seed, "unit": unit, "stratum": "none", "bytes": 10, "bits": base + more}
        for name, more in names.items() for seed in range(3) for unit in range(20)
    ]  # fmt: skip
    units = noise(pd.DataFrame(rows), "bits")
    units["nats"] = units["bits"] * units["bytes"] * np.log(2)
    found = pd.DataFrame({"variant": list(names), "bits_per_byte": base})
    return {
        "ablation_units": units,
        "ablation": found,
        "ablation_tuning": tuning(tuple(names), "variant", best=0 if edge else 1),
    }


def steps(ours: float = 1.0, full: float = 1.5, device: str = "cuda", spread: float = 0.01) -> Tables:
    """20 rounds at 4k and 8k in which swa@T/2 takes a millisecond; and 50 pairs of a tile that is 10 % faster than its base."""
    rows, random = [], np.random.default_rng(0)
    for length in (4096, 8192):
        times = {f"swa@{length // 2}": 1.0, f"rattn@{length // 8}": ours, "full_rope": full}
        for i in range(20):
            shared = 1 + random.normal(0, spread)
            rows += [
                ("step", name, length, i, ms * shared + random.normal(0, 1e-3), device) for name, ms in times.items()
            ]
    for i in range(50):
        rows += [
            ("tile pair", name, 8192, i, ms + random.normal(0, 1e-3), device)
            for name, ms in (("best", 0.9), ("base", 1.0))
        ]
    return {"throughput": pd.DataFrame(rows, columns=["measurement", "name", "length", "round", "ms", "device"])}


Made = Callable[..., Tables]
SUPPORTED: dict[str, tuple[Made, dict[str, float]]] = {
    "C7": (text, {}), "C7b": (text, {}),
    "C8": (text, {}), "C7r": (recall, {}),
    "C7br": (recall, {}),
    "C9": (ruler, {}),
    "C10": (ruler, {}), "C11": (ruler, {}),
    "C12": (ablation, {}), "C13": (ablation, {}),
    "C14": (steps, {}), "C15": (steps, {}),
}  # fmt: skip


@pytest.mark.parametrize("claim", list(SUPPORTED))
def test_the_rule_decides_where_gate_and_control_do_not_object(claim: str) -> None:
    make, changes = SUPPORTED[claim]
    found = verdict(claim, make(**changes))
    assert found.verdict == "supported", found.reason
    assert found.gate
    assert "fails it" in found.control


REFUTED = {
    "C7": {"far": -0.5, "near": -0.5}, "C7b": {"far": -0.5, "near": -0.5}, "C7r": {"rattn": 0.1},
    "C7br": {"rattn": 0.1},
    "C8": {"everywhere": -0.4},
    "C11": {"slope": 0.1},
    "C12": {"worse": -0.3}, "C13": {"worse": -0.3},
    "C14": {"ours": 1.3},
}  # fmt: skip


@pytest.mark.parametrize("claim", list(REFUTED))
def test_a_claim_can_be_refuted(claim: str) -> None:
    found = verdict(claim, SUPPORTED[claim][0](**REFUTED[claim]))
    assert found.verdict == "refuted", found.reason


BROKEN: list[tuple[str, dict[str, object], str]] = [
    *((claim, {"edge": True}, "on the edge of its grid") for claim in SUPPORTED if claim not in ("C14", "C15")),
    ("C7r", {"full": 0.7}, "recalls 0.7"),
    ("C7br", {"near": 0.5}, "0.9 needed"),
    ("C8", {"full": 2.4}, "needs 2.4"),
    ("C9", {"full": 0.6}, "full_rope answers 0.60 at T"),
    ("C10", {"swa": 0.3}, "swa@16 answers 0.30 at T"),
    ("C12", {"base": 3.0}, "needs 3.0"),
    ("C14", {"device": "cpu"}, "timed on cpu"),
    ("C14", {"spread": 0.3}, "10% at most"),
]


@pytest.mark.parametrize(("claim", "changes", "said"), BROKEN)
def test_a_broken_gate_leaves_no_verdict(claim: str, changes: dict[str, object], said: str) -> None:
    make, normal = SUPPORTED[claim]
    found = verdict(claim, make(**normal | changes))
    assert found.verdict == "gate not met", found.reason
    assert said in found.gate


PASSING = {
    **{claim: {"also_global": 0.2} for claim in ("C7r", "C7br")},
    "C7": {"near": 0.3}, "C7b": {"near": 0.3},
    "C8": {"full_far": 0.0},
    "C9": {"full": 0.85, "at_length": 0.2},
    "C10": {"small": 0.2}, "C11": {"slope_at_length": -0.05},
    "C12": {"placebo": 0.2}, "C13": {"placebo": 0.2},
    "C14": {"full": 1.02},
}  # fmt: skip


@pytest.mark.parametrize("claim", list(PASSING))
def test_a_control_that_passes_as_well_leaves_no_verdict(claim: str) -> None:
    make, normal = SUPPORTED[claim]
    found = verdict(claim, make(**normal | PASSING[claim]))
    assert found.verdict == "gate not met", found.reason
    assert "meets the rule as well" in found.control
