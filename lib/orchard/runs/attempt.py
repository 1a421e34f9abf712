"""An attempt at a run: what is done so far, in ``<store>/.work/<id>/``, survives a kill.

    attempt.json   how many attempts there were, and with what: threads, device, PyTorch, precision
    files/         becomes the run's folder
    checkpoints/   thrown away when the run is complete

An attempt goes on with what an earlier one did only if both compute alike. The last bits of a sum depend on the device, on the precision
and on the version of PyTorch: with another one the run is begun anew.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from orchard.files import to_json, write


class Attempt:
    """The next attempt at a run. ``number`` counts those before and this one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.checkpoints = folder, folder / "files", folder / "checkpoints"
        self._path = folder / "attempt.json"
        self._facts, readable = _read(self._path)
        self.number = self._facts.get("attempts", 0) + 1
        self._make()
        if not readable:
            self.say("attempt.json cannot be read: attempts are counted from 1 again, checkpoints are kept")

    def threads(self, wanted: int) -> int:
        """The thread count of this attempt: that which the first one began with."""
        found: int = self._facts.setdefault("threads", wanted)
        return found

    def settle(self, **facts: str | None) -> None:
        """Note what this attempt computes with; what an earlier one did with something else is forgotten."""
        other = {name: self._facts[name] for name, value in facts.items() if self._facts.get(name) not in (None, value)}
        if other:
            self.forget()
            was = ", ".join(f"{name} {value}" for name, value in other.items())
            now = ", ".join(f"{name} {facts[name]}" for name in other)
            self.say(f"begun anew with {now}: an earlier attempt had {was}")
        self._facts |= {**facts, "attempts": self.number}
        write(self._path, to_json(self._facts))

    def say(self, message: str) -> None:
        """Print a line about this attempt, and keep it in its log."""
        print(f"run {self.folder.name}: {message}", flush=True)
        with open(self.files / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{message}\n")

    def forget(self) -> None:
        """Throw away what was done."""
        for folder in (self.files, self.checkpoints):
            shutil.rmtree(folder)
        self._make()

    def _make(self) -> None:
        self.files.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """The facts of ``attempt.json``, and whether they could be read: a crash can leave an empty file."""
    try:
        facts = json.loads(path.read_text("utf-8"))
        return {"attempts": int(facts["attempts"]), **{k: v for k, v in facts.items() if k != "attempts"}}, True
    except FileNotFoundError:
        return {}, True
    except (ValueError, KeyError, TypeError):
        return {}, False


def age_days(folder: Path) -> float:
    """Days since anything in an attempt was written."""
    newest = max((os.stat(path).st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)
    return (time.time() - newest) / 86400
