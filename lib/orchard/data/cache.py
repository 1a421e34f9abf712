"""Files that are slow to make, made once: ``cached(kind, key, build)`` is a folder that is whole or is not there.

``build`` writes into a temporary folder beside the final one; an index of sizes and SHA-256 is added and the folder
appears by one rename, under a lock. Whoever opens it later verifies the index: a truncated or altered folder is
reported and built again, and of two processes that ask at once one builds and the other waits.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from orchard.errors import BadInput
from orchard.files import locked
from orchard.paths import cache_dir


class DataError(BadInput):
    """Data that cannot be found, read or used; the message names the value, the place and the fix."""


INDEX = ".index.json"  # {file name: [bytes, SHA-256]}


def sha256(data: bytes | str) -> str:
    """SHA-256 (hex) of bytes, or of a text's UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def files_sha256(files: Iterable[Path]) -> str:
    """SHA-256 (hex) over the names and contents of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\t{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@functools.cache
def code_version() -> str:
    """SHA-256 of the sources of this package: what an older version of the code has cached is not used."""
    return sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def intact(folder: Path) -> bool:
    """Whether every file of a cached folder has the size and the SHA-256 it was written with."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return bool(index) and all(
            (folder / name).stat().st_size == size and _file_sha256(folder / name) == digest
            for name, (size, digest) in index.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def location(kind: str, key: Any) -> Path:
    """The folder of ``key``, any JSON value, among the cached things of one kind."""
    return cache_dir() / kind / sha256(json.dumps([key, code_version()], sort_keys=True))[:32]


def cached(kind: str, key: Any, build: Callable[[Path], None]) -> Path:
    """The folder that ``build(folder)`` has filled for ``key``; built now if it is missing or damaged.

    Raises DataError when the cache cannot be written.
    """
    folder = location(kind, key)
    if intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            if intact(folder):  # another process was building it
                return folder
            for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a killed process: we hold its lock
                shutil.rmtree(leftover, ignore_errors=True)
            if folder.exists():
                warnings.warn(f"the cache folder {folder} is damaged; it is made again", stacklevel=2)
            temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
            try:
                temporary.mkdir()
                build(temporary)
                files = sorted(path for path in temporary.iterdir() if path.is_file())
                index = {path.name: [path.stat().st_size, _file_sha256(path)] for path in files}
                (temporary / INDEX).write_text(json.dumps(index), encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write the cache folder {folder}: {error}. Make room there or set ORCHARD_CACHE to another folder"
        ) from None
    return folder


def forget(kind: str, key: Any) -> None:
    """Remove what is cached for ``key``, if anything."""
    shutil.rmtree(location(kind, key), ignore_errors=True)
