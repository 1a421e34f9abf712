"""Series.prepare: several experiments share their batches of runs."""

from __future__ import annotations

import pandas as pd
import pytest

from orchard.errors import BadInput
from orchard.series import Series, _open
from toy_runs import Square


def squares(numbers: list[int]):
    def experiment(setting, run) -> pd.DataFrame:
        return pd.DataFrame([done.result for done in run([Square.Config(number=n) for n in numbers])])

    return experiment


def largest_first(setting, run) -> pd.DataFrame:
    """Needs a further run that depends on the result of the first ones."""
    best = max(done.result["square"] for done in run([Square.Config(number=n) for n in (2, 3)]))
    return pd.DataFrame([done.result for done in run([Square.Config(number=int(best))])])


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> Series:
    made = _open("rattention", "", "smoke", None, "cpu", "local", "embedded", None, 1)
    toys = {"few": squares([1, 2]), "more": squares([2, 5]), "staged": largest_first}
    monkeypatch.setattr(made.experiments, "EXPERIMENTS", toys)
    return made


def test_experiments_share_batches(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[int]] = []
    compute = series.run

    def run(cfgs):
        if any(cfg.fingerprint() not in series._runs for cfg in cfgs):
            batches.append([cfg.number for cfg in cfgs])
        return compute(cfgs)

    monkeypatch.setattr(series, "run", run)
    series.prepare("few", "more", "staged")
    assert batches == [[1, 2, 2, 5, 2, 3], [9]]
    assert series.table("staged")["square"].tolist() == [81]
    assert series.table("more")["square"].tolist() == [4, 25]
    assert len(batches) == 2


def test_an_unknown_experiment(series: Series) -> None:
    with pytest.raises(BadInput, match="rattention has no experiment 'fewer'"):
        series.prepare("few", "fewer")
