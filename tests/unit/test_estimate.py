"""What a series still takes, from what it took when results were committed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchard import estimate as module
from orchard.errors import BadInput
from orchard.estimate import Estimate, memory_bytes
from orchard.runs.grid import Trial
from toy_runs import Square

RUNS = [
    {"id": name, "label": label, "cpu_s": seconds, "peak_memory_mib": 500.0 + seconds, "bytes": 2**20}
    for name, label, seconds in (("1", "a", 600.0), ("2", "a", 1200.0), ("3", "b", 1800.0))
]


def test_the_time_left_follows_what_is_finished_and_the_speed_here() -> None:
    found = Estimate(
        [*RUNS, RUNS[0], {"id": "4", "label": "of older results"}], jobs=2
    )  # two notebooks used the first run
    assert str(found) == "60 core-minutes when its results were committed: about 30 min with 2 at a time, at that speed"
    found.finished(["a", "unknown"])
    assert found.left in (2400.0, 3000.0)
    assert "of them finished here" in str(found)
    assert found.remark(Square.Config(number=1, label="unknown"), 5.0) == ""
    left = found.left - 1800.0
    assert found.remark(Square.Config(number=1, label="b"), 3600.0) == f"   about {2 * left / 120:.0f} min left"
    assert found.remark(Square.Config(number=1, label="a"), 1.0) == "   less than a minute left"
    assert found.remark(Square.Config(number=1, label="a"), 1.0) == ""
    assert Estimate([], 2).total == 0


def test_a_trial_took_what_its_run_took() -> None:
    """Its own seconds are next to none: counted alone they made hours of minutes."""
    trial = {"id": "4", "label": "a (trial)", "cpu_s": 0.01, "peak_memory_mib": 1.0, "bytes": 1}
    found = Estimate([RUNS[0], trial, RUNS[2]], jobs=1)
    done = Trial.Config(run=Square.Config(number=1, label="a"), label="a (trial)")
    assert found.remark(done, 600.01) == "   about 30 min left"


def test_a_machine_that_is_too_small_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, store = Estimate(RUNS, jobs=2), tmp_path / "runs"
    found.check(store)
    for memory, fix in ((3000, "choose --jobs 1"), (1000, "choose a smaller profile")):
        monkeypatch.setattr(module, "memory_bytes", lambda memory=memory: memory * 2**20)
        with pytest.raises(BadInput, match=rf"take up to 4600 MiB .* this machine has {memory}: {fix}"):
            found.check(store)
    monkeypatch.setattr(module, "memory_bytes", lambda: 2**40)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with pytest.raises(BadInput, match=r"the runs take 3 MiB in .*runs, where 1 are free"):
        found.check(store)
    found.finished(["b", "a"])
    found.check(store)  # what is left has room
    assert memory_bytes() > 2**28
