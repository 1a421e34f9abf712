"""Figures of 01 that no table of other tests draws, and what the explorer computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.figures import build
from orchard.papers.sbp.runs.bounds import PRECISIONS


def test_explorer_knows_the_entropy_and_the_true_concept() -> None:
    bars, told = build.world_tables(concepts=16, kappa=0.05, content=24)
    assert bars.loc[bars["true"], "share"].iloc[0] > 0.9
    assert bars["share"].sum() == pytest.approx(1.0)
    assert told["words"].tolist() == [4, 8, 12, 16, 20, 24]
    assert told["told"].iloc[-1] == pytest.approx(np.log(16), abs=0.1)
    blurred = build.world_tables(concepts=16, kappa=5.0, content=4)[1]
    assert blurred["told"].iloc[0] < 0.2
    build.concept_world(16, 0.05, 4).draw_without_rendering()


def test_figures_of_tables() -> None:
    gain = pd.DataFrame({"variant": "dep", "precision": PRECISIONS, "gain": np.array(PRECISIONS), "concepts": 4})
    bounds = pd.DataFrame(
        {"variant": "dep", "bound": ["em", "labels"] * 2, "per_concept": [2.0, 2, 4, 4], "excess": [4, 3, 2, 1]}
    )
    cells = pd.DataFrame({"variant": "dep", "arm": ["Bayes", "oracle", "exact law"], "accuracy": [0.9, 0.8, 0.9]})
    for figure, table in ((build.pair_gain, gain), (build.document_bounds, bounds), (build.cloze_accuracy, cells)):
        made = figure(table)
        made.draw_without_rendering()
        assert all(axes.get_xlabel() for axes in made.axes)
