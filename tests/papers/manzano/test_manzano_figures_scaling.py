"""Figures of 04: gains in points, what is said where nothing was run, and which published models are told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.manzano.data import published
from orchard.papers.manzano.experiments.strategies import DRAWN
from orchard.papers.manzano.figures import scaling

INCREMENTS = published.table("Figure 6", "language model").iloc[0]
CHANGES = published.table("Figure 6", "image decoder").iloc[0]


def sizes() -> pd.DataFrame:
    """Two seeds; the larger model has 0.5, 0.2 and 0.1 more right, blind ones are flat."""
    rows = [
        {"seed": seed, "arm": arm, "metric": metric, "unit": unit, "dim": dim, "parameters": 1000 * dim,
         "value": 0.1 + more * (dim == 64) * (arm == "hybrid")}
        for seed in (1, 2) for dim in (16, 64) for unit in range(3) for arm in ("hybrid", "blind")
        for metric, more in (("general", 0.5), ("text-rich", 0.2), (DRAWN, 0.1)) if (arm, metric) != ("blind", DRAWN)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_gains_are_in_points() -> None:
    found = scaling.gains(sizes()).groupby("metric")[["points", "rho"]].mean()
    assert found["points"].to_dict() == pytest.approx({"general": 50, "text-rich": 20, DRAWN: 10})
    assert found["rho"].tolist() == pytest.approx([1, 1, 1])


def test_language_models_beside_the_paper() -> None:
    made = scaling.language_models(sizes(), 0.05, INCREMENTS, 0.1)
    left, right = made.axes
    assert [text.get_text() for text in right.texts] == [
        "ours +50.0", "not asked here", "ours +20.0", "ours +10.0", "not asked here", "not asked here",
    ]  # fmt: skip
    grey = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "D" and line.get_markersize() == 6]
    assert grey == INCREMENTS.tolist()
    assert any(set(np.unique(line.get_ydata())) == {5.0} for line in left.lines)  # the floor of drawing
    assert [label.get_text() for label in left.get_xticklabels()] == ["16 k", "64 k"]
    made.draw_without_rendering()


def test_decoders_that_were_not_run_say_so() -> None:
    columns = ["seed", "dim", "parameters", "arm", "metric", "unit", "value"]
    none = scaling.decoders(pd.DataFrame(columns=columns), CHANGES)
    assert "not run" in none.axes[0].texts[0].get_text()
    assert not none.legends
    table = sizes().assign(metric="structure").replace({"arm": {"blind": "shuffled"}})
    made = scaling.decoders(table, CHANGES)
    assert not made.axes[0].texts
    assert "codes of another picture" in [text.get_text() for text in made.legends[0].get_texts()]
    made.draw_without_rendering()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Manzano-3B", "Manzano-3B"), ("Bagel-14B-A7B", "Bagel-14B-A7B, reads and draws"), ("GPT-4o", "closed models"),
        ("MM1.5-30B", scaling.ALONE),
    ],
)  # fmt: skip
def test_families_of_published_models(model: str, said: str) -> None:
    assert scaling.marker(model)[2] == said


def test_published_scores_have_a_row_each() -> None:
    table = published.table("Table 2")
    made = scaling.published_scores(table, "score (%)", "a title")
    (axes,) = made.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table.columns)
    assert np.array_equal(axes.lines[-1].get_xdata(), table.loc["Manzano-30B"])  # on top of all others
    assert len(axes.lines) == len(table)
    assert len(made.legends[0].get_texts()) == 7
