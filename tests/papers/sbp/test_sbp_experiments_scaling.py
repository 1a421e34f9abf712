"""Scaling: what N changes and what it does not, sums over stages, numbers read off the curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.experiments import scaling
from orchard.papers.sbp.experiments.arms import COMPARED, Study, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.figures import scaling as figures
from orchard.papers.sbp.figures.looks import words
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Setting
from sbp_runs import FakeRuns, tiny

SETTING, CELL = Setting("smoke"), Cell("dep", 0, 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    profile = tiny(scaling=(6, 12, 24), scaling_cells=2, seeds=(0, 1))
    monkeypatch.setitem(PROFILES, "smoke", profile)
    return study(SETTING, CELL)


def test_budget_steps_and_tuning_follow_the_documents(small: Study) -> None:
    half = study(SETTING, CELL, 12)
    assert (2 * half.budget, 2 * half.steps) == (small.budget, small.steps)
    assert half.regular == small.regular
    larger = study(SETTING, CELL, 96)
    assert larger.profile.tuning_steps == 4 * small.profile.tuning_steps
    assert study(SETTING, CELL, 24) == small
    held_out = [one.corpus.build().documents("test").tokens for one in (small, half)]
    assert np.array_equal(*held_out)  # every N is judged on the same documents


def test_tables_have_every_arm_at_every_n(tmp_path: Path, small: Study) -> None:
    def loss(cfg: Pretrain.Config) -> float:
        return 40.0 - np.log2(cfg.mix.budget)

    run = FakeRuns(tmp_path, loss)
    table = scaling.scaling(SETTING, run)
    assert len(table) == 3 * 2 * len(COMPARED)
    assert set(table["arm"]) == set(COMPARED)
    assert (table["unique_tokens"] == table["documents"] * (small.corpus.build().cap + 1)).all()
    spent = table.groupby("arm")[["flops", "training_flops"]].sum()
    assert spent.loc["repetition"].nunique() == 1
    assert spent.loc["sbp-nn-lm", "flops"] > spent.loc["sbp-random", "flops"]
    assert spent["training_flops"].nunique() == 1
    means = table[table["arm"] == "repetition"].groupby("documents")["best"].mean()
    assert means.diff().dropna().to_list() == pytest.approx([-1, -1])
    bounds = scaling.learnable(SETTING, run)
    assert set(bounds["unique_tokens"]) == set(table["unique_tokens"])
    assert (
        bounds[bounds["line"] == "EM"]["excess"] * bounds[bounds["line"] == "EM"]["documents"]
    ).to_list() == pytest.approx([600] * 6)
    legend = [text.get_text() for text in figures.scaling_curves(table, bounds).legends[0].get_texts()]
    assert legend == [*map(words, COMPARED), "N documents tell: labels known", "N documents tell: EM", "Bayes"]
    axes = figures.scaling_curves(table).axes[0]
    assert [f"{tick:g}" for tick in axes.get_xticks()] == [f"{count}" for count in sorted(set(table["documents"]))]
    assert len(figures.scaling_compute(table).axes) == 2


def curve(losses: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"documents": documents, "arm": arm, "best": value, "last": value + 1}
        for arm, values in losses.items()
        for documents, value in zip((64, 128, 256), values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_saved_documents_by_hand() -> None:
    table = curve(
        {"repetition": [30, 20, 12], "oracle": [10, 6, 4], "sbp-nn-lm": [25, 20, 16], "sbp-random": [31, 13, 8]}
    )
    assert figures.saved_documents(table, "sbp-nn-lm") == pytest.approx(
        2**0.5
    )  # half the way from 64 to 128, in logarithms
    assert figures.saved_documents(table, "repetition") == pytest.approx(1)
    assert np.isnan(figures.saved_documents(table, "sbp-random"))  # worse than any repetition
    assert np.isnan(figures.saved_documents(table, "oracle"))
    table.loc[(table["arm"] == "repetition") & (table["documents"] == 128), "best"] = 31
    assert np.isnan(figures.saved_documents(table, "sbp-nn-lm"))  # no order to read off
