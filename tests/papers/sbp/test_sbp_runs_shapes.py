"""The published scales: parameters, budgets and FLOPs that follow from the paper's numbers."""

from __future__ import annotations

import pytest

from orchard.papers.sbp.runs.shapes import paper_shapes


def test_parameters_and_budgets_of_the_published_scales() -> None:
    shapes = paper_shapes().set_index("scale")
    assert shapes.loc["200B, 3B", "parameters"] == pytest.approx(2.89e9, rel=1e-3)
    assert shapes.loc["1T, 6B", "parameters"] == pytest.approx(6.0e9, rel=2e-2)
    assert shapes["share"].tolist() == [0.375, 0.125, 0.25]
    assert shapes["repeats"].tolist() == [12.5, 17.5, 15.0]
    assert shapes["repeats, baseline"].tolist() == [20.0, 20.0, 20.0]


def test_flops_are_those_of_six_per_parameter_and_token_and_attention() -> None:
    shapes = paper_shapes().set_index("scale")
    ratio = shapes.loc["200B, 3B", "training FLOPs"] / 3.6e21  # without attention
    assert 1.0 < ratio < 1.1
    assert (shapes["times the baseline"] > 2).all()  # the repetition model, the joint model, and what lies between
