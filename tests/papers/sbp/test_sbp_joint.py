"""The comparison: what is tuned, that arms differ in what they read alone, and that every claim can come out either way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.papers.sbp.experiments import comparison as joint
from orchard.papers.sbp.experiments import regularisation as regular
from orchard.papers.sbp.experiments.arms import ARMS, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Regular, cells
from orchard.papers.sbp.figures.training import against, recovery
from orchard.runs import Run, Setting
from orchard.series import papers_folder

SMOKE = Setting("smoke")
CELL = Cell("dep", 0, 0)
CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("sbp"))}


class _Done:
    def __init__(self, loss: float) -> None:
        end = {"loss": loss, "validation_loss": loss, "step": 1}
        self.result = {"best": end, "last": end}


def test_stages_of_tuning_keep_the_best_of_the_one_before() -> None:
    asked: list[Regular] = []

    def run(cfgs: Sequence[Run.Config]) -> list[Any]:
        found = []
        for cfg in cfgs:
            assert hasattr(cfg, "optim")
            regular_of = Regular(cfg.optim.weight_decay, cfg.model.layers[0].dropout, cfg.optim.learning_rate)
            asked.append(regular_of)
            best = Regular(4.0, 0.2, 8e-3)  # in both grids
            found.append(
                _Done(
                    sum(
                        abs(np.log((a + 1e-9) / (b + 1e-9)))
                        for a, b in zip(_values(regular_of), _values(best), strict=True)
                    )
                )
            )
        return found

    repetition, oracle = regular.tuned(SMOKE, run, ["dep"])["dep"]
    assert repetition == Regular(4.0, 0.2, 8e-3)
    assert oracle.weight_decay == 4.0
    assert oracle.learning_rate == 8e-3
    assert oracle.dropout == PROFILES["smoke"].oracle_start.dropout  # the oracle repeats nothing
    assert len(asked) < 2 * 3 * 2 * 3  # stages, not a grid


def _values(regular_of: Regular) -> tuple[float, float, float]:
    return regular_of.weight_decay, regular_of.dropout, regular_of.learning_rate


def test_arms_differ_in_their_mixture_alone() -> None:
    chosen = study(SMOKE, CELL, PROFILES["smoke"].start)
    arms = {name: chosen.arm(name) for name in ARMS}
    for cfg in arms.values():
        assert (cfg.seed, cfg.optim, cfg.model) == (0, arms["repetition"].optim, arms["repetition"].model)
        assert (cfg.mix.budget, cfg.mix.steps) == (chosen.budget, chosen.steps)
    assert len({cfg.fingerprint() for cfg in arms.values()}) == len(ARMS)
    assert chosen.arm("sbp-nn-lm", share=0.0).fingerprint() == chosen.repetition().fingerprint()


def test_a_synthesizer_starts_from_the_repetition_model_and_the_joint_model_from_nothing() -> None:
    chosen = study(SMOKE, CELL, PROFILES["smoke"].start)
    sampled: Any = chosen.sampled("sbp-nn-lm")
    assert sampled.tuned.pretrained.fingerprint() == chosen.repetition().fingerprint()
    assert not sampled.tuned.scratch
    assert {name for name in chosen.arm("sbp-nn-lm").to_dict() if "pretrained" in name} == set()


def table(gains: dict[str, float], variant: str = "dep", seeds: int = 6, documents: int = 40) -> pd.DataFrame:
    """Per-document losses: the arm's mean, a level per document, and a little noise of its own."""
    random = np.random.default_rng(len(variant))
    rows = []
    for seed in range(seeds):
        level = random.normal(20, 5, documents)
        for arm, gain in gains.items():
            loss = level + gain + random.normal(0, 0.2, documents)
            rows.append(
                pd.DataFrame({"document": range(documents), "best": loss, "last": loss + 1}).assign(arm=arm, seed=seed)
            )
    return pd.concat(rows, ignore_index=True).assign(variant=variant, world=0)


