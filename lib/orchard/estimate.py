"""How long the runs of a series take, from the processor seconds that they took when results were committed.

A run is known by its label, so that one of changed code is expected to take what it took before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchard.runs import Run


class Estimate:
    """What is left of a series, while its runs are computed.

    Args:
        runs: of the committed results, each with ``id``, ``label`` and ``cpu_s``; one that several notebooks used counts once.
        jobs: runs at a time.
    """

    def __init__(self, runs: Iterable[Mapping[str, Any]], jobs: int) -> None:
        self.jobs = jobs
        self._left: dict[str, list[float]] = {}  # seconds of the runs of a label that are not finished
        for run in {run["id"]: run for run in runs}.values():
            self._left.setdefault(run["label"], []).append(run["cpu_s"])
        self.total = self.left
        self._foreseen = self._spent = 0.0  # seconds of the runs that were computed since

    @property
    def left(self) -> float:
        """Processor seconds of what is not finished."""
        return sum(map(sum, self._left.values()))

    def finished(self, labels: Iterable[str]) -> None:
        """Runs of these labels are finished already."""
        for label in labels:
            if self._left.get(label):
                self._left[label].pop()

    def remark(self, cfg: Run.Config, seconds: float) -> str:
        """What to say when a run has been computed: the time left, at the speed of the runs so far; nothing of an unknown run."""
        if not self._left.get(cfg.label):
            return ""
        self._foreseen += self._left[cfg.label].pop()
        self._spent += seconds
        minutes = self.left * self._spent / self._foreseen / self.jobs / 60 if self._foreseen else 0.0
        return f"   about {minutes:.0f} min left" if minutes >= 1 else "   less than a minute left"

    def __str__(self) -> str:
        done = "" if self.left == self.total else f", {(self.total - self.left) / 60:.0f} of them finished here"
        return (
            f"{self.total / 60:.0f} core-minutes when its results were committed{done}: "
            f"about {self.left / self.jobs / 60:.0f} min with {self.jobs} at a time, at that speed"
        )
