"""How long a series still takes, from committed costs."""

from __future__ import annotations

from orchard.estimate import Estimate
from toy_runs import Square

RUNS = [
    {"id": "1", "label": "a", "cpu_s": 600.0}, {"id": "2", "label": "a", "cpu_s": 1200.0}, {"id": "3", "label": "b", "cpu_s": 1800.0},
]  # fmt: skip


def test_the_time_left_follows_what_is_finished_and_the_speed_here() -> None:
    estimate = Estimate([*RUNS, RUNS[0]], jobs=2)  # two notebooks used the first run
    assert (
        str(estimate) == "60 core-minutes when its results were committed: about 30 min with 2 at a time, at that speed"
    )
    estimate.finished(["a", "unknown"])
    assert estimate.left in (2400.0, 3000.0)
    assert "of them finished here" in str(estimate)
    assert estimate.remark(Square.Config(number=1, label="unknown"), 5.0) == ""
    left = estimate.left - 1800.0
    assert estimate.remark(Square.Config(number=1, label="b"), 3600.0) == f"   about {2 * left / 120:.0f} min left"
    assert estimate.remark(Square.Config(number=1, label="a"), 1.0) == "   less than a minute left"
    assert estimate.remark(Square.Config(number=1, label="a"), 1.0) == ""
