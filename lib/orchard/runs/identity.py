"""What a run is known by: the hash of its config, of its data and of the code it computes with."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from orchard.config import Config
from orchard.data.source import Source
from orchard.runs.code import code_sha256
from orchard.runs.run import Run


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
    """Configs of runs that have to be finished before ``cfg``: those it holds, outermost first; those inside them are their own business.

    A run that computes the runs it holds itself (``inside``) waits for what these wait for.
    """
    found: list[tuple[str, Run.Config]] = []
    for path, node in _configs(cfg):
        inside = any(path.startswith(outer + ".") for outer, _ in found)
        if isinstance(node, Run.Config) and not inside:
            found.append((path, node))
    held = [node for _, node in found]
    return [needed for node in held for needed in dependencies(node)] if cfg.owner.inside else held


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
