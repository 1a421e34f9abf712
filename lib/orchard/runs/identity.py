"""What a run is known by: the hash of its config, of its data and of the code it computes with."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from orchard.config import Config
from orchard.data.source import Source
from orchard.errors import BadInput
from orchard.runs.cells import definitions, is_main
from orchard.runs.code import PACKAGE, Use, is_installed, is_own, uses_sha256
from orchard.runs.finished import Finished
from orchard.runs.run import Run
from orchard.values import code_in


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
        return _recipe(self.config, self.code)

    def as_dict(self) -> dict[str, Any]:
        """The hashes as plain values, for ``status.json``."""
        return asdict(self) | {"id": self.id, "recipe": self.recipe}


def identity(cfg: Run.Config) -> Identity:
    """Identity of the run that ``cfg`` describes.

    Builds every data source in the config to read its manifest (cached by the source, so this takes milliseconds).
    """
    manifests = []
    machine_bound = True
    for node in [cfg, *(node for _, node in _configs(cfg))]:
        owner = node.owner
        if isinstance(owner, type) and issubclass(owner, Source):
            source = node.build()
            manifests.append(source.manifest().sha256)
            machine_bound &= source.machine_bound
    return Identity(
        config=cfg.fingerprint(),
        data=hashlib.sha256("\n".join(manifests).encode()).hexdigest(),
        code=_code_of(cfg),
        machine_bound=bool(manifests) and machine_bound,
    )


def recipe(cfg: Run.Config) -> str:
    """The recipe part of :func:`identity`, for which no data is read."""
    return _recipe(cfg.fingerprint(), _code_of(cfg))


def is_current(done: Finished) -> bool:
    """Whether the code that made a finished run is the code that is here: its config, read from its folder, has the same recipe.

    A run whose config this version cannot read, or that belongs to no module of this library, is not.
    """
    try:
        cfg = Config.from_dict(done.config, lambda name: name.startswith(f"{PACKAGE}."))
        return isinstance(cfg, Run.Config) and recipe(cfg) == done.recipe
    except ValueError:
        return False


def _recipe(config: str, code: str) -> str:
    return hashlib.sha256(f"{config}\n{code}".encode()).hexdigest()[:16]


def _code_of(cfg: Run.Config) -> str:
    """Hash of the code of every class and function in a config, and of what it reaches.

    Raises:
        BadInput: the source of one of them cannot be found.
    """
    found = code_in(cfg)
    for value in found:
        module = value.__module__ or ""
        if not (is_main(value) or is_own(module) or is_installed(module)):
            raise BadInput(
                f"the source of {value.__qualname__} (module {module}) cannot be found, so that a change of it would go unnoticed: "
                "define it in a file with the name of the module"
            )
    uses: set[Use] = {(value.__module__, value.__qualname__.partition(".")[0]) for value in found if not is_main(value)}
    own = [value for value in found if is_main(value)]
    if not own:
        return uses_sha256(uses)
    text, further = definitions(own)
    return hashlib.sha256(f"{uses_sha256(uses | further)}\n{text}".encode()).hexdigest()


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