@pytest.mark.parametrize(("gain", "verdict"), [(-2.0, "supported"), (0.0, "inconclusive"), (2.0, "refuted")])
def test_k1_comes_out_either_way(gain: float, verdict: str) -> None:
    found = table({"repetition": 0.0, "oracle": -5.0, "sbp-nn-lm": gain, "sbp-random": gain})
    assert decide(CLAIMS["K1"], joint.beats_repetition(lambda _: found), "gpu").verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(-4.0, "supported"), (-1.0, "refuted")])
def test_k2_is_a_share_of_the_gain_over_the_best_checkpoint(gain: float, verdict: str) -> None:
    found = table({"repetition": 0.0, "oracle": -5.0, "sbp-nn-lm": gain})
    evidence = joint.recovered(lambda _: found)
    assert evidence["value"].mean() == pytest.approx(-gain / 5, abs=0.05)
    assert decide(CLAIMS["K2"], evidence, "gpu").verdict == verdict


@pytest.mark.parametrize(
    ("dep", "indep", "verdict"),
    [(-2.0, 0.0, "supported"), (-2.0, -2.0, "inconclusive"), (0.0, -2.0, "refuted"), (2.0, 6.0, "refuted")],
)
def test_k3_asks_for_a_gain_and_for_a_difference_of_differences(dep: float, indep: float, verdict: str) -> None:
    found = pd.concat([
        table({"sbp-nn-lm": dep, "sbp-random": 0.0}), table({"sbp-nn-lm": indep, "sbp-random": 0.0}, "indep"),
    ])  # fmt: skip
    assert decide(CLAIMS["K3"], joint.pair_information(lambda _: found), "gpu").verdict == verdict
    assert decide(CLAIMS["K3b"], joint.no_information(lambda _: found), "gpu").verdict == (
        "supported" if indep == 0 else "refuted"
    )


@pytest.mark.parametrize(
    ("early", "end", "verdict"), [(3.0, -3.0, "supported"), (-3.0, -3.0, "refuted"), (3.0, 3.0, "refuted")]
)
def test_k6_needs_both_ends_of_the_curve(early: float, end: float, verdict: str) -> None:
    rows = [
        {
            "variant": "dep",
            "world": 0,
            "seed": seed,
            "arm": arm,
            "step": step,
            "excess": 20 + gap * (arm == "sbp-nn-lm"),
        }
        for seed in range(6)
        for arm in ("repetition", "sbp-nn-lm")
        for step, gap in ((20, early), (80, 0.5), (160, end))
    ]
    found = pd.DataFrame(rows)
    evidence = joint.crossing(lambda _: found)
    assert set(evidence["part"]) == {"early", "end"}
    assert decide(CLAIMS["K6"], evidence, "gpu").verdict == verdict


def test_recovery_depends_on_the_checkpoint_of_the_baseline() -> None:
    found = table({"repetition": 0.0, "oracle": -4.0, "sbp-nn-lm": -2.0}, seeds=1)
    found.loc[found["arm"] == "repetition", "last"] += 10
    shares = recovery(found).set_index("against")["share"]
    assert shares["best"] == pytest.approx(50, abs=3)
    assert shares["last"] == pytest.approx(100 * 12 / 15, abs=3)  # the last checkpoint of both


def test_intervals_of_differences_are_paired_by_document() -> None:
    found = against(table({"repetition": 0.0, "sbp-nn-lm": -1.0})).iloc[0]
    assert found["low"] < -1.0 + 0.1 < found["high"] + 0.2
    assert found["high"] - found["low"] < 0.3  # documents differ by nats, differences do not


def test_cells_of_a_setting() -> None:
    assert cells(SMOKE, "dep") == [Cell("dep", 0, 0), Cell("dep", 0, 1)]
    assert cells(SMOKE, "indep") == [Cell("indep", 0, 0)]  # fewer seeds than the first variant
    assert len(cells(Setting("smoke", seeds=(3, 4)))) == 4  # but all that are asked for
    assert len(cells(Setting("gpu"), "dep")) == 6
