"""The best of a grid: families, edges, trials that fail, batches, what a trial costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchard.config import REQUIRED
from orchard.errors import BadInput, Diverged, Failed
from orchard.runs import Finished, Run, RunError, Store, Workspace, dependencies, execute, provenance
from orchard.runs.grid import Best, Trial, best_of


class Valley(Run):
    """A loss that is lowest at ``lowest``; too high a rate diverges."""

    class Config(Run.Config):
        lowest: float = REQUIRED
        rate: float = REQUIRED
        limit: float = 1e9
        seed: int = 0

    def compute(self, work: Workspace) -> dict[str, Any]:
        if self.cfg.rate > self.cfg.limit:
            raise Diverged(f"diverged at step 3 with learning rate {self.cfg.rate:g}")
        return {"loss": abs(math.log(self.cfg.rate / self.cfg.lowest)) + self.cfg.seed}


class Collapsed(Failed):
    """A failure that a method has of its own."""


class Second(Run):
    """A stage after a valley, which may collapse."""

    class Config(Run.Config):
        start: Valley.Config = REQUIRED
        collapses: bool = False

    def compute(self, work: Workspace) -> dict[str, Any]:
        if self.cfg.collapses:
            raise Collapsed("masks no longer depend on the prompt")
        return work.result_of(self.cfg.start).result


CLOCK = [0.0]


class Slow(Run):
    """A run that takes a hundred seconds."""

    def compute(self, work: Workspace) -> dict[str, Any]:
        CLOCK[0] += 100
        return {}


class Runs:
    """Computes in this process, and counts batches and runs asked for."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.batches: list[list[str]] = []

    def __call__(self, cfgs: Sequence[Run.Config]) -> list[Finished]:
        self.batches.append([cfg.label for cfg in cfgs])
        return execute(cfgs, self.store, jobs=1, report=lambda line: None)


def search(
    run: Any, grids: dict[str, list[float]], lowest: dict[str, float], limit: float = 1e9, **options: Any
) -> Best:
    return best_of(
        grids,
        lambda family, rate: Valley.Config(lowest=lowest[family], rate=rate, limit=limit),
        lambda done: done.result["loss"],
        run,
        **options,
    )


