"""Installed Python packages as text: where they are, their files, and what those define and document.

Nothing is imported: code is read through `ast`.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

STDLIB = "python"  # the standard library, as a package
NOISE = (  # folders: tests, demos, tables, copies of other packages, and what only some Python versions have
    *("test", "tests", "testing", "_testing", "idlelib", "turtledemo", "encodings", "pydoc_data", "externals"),
    *("_vendor", "distutils", "lib2to3", "ensurepip", "_pyrepl", "site-packages", "dist-packages", "__pycache__"),
)
GENERATED = re.compile(r"_sysconfig.*|__config__\.py|_?version\.py|sitecustomize\.py")
MAX_FILE = 200_000  # bytes

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def package_folder(package: str) -> str | None:
    """The folder of an installed package, or of the standard library (``"python"``); None where there is none."""
    if package == STDLIB:
        return sysconfig.get_path("stdlib")
    spec = importlib.util.find_spec(package)  # finds, does not import
    return next(iter(spec.submodule_search_locations), None) if spec and spec.submodule_search_locations else None


@functools.cache  # a process has imported what it has: an upgrade shows in the next one
def package_version(package: str) -> str:
    """The version of an installed package; of Python for the standard library."""
    if package == STDLIB:
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name: sklearn is scikit-learn
        return importlib.metadata.version(importlib.metadata.packages_distributions()[package][0])


def python_files(folder: str | Path) -> Iterator[tuple[str, Path, int]]:
    """Of every source file of a package that is worth reading: its name below the folder (``json/decoder.py``), its path, its bytes."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOISE]
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/").removeprefix(".")
        for file in files:
            if file.endswith(".py") and not GENERATED.fullmatch(file):
                path = Path(parent, file)
                size = path.stat().st_size
                if 0 < size <= MAX_FILE:
                    yield f"{prefix}/{file}".removeprefix("/"), path, size


def parsed(source: str | bytes) -> ast.Module | None:
    """The syntax tree of Python source; None where it is none of this Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in old code
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def definitions(tree: ast.Module, handlers: bool = True) -> Iterator[tuple[str, Definition]]:
    """The module, called "", then its classes and functions at any depth, with dotted names, in the order of the source.

    ``handlers``: with those that ``except`` clauses define, for want of an import.
    """
    yield "", tree
    blocks = ("body", "handlers", "orelse", "finalbody", "cases") if handlers else ("body", "orelse", "finalbody")
    yield from _inside(tree, "", blocks)


def _inside(node: ast.AST, prefix: str, blocks: tuple[str, ...]) -> Iterator[tuple[str, Definition]]:
    for block in blocks:  # where statements stand
        for child in getattr(node, block, ()):
            name = prefix
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}.{child.name}" if prefix else child.name
                yield name, child
            yield from _inside(child, name, blocks)


def documented(tree: ast.Module) -> Iterator[tuple[Definition, str]]:
    """Every definition that has a docstring, with the docstring cleaned of its indentation; outer ones before those inside them."""
    for node in ast.walk(tree):
        if isinstance(node, Definition) and (docstring := ast.get_docstring(node)):
            yield node, docstring


def code_and_docstrings(text: str) -> tuple[str, str]:
    """Python source without its docstrings, and the docstrings, joined by blank lines. What is no Python is all code."""
    tree = parsed(text)
    if tree is None:
        return text, ""
    lines, docstrings = re.split(r"\r\n?|\n", text), []  # what Python counts as lines
    for node, docstring in documented(tree):
        docstrings.append(docstring)
        first = node.body[0]
        for number in range(first.lineno - 1, first.end_lineno or first.lineno):
            lines[number] = ""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)), "\n\n".join(docstrings)
