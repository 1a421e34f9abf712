"""What the runs of a series take, in time, memory and room, from what they took when results were committed.

A run is known by its label, so that one of changed code is expected to take what it took before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchard.errors import BadInput
from orchard.runs import Run
from orchard.runs.grid import Trial


class Estimate:
    """What is left of a series, while its runs are computed.

    Args:
        runs: of the committed results, each with ``id``, ``label``, ``cpu_s``, ``peak_memory_mib`` and ``bytes``; one that several
            notebooks used counts once, and one without these is not known.
        jobs: runs at a time.
    """

    def __init__(self, runs: Iterable[Mapping[str, Any]], jobs: int) -> None:
        self.jobs = jobs
        known = {run["id"]: run for run in runs if "cpu_s" in run}.values()
        self._left: dict[str, list[float]] = {}  # seconds of the runs of a label that are not finished
        for run in known:
            self._left.setdefault(run["label"], []).append(run["cpu_s"])
        self.total = self.left
        self.memory_mib = max((run["peak_memory_mib"] for run in known), default=0.0)  # of the largest process
        self.bytes = sum(run["bytes"] for run in known)
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

    def check(self, store: Path) -> None:
        """Raise BadInput if this machine has too little memory, or ``store`` too little room for what is not finished."""
        have, need = memory_bytes() / 2**20, self.memory_mib * self.jobs
        if have < need:
            at_most = int(have // self.memory_mib)
            fix = f"--jobs {at_most}" if at_most else "a smaller profile, or a machine with more"
            raise BadInput(
                f"{self.jobs} runs at a time take up to {need:.0f} MiB of memory ({self.memory_mib:.0f} each when results were "
                f"committed), this machine has {have:.0f}: choose {fix}"
            )
        room = self.bytes * self.left / self.total if self.total else 0.0
        folder = next(path for path in (store, *store.parents) if path.exists())
        if (free := shutil.disk_usage(folder).free) < room:
            raise BadInput(
                f"the runs take {room / 2**20:.0f} MiB in {store}, where {free / 2**20:.0f} are free: free some space, or choose "
                "another store with STORE or $ORCHARD_STORE"
            )

    def remark(self, cfg: Run.Config, seconds: float) -> str:
        """What to say when a run has been computed: the time left, at the speed of the runs so far; nothing of an unknown run."""
        labels = (
            [cfg.label, cfg.run.label] if isinstance(cfg, Trial.Config) else [cfg.label]
        )  # a trial computes its run
        foreseen = [self._left[label].pop() for label in labels if self._left.get(label)]
        if not foreseen:
            return ""
        self._foreseen += sum(foreseen)
        self._spent += seconds
        minutes = self.left * self._spent / self._foreseen / self.jobs / 60 if self._foreseen else 0.0
        return f"   about {minutes:.0f} min left" if minutes >= 1 else "   less than a minute left"

    def __str__(self) -> str:
        done = "" if self.left == self.total else f", {(self.total - self.left) / 60:.0f} of them finished here"
        return (
            f"{self.total / 60:.0f} core-minutes when its results were committed{done}: "
            f"about {self.left / self.jobs / 60:.0f} min with {self.jobs} at a time, at that speed"
        )


def memory_bytes() -> int:
    """Memory of this machine, or what the container leaves of it."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / name
        if path.exists() and (text := path.read_text().strip()).isdecimal():
            limits.append(int(text))
    return min(limits)
