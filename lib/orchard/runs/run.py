"""What a run is: a pure function of a config, known by the hash of its config, its data and its code.

A run that needs the output of another run holds that run's *config* as a field. A study is then a tree of values, and
:func:`dependencies` reads from it what has to be computed first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from orchard.config import Config, Configurable
from orchard.data.source import Source
from orchard.runs.code import code_sha256

if TYPE_CHECKING:
    from orchard.runs.store import Finished


THREADS = 1  # CPU threads of a run, alone or among others, so that its numbers do not depend on how many go on at once


@dataclass(frozen=True)
class Setting:
    """What a reader chooses before an experiment: the profile, the seeds (None: the profile's own) and the data."""

    profile: str = "smoke"
    seeds: tuple[int, ...] | None = None
    data: str = "embedded"


Runner = Callable[[Sequence["Run.Config"]], "list[Finished]"]
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
    """

    folder: Path
    checkpoints: Path
    device: str = "auto"
    threads: int = THREADS
    finished: Callable[[Run.Config], Finished] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

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
    processes import once and share, because a run of this class would spend seconds on it.
    """

    preload: ClassVar[str] = "torch"

    class Config(Configurable.Config):
        location_fields: ClassVar[tuple[str, ...]] = ("label",)
        label: str = ""

    def __init__(self, cfg: Run.Config) -> None:
        self.cfg = cfg

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Compute the run and return its result (JSON values only). Large results go to files in ``work.folder``."""
        raise NotImplementedError(f"{type(self).__name__} must implement compute()")


@dataclass(frozen=True)
class Identity:
    """The three hashes that identify a run, and where its data came from."""

    config: str
    data: str
    code: str
    machine_bound: bool = False

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits: the name of the run's folder."""
        return hashlib.sha256(f"{self.config}\n{self.data}\n{self.code}".encode()).hexdigest()[:16]

    @property
    def recipe(self) -> str:
        """Config and code without the data: what an imported run must share with a run that is asked for."""
        return hashlib.sha256(f"{self.config}\n{self.code}".encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """The hashes as plain values, for ``status.json``."""
        return asdict(self) | {"id": self.id, "recipe": self.recipe}


def identity(cfg: Run.Config) -> Identity:
    """Identity of the run that ``cfg`` describes.

    Builds every data source in the config to read its manifest (cached by the source, so this takes milliseconds).
    """
    nodes = [cfg, *(node for _, node in _configs(cfg))]
    manifests = []
    machine_bound = True
    for node in nodes:
        owner = node.owner
        if isinstance(owner, type) and issubclass(owner, Source):
            source = node.build()
            manifests.append(source.manifest().sha256)
            machine_bound &= source.machine_bound
    modules = {node.owner.__module__ for node in nodes} | _function_modules(cfg.to_dict())
    return Identity(
        config=cfg.fingerprint(),
        data=hashlib.sha256("\n".join(manifests).encode()).hexdigest(),
        code=code_sha256(modules),
        machine_bound=bool(manifests) and machine_bound,
    )


def dependencies(cfg: Run.Config) -> list[Run.Config]:
    """Configs of runs that ``cfg`` holds, outermost first; those inside them are their own business."""
    found: list[tuple[str, Run.Config]] = []
    for path, node in _configs(cfg):
        inside = any(path.startswith(outer + ".") for outer, _ in found)
        if isinstance(node, Run.Config) and not inside:
            found.append((path, node))
    return [node for _, node in found]


def _configs(cfg: Config) -> list[tuple[str, Config]]:
    """Every config below ``cfg`` with its dotted path, parents before children."""
    return [(path, node) for path, node, *_ in cfg.walk() if path]


def _function_modules(tree: Any) -> set[str]:
    """Modules of functions named in a canonical config tree ("module:qualname" strings of callables)."""
    if isinstance(tree, dict):
        own = {tree["function"].partition(":")[0]} if isinstance(tree.get("function"), str) else set()
        return own.union(*(_function_modules(v) for v in tree.values()))
    if isinstance(tree, list):
        return set().union(*(_function_modules(v) for v in tree))
    return set()


def to_json(value: Any) -> str:
    """The one way results are written: sorted keys, exact floats, no NaN in disguise."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