def test_the_best_of_each_family_and_one_value_costs_nothing(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    found = search(
        run, {"full": [1, 2, 4], "swa": [1.0, 2.0, 4.0], "alone": [7.0]}, {"full": 2, "swa": 2.1, "alone": 1}
    )
    assert found.chosen == {"full": 2.0, "swa": 2.0, "alone": 7.0}
    table = found.table
    assert table.columns.to_list() == ["family", "value", "score", "chosen", "widened", "failed"]
    assert table.query("family == 'full'")["score"].round(3).to_list() == [0.693, 0.0, 0.693]
    assert table.query("family == 'alone'").iloc[0].to_dict() | {"score": 0} == {
        "family": "alone", "value": 7.0, "score": 0, "chosen": True, "widened": False, "failed": ""
    }  # fmt: skip
    assert not table["widened"].any()
    assert len(run.batches[0]) == 6  # both families in one batch
    assert found.runs["full", 1.0][0].result["loss"] == pytest.approx(math.log(2))
    assert search(run, {"alone": [7.0]}, {"alone": 1}).runs == {}


@pytest.mark.parametrize(
    ("grid", "lowest", "tried", "chosen"),
    [([1, 2, 4], 16, [1, 2, 4, 8, 16], 16), ([1, 2, 4], 900, [1, 2, 4, 8, 16], 16), ([3, 9], 1, [1 / 3, 1, 3, 9], 1),
     ([0, 2], 0.1, None, None), ([1, 2, 4], 1.1, [0.5, 1, 2, 4], 1)],
)  # fmt: skip
def test_a_best_value_on_the_edge_widens_the_grid(
    tmp_path: Path, grid: list[float], lowest: float, tried: list[float] | None, chosen: float
) -> None:
    run = Runs(tmp_path)
    if tried is None:  # zero is the least there is
        found = best_of(
            {"a": [0.0, 2.0]},
            lambda _, value: Valley.Config(lowest=1.0, rate=1 + value),
            lambda done: done.result["loss"],
            run,
        )
        assert found.table["value"].to_list() == [0.0, 2.0]
        return
    found = search(run, {"a": [float(v) for v in grid]}, {"a": float(lowest)})
    assert found.table["value"].to_list() == pytest.approx(tried)
    assert found.chosen["a"] == pytest.approx(chosen)
    assert found.table["widened"].sum() == len(tried) - len(grid)
    narrow = search(run, {"a": [float(v) for v in grid]}, {"a": float(lowest)}, widen=0)
    assert narrow.table["value"].to_list() == sorted(map(float, grid))


def test_the_highest_score_and_the_mean_of_several_runs(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    found = best_of(
        {"a": [1.0, 2.0, 4.0]}, lambda _, rate: [Valley.Config(lowest=2.0, rate=rate, seed=seed) for seed in (0, 3)],
        lambda done: -done.result["loss"], run, highest=True,
    )  # fmt: skip
    assert found.chosen == {"a": 2.0}
    assert found.table["score"].to_list()[1] == -1.5


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_that_diverges_has_no_score_and_ends_nothing(tmp_path: Path, jobs: int) -> None:
    store = Store(tmp_path)

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return execute(cfgs, store, jobs=jobs, report=lambda line: None)

    found = search(run, {"a": [1.0, 2.0, 4.0]}, {"a": 4.0}, limit=5.0)
    assert found.chosen == {"a": 4.0}
    last = found.table.iloc[-1]  # 8 was tried
    assert math.isnan(last["score"])
    assert last["failed"] == "diverged at step 3 with learning rate 8"
    assert found.table["failed"].to_list()[:3] == [""] * 3
    assert ("a", 8.0) in found.runs
    assert found.runs["a", 8.0] == []
    with pytest.raises(BadInput, match=r"every value of the grid of a failed \(1, 2\): give others; .* rate 2"):
        search(run, {"a": [1.0, 2.0]}, {"a": 4.0}, limit=0.5)
    with pytest.raises(RunError, match="diverged at step 3 with learning rate 8"):
        run([Valley.Config(lowest=4.0, rate=8.0, limit=5.0)])
    with pytest.raises(BadInput, match="the grid of a is empty"):
        search(run, {"a": []}, {"a": 1.0})


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("collapses", [True, False])
def test_a_trial_fails_by_any_failure_of_the_method_in_any_of_its_stages(
    tmp_path: Path, jobs: int, collapses: bool
) -> None:
    store = Store(tmp_path)

    def staged(_: str, rate: float) -> Second.Config:
        first = Valley.Config(lowest=2.0, rate=rate, limit=9 if collapses else 3, label=f"first {rate:g}")
        return Second.Config(start=first, collapses=collapses and rate > 3, label=f"second {rate:g}")

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return execute(cfgs, store, jobs=jobs, report=lambda line: None)

    found = best_of({"a": [1.0, 2.0, 4.0]}, staged, lambda done: done.result["loss"], run)
    why = "masks no longer depend on the prompt" if collapses else "diverged at step 3 with learning rate 4"
    assert found.chosen == {"a": 2.0}
    assert found.table["failed"].to_list() == ["", "", why]
    if not collapses:  # a stage that is asked for itself, or that other runs need, fails as ever
        for asked in ([staged("a", 4.0)], [staged("a", 4.0).start, Trial.Config(run=staged("a", 4.0), label="again")]):
            with pytest.raises(RunError, match="first 4: diverged at step 3 with learning rate 4"):
                run(asked)


def test_what_a_trial_computes_costs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("time", "strftime", "gmtime")
    real = {name: getattr(provenance.time, name) for name in names}
    ticks = SimpleNamespace(perf_counter=lambda: CLOCK[0], process_time=lambda: CLOCK[0], **real)
    monkeypatch.setattr(provenance, "time", ticks)
    store = Store(tmp_path)
    store.compute(Trial.Config(run=Slow.Config(label="slow"), label="trial"))
    spent = {done.label: (done.provenance["wall_s"], done.provenance["cpu_s"]) for done in store.ls()}
    assert spent == {"slow": (100, 100), "trial": (0, 0)}


def test_trials_run_through_a_lazy_runner_in_common_batches(tmp_path: Path) -> None:
    """As `Series.prepare` does: what is missing is collected, and the experiment asks again."""
    run, wanted = Runs(tmp_path), []

    class NotYet(Exception):
        pass

    def lazy(cfgs: Sequence[Run.Config]) -> list[Finished]:
        missing = [cfg for cfg in cfgs if run.store.get(cfg) is None]
        wanted.extend(missing)
        if missing:
            raise NotYet
        return run(cfgs)

    turns = []
    while True:
        wanted.clear()
        try:
            found = search(lazy, {"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"a": 4.0, "b": 1.1})
            break
        except NotYet:
            turns.append(len(wanted))
            assert all(dependencies(cfg) == [] for cfg in wanted)
            run(list(wanted))
    assert found.chosen == {"a": 4.0, "b": 1.0}
    assert turns == [4, 2, 1]
