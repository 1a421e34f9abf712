"""The FLOP ledger: an arm costs what the runs in its tree report, each once; equal FLOPs are equal; K10 can come out either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.papers.sbp.experiments import costs, rounds
from orchard.papers.sbp.experiments.arms import ARMS, Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.figures import ablations as figures
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.paths import root
from orchard.runs import Setting
from sbp_runs import FORWARD, SAMPLING, TUNING, FakeRuns, tiny

SETTING = Setting("smoke")
K10 = next(claim for claim in load_claims(root() / "papers" / "sbp") if claim.id == "K10")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    profile = tiny()
    monkeypatch.setitem(PROFILES, "smoke", profile)
    return study(SETTING, Cell("dep", 0, 0), profile.start)


def test_an_arm_costs_what_its_tree_reports(tmp_path: Path, small: Study) -> None:
    run = FakeRuns(tmp_path)
    own = {arm: costs.costs_of(small.arm(arm), run) for arm in ARMS}
    training = 3 * FORWARD * small.budget
    embedding = FORWARD * small.budget / small.profile.pool  # one pass over D
    assert {cost["training"] for cost in own.values()} == {training}
    for arm in ("repetition", "oracle", "paraphrase", "exact-posterior"):
        assert sum(own[arm].values()) == training
    assert own["sbp-nn-lm"] == {
        "training": training, "embedding": embedding, "tuning": TUNING, "sampling": SAMPLING, "base model": training
    }  # fmt: skip
    for arm in ("sbp-nn-tfidf", "sbp-random", "sbp-true", "uncond"):
        assert own[arm] == own["sbp-nn-lm"] | {"embedding": 0.0}
    assert own["icp"] == own["sbp-nn-lm"] | {"tuning": 0.0, "sampling": 0.0}


def test_a_second_round_pays_for_the_first(tmp_path: Path, small: Study) -> None:
    run = FakeRuns(tmp_path)
    one, two = (costs.costs_of(entry.model, run) for entry in rounds.rounds_of(small, 2)[1:])
    assert two["base model"] == 2 * one["base model"]  # the repetition model and the joint model of round 1
    for stage in costs.SYNTHESIS:
        assert two[stage] == 2 * one[stage]
    assert two["training"] == one["training"]


def test_references_get_the_flops_of_sbp(tmp_path: Path, small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    charged = ("without base", "with base")
    monkeypatch.setitem(costs.SIZES, "smoke", costs.Sizes(1, None, charged, (1.0, 2.0)))

    def loss(cfg: Pretrain.Config) -> float:  # longer trainings want twice the weight decay
        return 30.0 - (cfg.optim.weight_decay > 6.0)

    table = costs.flop_matched(SETTING, FakeRuns(tmp_path, loss))
    own = table.groupby(["charged", "arm"])[["flops", "tokens", "weight_decay", "best"]].mean()
    for name in charged:
        for arm in ("repetition", "oracle"):
            assert own.loc[(name, arm), "flops"] == pytest.approx(own.loc[(name, "sbp-nn-lm"), "flops"], rel=1e-3)
        assert own.loc[(name, "sbp-nn-lm"), "tokens"] == small.budget
    assert own.loc["tokens", "tokens"].nunique() == 1
    assert (
        own.loc[("with base", "repetition"), "tokens"]
        > own.loc[("without base", "repetition"), "tokens"]
        > small.budget
    )
    assert own.loc[("tokens", "repetition"), "weight_decay"] == 4.0
    assert own.loc[("without base", "repetition"), "weight_decay"] == 8.0
    assert own.loc[("without base", "repetition"), "best"] == pytest.approx(
        own.loc[("tokens", "repetition"), "best"] - 1
    )
    made = figures.flop_matched(table)
    assert [axes.get_xlabel() for axes in made.axes] == ["tokens the model reads", "FLOPs, all stages charged"]


def test_costs_are_counted_in_trainings(tmp_path: Path, small: Study) -> None:
    table = costs.costs(SETTING, FakeRuns(tmp_path))
    assert set(table["arm"]) == set(ARMS)
    assert table.loc[table["stage"] == "training", "times"].eq(1).all()
    assert figures.synthesis_share(table)["oracle"] == 0
    bars = figures.cost_bars(table).axes[0].patches
    assert len(bars) == len(ARMS) * len(costs.STAGES)
    assert len(figures.cost_bars(table, base_model=False).axes[0].patches) == len(ARMS) * (len(costs.STAGES) - 1)


def test_break_even_by_hand() -> None:
    # 1 pass to embed, 3 x 2 x 8 to tune, 2 x 0.5 x 10 / 0.5 to sample; three forward passes make one of training
    assert costs.break_even(10.0, share=0.5, kept=0.5) == pytest.approx(10 + (1 + 48 + 20) / 3)
    assert figures.break_even_curve(share=0.25).axes[0].get_ylabel() == "passes of repetition"


@pytest.mark.parametrize(("difference", "verdict"), [(-0.4, "supported"), (0.4, "refuted"), (0.0, "inconclusive")])
def test_k10_can_come_out_either_way(difference: float, verdict: str) -> None:
    random = np.random.default_rng(0)
    frames = []
    for world in (0, 1):
        for seed in (0, 1, 2):
            base = random.normal(20, 1, size=40)
            for charge, shift in (("tokens", -5.0), ("without base", difference), ("with base", 5.0)):
                for arm, best in (("repetition", base), ("sbp-nn-lm", base + shift + random.normal(0, 0.2, size=40))):
                    frames.append(
                        pd.DataFrame({"document": range(40), "best": best}).assign(
                            world=world, seed=seed, arm=arm, charged=charge
                        )
                    )
    table = pd.concat(frames, ignore_index=True)
    evidence = costs.EVIDENCE["K10"](lambda name: {"flop_matched": table}[name])
    assert evidence["seed"].nunique() == 6
    assert decide(K10, evidence, "gpu").verdict == verdict
    assert decide(K10, evidence, "smoke").verdict == "out of reach here"
