"""The best value of a grid, family by family, before anything is compared: a learning rate, a weight decay.

    found = best_of(
        {"full": [1e-3, 2e-3], "swa": [1e-3, 2e-3]},
        lambda family, rate: training(family, rate, seed=seeds[0]),
        lambda done: done.result["validation_loss"],
        run,
    )
    found.chosen["full"]      the caller then trains this value on seeds that no trial has seen

Every arm is tuned at its own budget. A best value on the edge of its grid says that the grid is too small: the grid grows by its own
step beyond that edge, at most ``widen`` times, and all families that grow are one batch of runs. A trial that fails by what it learned
(`orchard.errors.Failed`) has no score and is never chosen. Where a grid has one value nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from orchard.config import REQUIRED
from orchard.errors import BadInput, Failed
from orchard.runs.finished import Finished
from orchard.runs.run import Run, Runner, Workspace

COLUMNS = ["family", "value", "score", "chosen", "widened", "failed"]
Trials = Callable[[str, float], "Run.Config | Sequence[Run.Config]"]
"""The run of a family at a value; of several, the mean of their scores counts."""


class Trial(Run):
    """A run that may fail by what it learns. Result: ``failed``, the message, or "" if the run is finished; it then stands in the store
    itself, with what it cost: the seconds of a trial are its own."""

    inside = True

    class Config(Run.Config):
        run: Run.Config = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Compute the run, here and now."""
        try:
            work.result_of(self.cfg.run)
        except Failed as error:
            return {"failed": str(error)}
        return {"failed": ""}


@dataclass(frozen=True)
class Best:
    """What a grid gave.

    Attributes:
        table: one row per family and value, smallest value first: family, value, score (missing where it was not computed or
            failed), chosen, widened (whether the value was added to the grid), failed (why, in words; else "").
        chosen: the best value of every family.
        runs: the finished runs of a trial by (family, value), for further columns; none where one of them failed.
    """

    table: pd.DataFrame
    chosen: dict[str, float]
    runs: dict[tuple[str, float], list[Finished]]


@dataclass
class _Grid:
    """The values of one family, the scores known so far (lower is better), and what was added."""

    values: list[float]
    scores: dict[float, float] = field(default_factory=dict)
    added: list[float] = field(default_factory=list)
    failed: dict[float, str] = field(default_factory=dict)

    @property
    def best(self) -> float:
        return min(self.values, key=lambda value: self.scores.get(value, 0.0))

    def beyond(self) -> float | None:
        """The next value beyond the edge that the best value lies on, a geometric step away; None if it lies on none.

        Zero has nothing below it. A grid with a single positive value doubles or halves it.
        """
        values = sorted(self.values)
        positive = [value for value in values if value > 0]
        if self.best == values[-1] and positive:
            return values[-1] * (positive[-1] / positive[-2] if len(positive) > 1 else 2.0)
        if self.best == values[0] > 0:
            return values[0] / (positive[1] / positive[0])
        return None


def best_of(
    grids: Mapping[str, Sequence[float]],
    trials: Trials,
    score: Callable[[Finished], float],
    run: Runner,
    *,
    highest: bool = False,
    widen: int = 2,
) -> Best:
    """The best value of every family.

    Args:
        grids: family -> its values.
        trials: the run (or runs) of a family at a value, all at one seed.
        score: what is compared, from the validation split; the lowest is best.
        highest: the highest is best.
        widen: how often a grid may grow; 0 for a profile that claims nothing.

    Raises:
        BadInput: an empty grid, or one whose every value failed.
    """
    if empty := [family for family, values in grids.items() if not values]:
        raise BadInput(f"the grid of {empty[0]} is empty: give it at least one value")
    found = {family: _Grid(list(dict.fromkeys(map(float, values)))) for family, values in grids.items()}
    runs: dict[tuple[str, float], list[Finished]] = {}
    for turn in range(widen + 1):
        wanted = [
            (f, value)
            for f, grid in found.items()
            for value in grid.values
            if len(grid.values) > 1 and value not in grid.scores
        ]
        done, failed = _tried({cell: _listed(trials(*cell)) for cell in wanted}, run)
        for (family, value), finished in done.items():
            scores = [score(one) for one in finished]
            mean = sum(scores) / len(scores) if scores else math.inf
            found[family].scores[value] = (-mean if highest else mean) if math.isfinite(mean) else math.inf
        for (family, value), why in failed.items():
            found[family].failed[value] = why
        runs |= done
        for family, grid in found.items():
            if grid.scores and math.isinf(grid.scores[grid.best]):
                raise BadInput(
                    f"every value of the grid of {family} failed ({', '.join(f'{v:g}' for v in grid.values)}): give others; the last "
                    f"one: {grid.failed.get(grid.values[-1]) or 'its score is not finite'}"
                )
            if grid.scores and turn < widen and (further := grid.beyond()) is not None:
                grid.values.append(further)
                grid.added.append(further)
    rows = [
        {"family": family, "value": value, "score": _shown(grid.scores.get(value), highest), "chosen": value == grid.best,
         "widened": value in grid.added, "failed": grid.failed.get(value, "")}
        for family, grid in found.items() for value in sorted(grid.values)
    ]  # fmt: skip
    return Best(pd.DataFrame(rows, columns=COLUMNS), {family: grid.best for family, grid in found.items()}, runs)


def _listed(cfgs: Run.Config | Sequence[Run.Config]) -> list[Run.Config]:
    return [cfgs] if isinstance(cfgs, Run.Config) else list(cfgs)


def _shown(score: float | None, highest: bool) -> float:
    if score is None or math.isinf(score):
        return math.nan
    return -score if highest else score


def _tried(
    cells: Mapping[tuple[str, float], Sequence[Run.Config]], run: Runner
) -> tuple[dict[tuple[str, float], list[Finished]], dict[tuple[str, float], str]]:
    """The finished runs of every cell, none where one of them failed, and why it did. All trials are one batch, so that cores stay busy."""
    flat = [(cell, cfg) for cell, cfgs in cells.items() for cfg in cfgs]
    trials = run([Trial.Config(run=cfg, label=f"{cfg.label} (trial)") for _, cfg in flat]) if flat else []
    lost = {cell: why for (cell, _), trial in zip(flat, trials, strict=True) if (why := trial.result["failed"])}
    kept = [(cell, cfg) for cell, cfg in flat if cell not in lost]
    done: dict[tuple[str, float], list[Finished]] = {cell: [] for cell in cells}
    for (cell, _), finished in zip(kept, run([cfg for _, cfg in kept]) if kept else [], strict=True):
        done[cell].append(finished)
    return done, lost
