"""Tables and figures of the first notebook, the rows behind its claims as experiments, and the speed of SoftTopK as ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchard.papers.ifpruning.experiments import EVIDENCE, EXPERIMENTS, speed
from orchard.papers.ifpruning.figures import build as figures
from orchard.papers.ifpruning.runs import checks
from orchard.papers.ifpruning.runs.speed import SoftTopKSpeed
from orchard.runs import Finished, Run, Setting, Store

TINY = SoftTopKSpeed.Config(batch=2, rounds=3, layers=2, width=65, k=13)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Sequence[Run.Config]], list[Finished]]:
    store = Store(tmp_path)
    return lambda cfgs: [store.compute(cfg, "cpu") for cfg in cfgs]


@pytest.mark.parametrize(("epsilon", "k"), [(0.3, 128), (0.01, 1), (10.0, 511), (0.3, 512)])
def test_weights(epsilon: float, k: int) -> None:
    table = figures.weights_table(epsilon, k)
    assert table["weight"].sum() == pytest.approx(k)
    assert table["chosen"].sum() == k
    assert (table["weight"].diff().dropna() <= 0).all()
    assert (table["saturated"] == (table["weight"] == 1)).all()
    drawn = figures.weights(epsilon, k)
    assert f"{table['saturated'].sum()} of 512 saturated" in drawn.axes[1].get_title(loc="left")
    assert drawn.axes[1].patches[-1].get_height() == table["saturated"].sum()


@pytest.mark.parametrize(("epsilon", "k"), [(0.3, 4), (0.01, 11), (10.0, 1)])
def test_jacobian_map(epsilon: float, k: int) -> None:
    table = figures.jacobian_table(epsilon, k)
    grid = table.pivot(index="output", columns="input", values="derivative").to_numpy()
    np.testing.assert_allclose(grid.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(grid, grid.T, atol=1e-12)
    full = table.groupby("output")["saturated"].first().to_numpy()
    assert (grid[full] == 0).all()
    assert f"{full.sum()} saturated" in figures.jacobian_map(epsilon, k).axes[0].get_title(loc="left")


def test_mass_grows_from_chance_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SPREADS", (1e-3, 1.0, 3.5, 1e3))
    table = figures.mass_table()
    for source, part in table.groupby("source"):
        share = part["share"].to_numpy()
        assert (np.diff(share) > 0).all(), source
        assert share[-1] == pytest.approx(1, abs=0.01)
    first = table[table["spread"] == 1e-3].set_index("source")["share"]
    assert first["6B → 3B"] == pytest.approx(6656 / 16384, abs=1e-3)
    assert first["ours, k = D / 4"] == pytest.approx(0.25, abs=1e-3)
    assert isinstance(figures.initial_mass(table), Figure)


def test_iterations(run: Callable[[Sequence[Run.Config]], list[Finished]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "COUNTS", (5, 20))
    table = EXPERIMENTS["iterations"](Setting("smoke"), run)
    miss = (table["sum"] - table["k"]).abs()
    assert miss[(table["epsilon"] == 1.0) & (table["iterations"] == 20)].max() < 1e-6
    assert miss[(table["epsilon"] == 0.03) & (table["iterations"] == 20)].min() > 10
    assert len(figures.iteration_sums(table).axes) == 2


def test_checks_are_rows_of_evidence(
    run: Callable[[Sequence[Run.Config]], list[Finished]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "SHAPES", checks.SHAPES[:1])
    monkeypatch.setattr(checks, "EPSILONS", (0.3,))
    table = EXPERIMENTS["softtopk_checks"](Setting("smoke"), run)
    found = {claim: set(EVIDENCE[claim](lambda name: table)["part"]) for claim in ("V1", "V1b", "V3")}
    assert found == {
        "V1": {"coordinate descent", "SLSQP"},
        "V1b": {"coordinate descent"},
        "V3": {"sum", "gates", "Jacobian"},
    }
    assert {"part", "seed", "unit", "value"} == set(table.columns)


def test_speed_is_a_ratio_with_the_errors_beside_it(
    run: Callable[[Sequence[Run.Config]], list[Finished]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speed.SOFTTOPK, "smoke", TINY)
    table = EXPERIMENTS["softtopk_speed"](Setting("smoke"), run)
    assert table.groupby("name").size().to_dict() == {"closed form": 3, "20 iterations": 3}
    found = speed.softtopk_ratios(table).set_index("form")
    assert found.loc["closed form", "times the closed form"] == 1
    assert found.loc["closed form", "sum - k, worst"] < 1e-4
    assert found.loc["20 iterations", "weight, worst error"] > found.loc["closed form", "weight, worst error"]


def test_ratios_are_medians_within_rounds() -> None:
    rows = [("a", 0, 1.0), ("a", 1, 10.0), ("a", 2, 2.0), ("b", 0, 3.0), ("b", 1, 30.0), ("b", 2, 20.0)]
    table = pd.DataFrame(rows, columns=["name", "round", "seconds"]).assign(sum_error=0.0, weight_error=0.0)
    table["name"] = table["name"].map({"a": "closed form", "b": "20 iterations"})
    found = speed.softtopk_ratios(table).set_index("form")
    assert found["times the closed form"].to_dict() == {"closed form": 1.0, "20 iterations": 3.0}
    assert found["seconds"].to_dict() == {"closed form": 2.0, "20 iterations": 20.0}
