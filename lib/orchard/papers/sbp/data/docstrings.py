"""Docstrings of installed Python packages: real text that is on every machine, with relations that the code states.

Every docstring of a module, class or function with at least 40 characters is a document, read through `ast`, never imported. A document
is called ``package/path/of/module.py::Class.function``; modules have nothing after the colons. Splits are 80/10/10 by whole top-level
module of the standard library and by whole package elsewhere: docstrings that were copied and edited within a package do not leak.

Relations score pairs. Nothing that is trained or paired may read them:

    override     same name in a class and in a subclass of it       same class    two functions of one class, or a class and its function
    same name    functions of one name in different modules        same module   anything else in one file
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from orchard.data.cache import cached, sha256
from orchard.data.docstrings import STDLIB, definitions, package_folder, package_version, parsed, python_files
from orchard.data.source import Row, Source
from orchard.errors import BadInput
from orchard.runs.code import code_sha256

SHORTEST = 40  # characters
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
RELATIONS = ("none", "same module", "same name", "same class", "override")  # a pair has the last that holds


class Docstrings(Source):
    """The docstrings of packages; those that are not installed are left out, which the manifest shows."""

    class Config(Source.Config):
        packages: list[str] = [STDLIB]  # names to import; "python" is the standard library
        # Of source, a package: whole top-level modules in the order of a hash, each split its share.
        max_bytes: int | None = None

    cfg: Config
    machine_bound = True

    def _folders(self) -> dict[str, str]:
        return {name: folder for name in self.cfg.packages if (folder := package_folder(name))}

    def stamp(self) -> Any:
        return [sys.version, self._folders(), {name: package_version(name) for name in self._folders()}]

    def describe(self) -> dict[str, Any]:
        found = self._found()
        versions = {name: package_version(name) for name in self._folders()}
        versions |= {f"{name}, sha256": digest for name, digest in found["sha256"].items()}
        return {
            "name": "docstrings",
            "licence": "those of the packages: PSF-2.0 (Python), see the metadata of each for the others",
            "split_rule": "80/10/10 by SHA-256 of the top-level module (standard library) or package",
            "versions": versions,
        }

    def rows(self) -> Iterator[Row]:
        for name, text in self._found()["documents"]:
            yield Row(name, text, key=name, split=split_of(top_level(name)))

    def bases(self) -> dict[str, list[str]]:
        """Names of the bases of every class, as they are written, by the class's name."""
        found: dict[str, list[str]] = self._found()["bases"]
        return found

    def _found(self) -> dict[str, Any]:
        """Documents, classes and hashes of all packages; reading them takes seconds, so they are cached."""

        def write(folder: Path) -> None:
            whole: dict[str, Any] = {"documents": [], "bases": {}, "sha256": {}}
            for package, place in self._folders().items():
                documents, bases = read_package(package, place, self.cfg.max_bytes)
                text = "\n".join(text for _, text in documents)
                whole["documents"] += documents
                whole["bases"] |= bases
                whole["sha256"][package] = sha256(text)
            (folder / "docstrings.json").write_text(json.dumps(whole), encoding="utf-8")

        key = [self.stamp(), self.cfg.max_bytes, code_sha256([__name__])]
        path = cached("docstrings", key, write) / "docstrings.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if not found["documents"]:
            names = ", ".join(self.cfg.packages)
            raise BadInput(f"no docstring was found in {names}: name packages that are installed")
        return found


