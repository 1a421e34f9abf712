"""Files that appear complete or not at all, with the permissions that the user's umask asks for."""

from __future__ import annotations

import os
from pathlib import Path


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
