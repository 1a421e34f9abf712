"""The FLOP ledger: an arm costs what the runs in its tree report, each once; equal FLOPs are equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchard.claims import load_claims
from orchard.papers.sbp.experiments import costs, rounds
from orchard.papers.sbp.experiments.arms import ARMS, Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Matched
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
    return study(SETTING, Cell("dep", 0, 0))


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
    matched = Matched(cells=1, charged=charged, longer=("repetition", "oracle"))
    monkeypatch.setitem(PROFILES, "smoke", tiny(matched=matched, weight_decays=(4.0, 8.0)))

    def loss(cfg: Pretrain.Config) -> float:  # longer trainings want twice the weight decay
        return 30.0 - ((cfg.optim.weight_decay > 6.0) == (cfg.mix.budget > small.budget))

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
    # each at its own decay
    assert own.loc[("without base", "repetition"), "best"] == own.loc[("tokens", "repetition"), "best"]
    made = figures.flop_matched(table)
    assert [axes.get_xlabel() for axes in made.axes] == ["tokens the model reads", "FLOPs, all stages charged"]
