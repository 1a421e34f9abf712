"""A finished run: the folder it is kept in, what stands in it, and whether it is whole.

The files are plain JSON, text and safetensors: no Orchard is needed to read them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchard.errors import OrchardError
from orchard.files import from_json

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

FOREIGN = (
    "._*",
    ".DS_Store",
    ".nfs*",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX",
)  # what file systems and desktops leave behind


class RunError(OrchardError):
    """A run could not be computed, found or read."""


class DamagedRun(RunError):
    """The folder of a run does not match its own ``status.json``."""


@dataclass(frozen=True)
class Finished:
    """A complete run, verified when it was opened."""

    folder: Path

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        return self.folder.name

    @property
    def result(self) -> dict[str, Any]:
        """What ``compute`` returned."""
        return self._json("result.json")

    @property
    def config(self) -> dict[str, Any]:
        """The canonical config tree."""
        return self._json("config.json")

    @property
    def status(self) -> dict[str, Any]:
        """State, identity, attempts, label and file hashes."""
        return self._json("status.json")

    @property
    def provenance(self) -> dict[str, Any]:
        """Code version, packages, hardware, time and memory."""
        return self._json("provenance.json")

    @property
    def label(self) -> str:
        """The name its maker gave it."""
        return str(self.status["label"])

    @property
    def recipe(self) -> str:
        """Hash of its config and of the code that made it; see `identity.is_current`."""
        return str(self.status["identity"]["recipe"])

    @property
    def device(self) -> str | None:
        """The kind of device it was made on: cpu, cuda or mps; None where that was not noted."""
        facts = self.provenance
        found = facts.get("device") or facts.get("hardware", {}).get("device")
        return str(found) if found else None

    @property
    def bytes(self) -> int:
        """Size of the folder."""
        return sum(entry["bytes"] for entry in self.status["files"].values())

    @property
    def files(self) -> list[Path]:
        """Its files, ``status.json`` first; what else lies in the folder is none of it."""
        return [self.folder / name for name in ("status.json", *sorted(self.status["files"]))]

    def metrics(self) -> pd.DataFrame:
        """The rows of ``metrics.jsonl``; empty if the run logs none."""
        import pandas as pd

        path = self.folder / "metrics.jsonl"
        return pd.DataFrame(
            [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        )

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``<name>.safetensors``."""
        from safetensors.torch import load_file

        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            have = sorted(p.stem for p in self.folder.glob("*.safetensors"))
            raise RunError(f"run {self.id} has no tensors {name!r}; it has {have}")
        return load_file(path)

    def _json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = from_json((self.folder / name).read_text("utf-8"))
        return value


@dataclass(frozen=True)
class Problem:
    """What is wrong with a run's folder. One that cannot be read may be whole: it is reported, and left where it is."""

    text: str
    readable: bool = True

    def __str__(self) -> str:
        return self.text


def check(folder: Path) -> Problem | None:
    """What is wrong with a run's folder, or None: every file of its status must be there, with its size and SHA-256."""
    try:
        return _check(folder)
    except OSError as error:
        return Problem(f"{Path(error.filename or folder).name} cannot be read: {error.strerror}", readable=False)


def _check(folder: Path) -> Problem | None:
    try:
        status = json.loads((folder / "status.json").read_text("utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in status["files"].items()}
        known = status["identity"]["id"]
    except (FileNotFoundError, NotADirectoryError):
        return Problem("status.json is missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Problem(f"status.json cannot be read: {type(error).__name__}")
    if known != folder.name:
        return Problem(f"status.json belongs to run {known}")
    for name, (size, sha256) in expected.items():
        path = folder / name
        try:
            found = path.stat().st_size
            if found != size:
                return Problem(f"{name} has {found} bytes instead of {size}")
            if file_sha256(path) != sha256:
                return Problem(f"{name} does not have its SHA-256")
        except FileNotFoundError:
            return Problem(f"{name} is missing")
    return None


def is_foreign(name: str) -> bool:
    """Whether a file of this name is what a file system or a desktop leaves behind."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in FOREIGN)


def files_of(folder: Path) -> list[Path]:
    """The files in a folder, sorted by name, without foreign ones."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not is_foreign(p.name))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
