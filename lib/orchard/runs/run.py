"""What a run is: a pure function of a config.

A run that needs the output of another run holds that run's *config* as a field. A study is then a tree of values, from which
`identity` reads what a run is known by and what has to be computed first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from orchard.config import Configurable
from orchard.files import to_json as to_json  # where it was
from orchard.runs.finished import Finished

THREADS = 1  # CPU threads of a run, alone or among others, so that its numbers do not depend on how many go on at once


@dataclass(frozen=True)
class Setting:
    """What a reader chooses before an experiment: the profile, the seeds (None: the profile's own) and the data."""

    profile: str = "smoke"
    seeds: tuple[int, ...] | None = None
    data: str = "embedded"


Runner = Callable[[Sequence["Run.Config"]], list[Finished]]
"""Gives the finished runs of configs, in their order, computing those that are missing."""


@dataclass
class Workspace:
    """What a run may touch while it computes.

    Attributes:
        folder: files written here become the files of the finished run.
        checkpoints: survives a killed attempt and is thrown away when the run is complete.
        device: the device choice of the caller ("auto", "cpu", "cuda", "mps").
        threads: number of CPU threads; part of the provenance, because it may change the last bits of a sum.
        notes: what the run wants to add to its provenance (times, hardware rules); never part of its result.
        settle: called by :meth:`begin`; None outside a store.
    """

    folder: Path
    checkpoints: Path
    device: str = "auto"
    threads: int = THREADS
    finished: Callable[[Run.Config], Finished] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    settle: Callable[[str | None], None] | None = None

    def begin(self, hardware: Mapping[str, Any]) -> None:
        """Note the machine (``device``, ``name``, ``precision``, …) before anything that an earlier attempt left is read.

        What it left is thrown away if it computed in another precision.
        """
        self.notes["hardware"] = dict(hardware)
        if self.settle is not None:
            self.settle(hardware.get("precision"))

    def result_of(self, cfg: Run.Config) -> Finished:
        """The finished run of a config that this run holds as a field."""
        if self.finished is None:
            raise RuntimeError("this workspace was made without a store: a run that needs another run needs one")
        return self.finished(cfg)

    def log(self, message: str) -> None:
        """Add a line to the run's ``log.txt``."""
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(message.rstrip("\n") + "\n")


class Run(Configurable):
    """Base class of runs. A subclass implements :meth:`compute`; everything it depends on is in its config.

    ``label`` is for people (progress lines, legends): it is no part of the identity. ``preload`` names a module that worker
    processes import once and share, because a run of this class would spend seconds on it. ``inside``: the runs that the config holds
    are not computed beforehand, but by :meth:`compute` itself, through ``work.result_of``.
    """

    preload: ClassVar[str] = "torch"
    inside: ClassVar[bool] = False

    class Config(Configurable.Config):
        location_fields: ClassVar[tuple[str, ...]] = ("label",)
        label: str = ""

    def __init__(self, cfg: Run.Config) -> None:
        self.cfg = cfg

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Compute the run and return its result (JSON values only). Large results go to files in ``work.folder``."""
        raise NotImplementedError(f"{type(self).__name__} must implement compute()")
