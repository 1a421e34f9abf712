"""The code part of a run's identity: a hash of the syntax trees of the orchard modules that a run reaches.

Reached means imported, directly or not, by the modules that define the run and the components in its config. Only the syntax tree
counts, without docstrings: a comment or a new line changes nothing, a constant does. ``orchard.runs`` itself is left out, since it
stores results and does not make them. The text of the tree does not depend on the Python version (3.11 to 3.13), so that a run
made on one machine is known on another.

A file is read once in a process, when it is first needed: an edit while the process lives does not change what it has imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

PACKAGE = "orchard"
HOME = Path(__file__).parents[1]
LEFT_OUT = ("orchard.runs", "orchard.paths", "orchard.errors", "orchard.files")


def code_sha256(modules: Iterable[str]) -> str:
    """Hash the syntax trees of ``modules`` and of every orchard module they import.

    Modules outside orchard (a user's own) are hashed too when their source can be found, but not followed.
    """
    return _code_sha256(frozenset(modules))


@lru_cache(maxsize=4096)
def _code_sha256(modules: frozenset[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(reached(modules)):
        path = _source(name)
        if path is not None:
            digest.update(f"{name}\0{_read(name, path)[0]}\n".encode())
    return digest.hexdigest()


def reached(modules: Iterable[str]) -> set[str]:
    """Names of the modules in ``modules`` and of every orchard module reachable from them by imports."""
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name in seen or name.startswith(LEFT_OUT):
            continue
        seen.add(name)
        path = _source(name)
        if name.split(".")[0] == PACKAGE and path is not None:
            todo.extend(_read(name, path)[1])
    return seen


@lru_cache(maxsize=4096)
def _source(name: str) -> Path | None:
    """The file of a module, found without importing anything; outside orchard only modules that are loaded are known."""
    package, *parts = name.split(".")
    if package == PACKAGE:
        stem = HOME.joinpath(*parts)
        return next(
            (
                p
                for p in (stem.with_suffix(".py") if parts else stem / "__init__.py", stem / "__init__.py")
                if p.is_file()
            ),
            None,
        )
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if file and file.endswith(".py") else None


@lru_cache(maxsize=4096)
def _read(name: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Of a module: the hash of its syntax tree, and the orchard modules that it imports."""
    tree = ast.parse(path.read_bytes())
    return _tree_sha256(tree), _imports(tree, name if path.name == "__init__.py" else name.rpartition(".")[0], name)


def _imports(tree: ast.Module, package: str, name: str) -> tuple[str, ...]:
    """Orchard modules that the module ``name`` of ``package`` imports anywhere in its source, and the packages that hold them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    modules = {m for m in found if m.split(".")[0] == PACKAGE and _source(m)}
    for module in [*modules, name]:
        parts = module.split(".")
        modules.update(".".join(parts[:i]) for i in range(1, len(parts)))
    return tuple(sorted(modules))


def tree_sha256(source: str) -> str:
    """Hash of the syntax tree of Python source, without comments, layout and docstrings."""
    return _tree_sha256(ast.parse(source))


def _tree_sha256(tree: ast.Module) -> str:
    tokens: list[str] = []
    _canonical(tree, tokens)
    return hashlib.sha256("\0".join([*tokens, ""]).encode("utf-8", "backslashreplace")).hexdigest()


# Fields that only some Python versions have, or that say nothing more.
_SKIPPED = frozenset(("type_params", "kind", "type_comment", "type_ignores", "ctx"))


def _canonical(node: object, tokens: list[str]) -> None:
    if isinstance(node, ast.AST):
        tokens.append(f"({type(node).__name__}")
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or value == [] or field in _SKIPPED:
                continue
            if field == "body" and isinstance(value, list) and _is_docstring(node, value[0]):
                value = value[1:]
            tokens.append(field)
            _canonical(value, tokens)
        tokens.append(")")
    elif isinstance(node, list):
        tokens.append("[")
        for item in node:
            _canonical(item, tokens)
        tokens.append("]")
    else:
        tokens.append(f"{type(node).__name__}:{node!r}")


def _is_docstring(parent: ast.AST, first: ast.stmt) -> bool:
    return (
        isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