def split_of(top: str) -> str:
    """The split of a top-level module or package: a number in [0, 1) from the SHA-256 of its name, cut at 0.8 and 0.9."""
    position = int(sha256(f"split:{top}")[:16], 16) / 2**64
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def read_package(
    package: str, folder: str | Path, max_bytes: int | None = None
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Names and texts of the docstrings below a folder, in the order of the names, and the bases of its classes."""
    documents: list[tuple[str, str]] = []
    bases: dict[str, list[str]] = {}
    for name, path in _chosen(package, folder, max_bytes):
        try:
            tree = parsed(path.read_bytes())
        except OSError:
            continue
        for inside, node in definitions(tree, handlers=False) if tree else ():
            if isinstance(node, ast.ClassDef):
                bases[name + inside] = [_last_name(base) for base in node.bases]
            text = ast.get_docstring(node, clean=False)
            cleaned = inspect.cleandoc(text or "").strip()
            if (
                len(cleaned) >= SHORTEST and cleaned == cleaned.encode(errors="ignore").decode()
            ):  # no unpaired surrogate
                documents.append((name + inside, cleaned))
    return documents, bases


def _chosen(package: str, folder: str | Path, max_bytes: int | None) -> list[tuple[str, Path]]:
    """The name that opens the names of a file's documents, and the file."""
    groups: dict[str, list[tuple[str, Path, int]]] = {}
    for below, path, size in python_files(folder):
        name = f"{package}/{below}::"
        groups.setdefault(top_level(name), []).append((name, path, size))
    room = {split: share * max_bytes if max_bytes else math.inf for split, share in SHARES.items()}
    chosen = []
    for top in sorted(groups, key=lambda top: sha256(f"order:{top}")):
        split, total = split_of(top), sum(size for *_, size in groups[top])
        if total <= room[split]:
            chosen += [(name, path) for name, path, _ in groups[top]]
            room[split] -= total
    return sorted(chosen)


def _last_name(base: ast.expr) -> str:
    while isinstance(base, ast.Subscript | ast.Call):
        base = base.value if isinstance(base, ast.Subscript) else base.func
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def top_level(name: str) -> str:
    """What a document is split by: ``python/json`` for the standard library, ``numpy`` elsewhere."""
    package, _, rest = name.partition("/")
    module = rest.partition("::")[0].split("/")[0].removesuffix(".py")
    return f"{package}/{module}" if package == STDLIB else package


class Relations:
    """What the code says of two documents."""

    def __init__(self, names: list[str], bases: dict[str, list[str]]) -> None:
        self.module, self.inside = zip(*(name.partition("::")[::2] for name in names), strict=True)
        self.owner = [inside.rpartition(".")[0] for inside in self.inside]
        self.function = [inside.rpartition(".")[2] for inside in self.inside]
        self.is_class = [name in bases for name in names]
        by_name: dict[str, set[str]] = {}  # of all classes of one name: an import may rename, an index may not
        for written, found in bases.items():
            by_name.setdefault(written.rpartition("::")[2].rpartition(".")[2], set()).update(filter(None, found))
        self.above = {name: _ancestors(name, by_name) for name in by_name}

    def of(self, first: Int[np.ndarray, "pairs"], second: Int[np.ndarray, "pairs"]) -> Int[np.ndarray, "pairs"]:
        """The number in ``RELATIONS`` of every pair."""
        return np.array([self._one(int(i), int(j)) for i, j in zip(first, second, strict=True)], dtype=np.int64)

    def _one(self, i: int, j: int) -> int:
        function = bool(self.function[i]) and not self.is_class[i] and not self.is_class[j]
        named_alike = function and self.function[i] == self.function[j]
        a, b = (self.owner[k].rpartition(".")[2] for k in (i, j))
        if named_alike and a and b and (b in self.above.get(a, ()) or a in self.above.get(b, ())):
            return RELATIONS.index("override")
        if self.module[i] == self.module[j]:
            one, other = {self.owner[i], self.inside[i]}, {self.owner[j], self.inside[j]}
            siblings = self.owner[i] in other - {""} or self.owner[j] in one - {""}
            return RELATIONS.index("same class" if siblings else "same module")
        return RELATIONS.index("same name") if named_alike else 0


def _ancestors(name: str, bases: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for base in bases.get(todo.pop(), ()):
            if base not in found and base != "object":
                found.add(base)
                todo.append(base)
    return found - {name}
