"""A finished run: the folder it is kept in, what stands in it, and whether it is whole.

The files are plain JSON, text and safetensors: no Orchard is needed to read them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchard.errors import OrchardError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


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
    def bytes(self) -> int:
        """Size of the folder."""
        return sum(entry["bytes"] for entry in self.status["files"].values())

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
        value: dict[str, Any] = json.loads((self.folder / name).read_text("utf-8"))
        return value


def check(folder: Path) -> str | None:
    """What is wrong with a run's folder, or None: every file must be there with the size and SHA-256 of its status."""
    try:
        status = json.loads((folder / "status.json").read_text("utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in status["files"].items()}
        known = status["identity"]["id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"status.json cannot be read: {type(error).__name__}"
    if known != folder.name:
        return f"status.json belongs to run {known}"
    present = {path.name for path in files_of(folder)} - {"status.json"}
    if present != set(expected):
        return f"files differ from status.json: {sorted(present ^ set(expected))}"
    for name, (size, sha256) in expected.items():
        path = folder / name
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if file_sha256(path) != sha256:
            return f"{name} does not have its SHA-256"
    return None


def files_of(folder: Path) -> list[Path]:
    """The files of a run's folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
