"""Text that is on every machine: Python sources with their docstrings, of the standard library and four packages.

A file is a document and is never divided between splits. Within each split files are taken in the order of a hash of
their names until the next would exceed the split's share of ``max_bytes`` (at least one file), so that a larger corpus
contains the smaller. Left out: tests, generated files and tables, files over 200 kB and files that are not UTF-8. A
comment that opens more than one file (licences, editor settings; digits ignored, so that years do not matter) is cut
from all of them.
"""

from __future__ import annotations

import collections
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchard.data.cache import DataError, sha256
from orchard.data.docstrings import STDLIB, package_folder, package_version, python_files
from orchard.data.source import SHARES, SPLITS, Row, Source, folded, split_of

PACKAGES = ("numpy", "scipy", "pandas", "matplotlib")  # those installed are read
HEADER = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)+")  # blank and comment lines at the start


class EmbeddedText(Source):
    """The embedded corpus. Licences: PSF-2.0 (Python), BSD-3-Clause (numpy, scipy, pandas), PSF-based (matplotlib)."""

    class Config(Source.Config):
        max_bytes: int | None = 8_000_000  # None takes all, about 35 MB

    cfg: Config
    machine_bound = True

    def _folders(self) -> dict[str, str]:
        return {name: folder for name in (STDLIB, *PACKAGES) if (folder := package_folder(name))}

    def _versions(self) -> dict[str, str]:
        return {name: package_version(name) for name in self._folders()}

    def stamp(self) -> Any:
        return [sys.version, self._folders(), self._versions()]

    def describe(self) -> dict[str, Any]:
        return {
            "name": "embedded",
            "licence": "PSF-2.0 (Python), BSD-3-Clause (numpy, scipy, pandas), Matplotlib License (PSF-based)",
            "split_rule": "90/5/5 by SHA-256 of the file's name; a file is a document",
            "versions": self._versions(),
        }

    def _files(self) -> Iterator[tuple[str, Path, int]]:
        """(name, path, bytes) of every file that may be read."""
        for package, folder in self._folders().items():
            for name, path, size in python_files(folder):
                yield f"{package}/{name}", path, size

    def rows(self) -> list[Row]:
        chosen: list[tuple[str, Path]] = []
        limit = math.inf if self.cfg.max_bytes is None else self.cfg.max_bytes
        room = {split: SHARES[split] * limit for split in SPLITS}
        begun: set[str] = set()
        for name, path, size in sorted(self._files(), key=lambda file: sha256(f"order:{file[0]}")):
            split = split_of(name)
            if size <= room[split] or split not in begun:
                chosen.append((name, path))
                begun.add(split)
                room[split] -= size
            else:
                room[split] = -1  # closed: a smaller file that would still fit breaks the order
        texts: dict[str, str] = {}
        for name, path in sorted(chosen):
            try:
                texts[name] = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
            except (UnicodeDecodeError, OSError):
                continue
        if not texts:
            raise DataError(
                f"no Python source was found in {', '.join(self._folders().values())}: this Python comes without its "
                "sources; give DATA a path or a hub id"
            )
        headers = {name: match.group() for name, text in texts.items() if (match := HEADER.match(text))}
        opening = {name: re.sub(r"\d+", "0", folded(header)) for name, header in headers.items()}
        shared = collections.Counter(opening.values())
        for name, header in headers.items():
            if shared[opening[name]] > 1:
                texts[name] = texts[name][len(header) :]
        return [Row(name, text, key=name) for name, text in texts.items()]
