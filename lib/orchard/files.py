"""Files that appear complete or not at all, with the permissions that the umask asks for; strict JSON; locks."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_FINITE = "not_finite"


def write(path: Path, text: str) -> None:
    """Write a text file so that it appears complete or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def share(path: Path) -> None:
    """Give a file the permissions of any new file in its folder. Some libraries write private ones, which colleagues cannot read.

    The umask is not asked for, since asking sets it for all threads: a new file shows what it allows.
    """
    probe = path.with_name(f".{path.name}.{os.getpid()}.mode")
    number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = os.fstat(number).st_mode & 0o777
    finally:
        os.close(number)
        os.unlink(probe)
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)


def to_json(value: Any) -> str:
    """The one way results are written: sorted keys, exact floats, strict JSON.

    JSON has no NaN and no infinity. They become null, and the key ``not_finite`` of the whole says what stood where, by JSON pointer:
    ``{"loss": null, "not_finite": {"/loss": "NaN"}}``. :func:`from_json` puts them back.

    Raises:
        ValueError: a value that is not finite in something that is no dict, or a dict that has this key already.
        TypeError: a value that JSON does not know.
    """
    lost: dict[str, str] = {}
    plain = _finite(value, "", lost)
    if isinstance(plain, dict) and NOT_FINITE in plain:
        raise ValueError(f"the key {NOT_FINITE!r} is taken: choose another name")
    if lost and not isinstance(plain, dict):
        raise ValueError(f"{next(iter(lost))} is not finite, and only a dict can say so in JSON")
    if lost:
        plain[NOT_FINITE] = lost
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Any:
    """What :func:`to_json` wrote. Raises ValueError for text that is no JSON."""
    value = json.loads(text)
    lost = value.pop(NOT_FINITE, {}) if isinstance(value, dict) else {}
    for pointer, name in lost.items():
        *parts, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
        place = value
        for part in parts:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last) if isinstance(place, list) else last] = float(name)
    return value


def _finite(value: Any, pointer: str, lost: dict[str, str]) -> Any:
    if isinstance(value, dict):
        parts = {key: str(key).replace("~", "~0").replace("/", "~1") for key in value}
        return {key: _finite(item, f"{pointer}/{parts[key]}", lost) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{pointer}/{i}", lost) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost[pointer] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    return value


@contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], object] = lambda: None) -> Iterator[bool]:
    """Hold the lock of a path against other processes; it is free again when this one ends, however it ends.

    A file system that has no locks gets a lock file instead, with a warning.

    Args:
        wait: whether to wait for another process; else the block runs without the lock and is told so.
        waiting: called once before waiting.

    Yields:
        Whether the lock is held.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    def acquire(lock: BaseFileLock) -> bool:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                return False
            waiting()
            lock.acquire()
        return True

    lock: BaseFileLock = FileLock(path)
    try:
        held = acquire(lock)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        warnings.warn(
            f"the file system of {path.parent} has no locks ({error.strerror}): a lock file stands in. "
            "Do not let two machines work in this folder at once",
            stacklevel=3,
        )
        lock = SoftFileLock(f"{path}.soft")
        held = acquire(lock)
    try:
        yield held
    finally:
        if held:
            lock.release()
