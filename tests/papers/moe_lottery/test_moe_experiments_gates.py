"""Gates and controls on made-up tables: what spoils a verdict, and that a claim is decided where nothing does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from orchard.claims import Claim, Verdict, decide, load_claims
from orchard.papers.moe_lottery.experiments import CONTROLS, EVIDENCE, GATES
from orchard.papers.moe_lottery.experiments.gates import ENTROPY, HARM
from orchard.paths import root

Tables = dict[str, pd.DataFrame]
CLAIMS = {claim.id: claim for claim in load_claims(root() / "papers" / "moe_lottery")}
MODELS, WINDOWS, DRAWS = ("a", "b", "c"), 8, 4


def units(gain: float = 0.1, drawn: float = 0.0) -> pd.DataFrame:
    """Losses of windows: iterative is better than one-shot by `gain`, and every second random draw better by `drawn`."""
    noise, rows = np.random.default_rng(0), []
    for seed, model in enumerate(MODELS):
        for s in (37.5, 75.0):
            cells = [
                (c, name, 0, 2.0 - gain * (name == "iterative"))
                for c in ("ean", "ege")
                for name in ("one_shot", "iterative")
            ]
            cells += [("random", "one_shot", draw, 2.0 - drawn * (draw % 2 == 0)) for draw in range(DRAWS)]
            for criterion, strategy, draw, loss in cells:
                rows += [
                    {"model": model, "shape": "x", "seed": seed, "criterion": criterion, "strategy": strategy, "s": s, "draw": draw,
                     "unit": unit, "loss": loss + 0.01 * noise.standard_normal()}
                    for unit in range(WINDOWS)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def competent() -> Tables:
    """Tables of models that use their experts, and of fine-tuning that does no harm."""
    each = [{"model": model, "seed": seed} for seed, model in enumerate(MODELS)]
    costs = [
        {**own, "split": "test", "domain": "all", "layer": 0, "expert": e, "increase": 0.02 * e}
        for own in each
        for e in range(8)
    ]
    losses = {"full": 1.0, "full_tokens": 0.99, "one_shot": 1.5, "lottery": 1.2}
    small = [{**own, "strategy": name, "s": 75.0, "loss": loss} for own in each
             for name, loss in (("small_scratch", 1.2), ("full_tokens", 1.0))]  # fmt: skip
    trials = [{"strategy": name, "steps": 8, "learning_rate": rate, "chosen": rate == 3e-4}
              for name in ("full", "one_shot") for rate in (1e-4, 3e-4, 1e-3)]  # fmt: skip
    after = [
        {**own, "strategy": name, "loss": loss}
        for own in each
        for name in ("one_shot", "lottery")
        for loss in (1.5, 1.3)
    ]
    arms = {("full", "none"): 1.0, ("full", "plain text"): 1.0, ("2:4 magnitude", "none"): 1.2, ("2:4 wanda", "none"): 1.2,
            ("2:4 random", "none"): 1.5}  # fmt: skip
    return {
        "router": pd.DataFrame([{**own, "layer": 0, "entropy": 1.0, "variation": 0.1} for own in each]),
        "leave_one_out": pd.DataFrame(costs), "scratch": pd.DataFrame(small),
        "strategies": pd.DataFrame([{**own, "criterion": "none", "strategy": n, "loss": x} for own in each for n, x in losses.items()]),
        "rates": pd.DataFrame(trials).assign(model="a", schedule="one cosine"), "saturation": pd.DataFrame(after),
        "spearman": pd.DataFrame([{**own, "criterion": "leave_one_out", "layer": 0, "rho": 0.9} for own in each]),
        "sparsity": pd.DataFrame([{**own, "arm": a, "help": h, "loss": x} for own in each for (a, h), x in arms.items()]),
        "capability_rates": pd.DataFrame(trials).assign(family="full, plain text").drop_duplicates("learning_rate"),
        "strategies_units": units(),
    }  # fmt: skip


def spoil(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Tables:
    tables = competent()
    return tables | {name: change(tables[name])}


def worse(column: str, by: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """In the last model `column` is more by so much: every model has to pass."""
    return lambda table: table.assign(**{column: table[column] + by * (table["model"] == MODELS[-1])})


def test_gates_hold_for_models_that_are_competent() -> None:
    tables = competent()
    for name in ("M1", "M3", "M5", "M6", "M8", "M13"):
        holds, words = GATES[name](tables.__getitem__)
        assert holds, words


@pytest.mark.parametrize(
    ("name", "tables", "words"),
    [
        ("M1", spoil("router", worse("entropy", 1.0)), f"router entropy up to 0.96 of an even choice ({ENTROPY:g} allowed)"),
        ("M2", spoil("leave_one_out", lambda t: t.assign(increase=t["increase"] / 10)), "the dearest expert costs 0.014"),
        ("M5", spoil("scratch", lambda t: t.assign(loss=t["loss"].mask(t["strategy"] == "small_scratch", 1.01))), "average 0.010 worse"),
        ("M6", spoil("strategies", lambda t: t.assign(loss=t["loss"].mask(t["strategy"] == "full_tokens", 1.08))),
         f"changes by at most +0.0800 with the same tokens ({HARM:g} allowed)"),
        ("M7", spoil("rates", lambda t: t.assign(chosen=t["learning_rate"] == 1e-3)), "2 of 2 rates on the edge"),
        ("M8", spoil("saturation", lambda t: t.assign(loss=1.5)), "the most tokens repair 0.000"),
        ("M14", spoil("spearman", worse("rho", -0.7)), "leaving one out correlates 0.20 with itself"),
        ("M13", spoil("sparsity", lambda t: t.assign(loss=t["loss"].mask(t["arm"] == "2:4 wanda", 1.6))), "at least -0.100"),
        ("M9", spoil("strategies", lambda t: t.assign(loss=np.nan)), "changes by at most +nan"),
    ],
)  # fmt: skip
def test_a_gate_fails_where_one_number_is_spoiled(name: str, tables: Tables, words: str) -> None:
    holds, found = GATES[name](tables.__getitem__)
    assert not holds
    assert words in found


def verdict(claim: Claim, tables: Tables) -> Verdict:
    get = tables.__getitem__
    control = CONTROLS[claim.id](get)
    return decide(claim, EVIDENCE[claim.id](get), "laptop", lambda: GATES[claim.id](get), control=control)


def test_m5_is_decided_where_gate_and_control_let_it() -> None:
    claim = CLAIMS["M5"]
    assert verdict(claim, competent()).verdict == "supported"
    assert verdict(claim, competent() | {"strategies_units": units(gain=-0.1)}).verdict == "refuted"
    idle = verdict(claim, spoil("router", worse("entropy", 1.0)))
    assert (idle.verdict, "router entropy" in idle.gate) == ("gate not met", True)
    lucky = verdict(claim, competent() | {"strategies_units": units(drawn=0.1)})
    assert (lucky.verdict, "meets the rule as well" in lucky.control) == ("gate not met", True)


def test_every_gate_and_control_is_measured() -> None:
    findings = {name for name, claim in CLAIMS.items() if claim.id != "M15"}
    assert set(GATES) == set(CONTROLS) == findings
    assert all(CLAIMS[name].gate and CLAIMS[name].control for name in findings)
