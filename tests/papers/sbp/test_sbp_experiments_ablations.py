"""Ablations change one thing at a time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from orchard.claims import load_claims
from orchard.data.published import published
from orchard.papers.sbp.experiments import ablations
from orchard.papers.sbp.experiments.arms import Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Ablations, Cell
from orchard.papers.sbp.figures import ablations as figures
from orchard.papers.sbp.runs.ensemble import Distill, Ensemble
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.paths import root
from orchard.runs import Setting
from sbp_runs import FakeRuns, tiny

SETTING = Setting("smoke")
SIZES = Ablations(
    cells=1, neighbours=(1,), thresholds=(0.1,), temperatures=(0.7,), top_ps=(0.9,),
    orders=("synthetic_first", "real_first"),
    truths=(0.0, 0.5, 1.0), shares=(0.0, 0.375, 0.5, 1.0), share_cells=1, scratch=True, distilled=True,
)  # fmt: skip
CHANGED = {  # fields of a config that an ablation may change, and no other
    "k": {"k"}, "threshold": {"exceedance"}, "temperature": {"temperature"}, "top-p": {"top_p"}, "order": {"order"},
    "synthesizer": {"scratch", "steps", "learning_rate", "validate_every"},
}  # fmt: skip
K9 = next(claim for claim in load_claims(root() / "papers" / "sbp") if claim.id == "K9")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    profile = tiny(ablations=SIZES)
    monkeypatch.setitem(PROFILES, "smoke", profile)
    return study(SETTING, Cell("dep", 0, 0))


@pytest.mark.parametrize("name", ablations.ABLATIONS)
def test_an_ablation_changes_one_thing(name: str, small: Study) -> None:
    points = [point for point in ablations.points(small, SIZES) if point.ablation == name]
    own = small.arm("sbp-nn-lm")
    same = [point for point in points if point.model.fingerprint() == own.fingerprint()]
    assert len(same) == 1
    assert len({point.value for point in points}) == len(points) > 1
    for point in points:
        changed = {path.rpartition(".")[2] for path in own.diff(point.model)} - {"label"}
        assert changed <= CHANGED[name]
        assert bool(changed) == (point is not same[0])


def test_a_new_synthesizer_is_not_trained_less(small: Study) -> None:
    old, new = (point.tuned for point in ablations.points(small, SIZES) if point.ablation == "synthesizer")
    assert new.scratch
    assert new.steps == small.steps + old.steps
    assert new.optim.learning_rate == small.regular.learning_rate == 4 * old.optim.learning_rate


def test_the_table_marks_the_comparison_s_own_values(tmp_path: Path, small: Study) -> None:
    def loss(cfg: Pretrain.Config) -> float:
        return 40.0 if cfg.mix.order != "mixed" else 30.0

    table = ablations.ablations(SETTING, FakeRuns(tmp_path, loss))
    assert list(pd.unique(table["ablation"])) == ["none", *ablations.ABLATIONS]
    assert (table.groupby("ablation")["own"].sum().drop("none") == 1).all()
    assert table.loc[table["own"], "best"].nunique() == 1
    by_order = table[table["ablation"] == "order"].set_index("value")["best"]
    assert by_order["synthetic first"] - by_order["mixed"] == pytest.approx(10)
    ticks = [text.get_text() for text in figures.ablation_dots(table).axes[0].get_yticklabels()]
    assert ticks == [f"{row.ablation}: {row.value}" for row in table[table["ablation"] != "none"].itertuples()]
    assert len(figures.ablation_dots(table, "order", "last").axes[0].get_yticks()) == 3
    with pytest.raises(ValueError, match="no ablation 'shuffle': there are k, threshold, temperature"):
        figures.ablation_dots(table, "shuffle")


def test_members_of_an_ensemble_share_their_world(
    tmp_path: Path, small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "smoke", tiny(worlds=(0, 1), seeds=(0, 1, 2), ablations=SIZES))
    run = FakeRuns(tmp_path)
    table = ablations.ensembles(SETTING, run)
    assert list(table["arm"]) == 2 * ["repetition", "repetition", "sbp-nn-lm", "ensemble", "distilled"]
    assert list(table["trainings"]) == 2 * [1, 1, 1, 2, 3]
    for cfg in run.of(Ensemble.Config):
        assert len({one.seed for one in cfg.members}) == 2
        assert len({one.mix.corpus.fingerprint() for one in cfg.members}) == 1
    assert len(run.of(Distill.Config)) == 2
    assert PROFILES["gpu"].ablations.distilled
    for cfg in run.of(Distill.Config):
        assert cfg.mix.budget == small.budget
        assert len({one.seed for one in cfg.teachers}) == 2
        assert cfg.mix.corpus.fingerprint() in {one.mix.corpus.fingerprint() for one in cfg.teachers}


def test_dose_response_measures_its_pairs(tmp_path: Path, small: Study) -> None:
    table = ablations.dose_response(SETTING, FakeRuns(tmp_path))
    assert list(table["pairs"]) == ["none", "drawn", "drawn", "drawn", "neighbours"]
    assert list(table["truth"].dropna()) == [0.0, 0.5, 1.0]
    assert table["precision"].dropna().between(0, 1).all()
    assert figures.dose_response(table).axes[0].get_xlabel() == "pairs that share their concept"


def test_shares_have_one_synthesis_and_a_decay_each(tmp_path: Path, small: Study) -> None:
    def loss(cfg: Pretrain.Config) -> float:  # nothing but synthetic documents wants the smaller decay
        return 30.0 - (cfg.mix.share == 1.0 and cfg.optim.weight_decay < 3)

    run = FakeRuns(tmp_path, loss)
    table = ablations.share_sweep(SETTING, run)
    own, control = (table[table["arm"] == arm] for arm in ablations.SWEPT)
    assert list(own.loc[own["size"] == "larger", "share"]) == list(SIZES.shares)
    assert list(control.loc[control["size"] == "larger", "share"]) == [0.0, 0.5]
    assert table.groupby("size")["parameters"].nunique().eq(1).all()
    assert own.groupby("share")["weight_decay"].first().to_dict() == {0.0: 4.0, 0.375: 2.0, 0.5: 2.0, 1.0: 2.0}
    assert table["possible"].eq(1).all()  # those of FakeRuns are real documents
    for dim in (small.profile.size.dim, small.profile.other_size.dim):
        sampled = [one.tokens for one in run.of(Synthesise.Config) if one.tuned.pretrained.model.dim == dim]
        assert small.needed(1.0) in sampled
        assert set(sampled) <= {small.needed(1.0), small.needed()}  # the second: of the trials of an arm
    axes = figures.share_curves(table, published("sbp")).axes[0]
    assert len(axes.texts) == 3  # the shares of the paper's three scales
