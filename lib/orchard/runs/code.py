"""The code part of a run's identity: a hash of the syntax trees of the modules that a run reaches.

Reached means imported, directly or not, by the modules that define the classes and functions in its config. Modules of orchard are
followed, and modules of the user: all that are neither part of Python nor installed. An import counts by the names that are used:

    from orchard.nn import Decoder      reaches orchard.nn.transformer, which defines it, and nothing else of orchard.nn

because a file of nothing but a docstring, imports and ``__all__`` computes nothing and is left out. Only the syntax tree counts, without
docstrings: a comment or a new line changes nothing, a constant does. What stores results and does not make them is left out.

A file is read when it is first needed, and again when its module was loaded again: an edit while the process lives changes nothing that
was imported before. Code of a notebook or of the running script is read by `cells`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

PACKAGE = "orchard"
HOME = Path(__file__).parents[1]
LEFT_OUT = ("orchard.runs", "orchard.paths", "orchard.errors", "orchard.files", "orchard.train.mirror")
COUNTED = ("orchard.runs.measurement",)  # although it is part of what is left out

Use = tuple[str, str | None]
"""A module and what is used of it: a name, or None for all of it."""


def code_sha256(modules: Iterable[str]) -> str:
    """Hash the syntax trees of ``modules`` and of every module that they reach."""
    return uses_sha256((name, None) for name in modules)


def uses_sha256(uses: Iterable[Use]) -> str:
    """Hash the syntax trees of the modules that define what is used, and of every module that they reach."""
    key = frozenset(uses)
    if any(module.loaded is not _spec(name) for name, module in _MODULES.items()):
        _DIGESTS.clear()
    if key not in _DIGESTS:
        digest = hashlib.sha256()
        for name in sorted(reached_by(key)):
            digest.update(f"{name}\0{_known(name).sha256}\n".encode())
        _DIGESTS[key] = digest.hexdigest()
    return _DIGESTS[key]


def reached(modules: Iterable[str]) -> set[str]:
    """Names of the modules in ``modules`` and of all that they reach: those whose syntax trees count."""
    return reached_by((name, None) for name in modules)


def reached_by(uses: Iterable[Use]) -> set[str]:
    """Names of the modules that define what is used, and of all that they reach."""
    found: set[str] = set()
    seen: set[Use] = set()
    todo = [name for use in uses for name in _defining(*use, seen)]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [other for use in _known(name).uses for other in _defining(*use, seen)]
    return found


def is_own(name: str) -> bool:
    """Whether a module is orchard's or the user's, with a source file: what is hashed."""
    return _file(name) is not None


def is_installed(name: str) -> bool:
    """Whether a module is part of Python or of an installed package: what the versions in the provenance stand for."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file:
        return _installed(Path(file))
    above = name.rpartition(".")[0]  # a part of a compiled module has no file of its own
    return is_installed(above) if above else name in sys.stdlib_module_names


@dataclass(frozen=True)
class _Module:
    """What a source file says: the hash of its tree, what it uses of other modules, and whether it is nothing but imports."""

    sha256: str
    tree: ast.Module
    package: str  # what relative imports start from
    face: bool
    names: dict[str, Use]  # bound by imports at the top of the file
    loaded: Any  # the module's spec when the file was read: another one after a reload

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """Found when asked for, since a package and the modules below it may import one another."""
        return tuple(sorted(uses_of(self.tree, self.package), key=str))


_MODULES: dict[str, _Module] = {}
_DIGESTS: dict[frozenset[Use], str] = {}  # of what is known as it is


def _spec(name: str) -> Any:
    return getattr(sys.modules.get(name), "__spec__", None)


def _known(name: str) -> _Module:
    """The module of a name for which :func:`is_own` holds."""
    spec = _spec(name)
    module = _MODULES.get(name)
    if module is None or module.loaded is not spec:
        path = _file(name)
        assert path is not None
        source = path.read_bytes()
        try:
            tree = ast.parse(source)
        except SyntaxError:  # it cannot run either, but something may import it in vain
            tree = ast.Module([ast.Expr(ast.Constant(source)), ast.Pass()], [])
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        face = all(_is_face_line(statement) for statement in tree.body)
        names = dict(_imported(tree.body, package))
        module = _MODULES[name] = _Module(tree_sha256(tree), tree, package, face, names, spec)
    return module


def _defining(name: str, used: str | None, seen: set[Use]) -> Iterator[str]:
    """The modules that define ``used`` of module ``name``, and the packages above them, so far as they are more than faces.

    ``seen``: what was asked before, and need not be answered again.
    """
    left_out = name.startswith(LEFT_OUT) and name not in COUNTED
    if (name, used) in seen or left_out or _file(name) is None:
        return
    seen.add((name, used))
    parts = name.split(".")
    packages = (".".join(parts[:i]) for i in range(1, len(parts)))
    yield from (package for package in packages if _file(package) is not None and not _known(package).face)
    module = _known(name)
    if not module.face:
        yield name
    if module.face and used is not None and module.names.get(used, (name, used)) != (name, used):
        yield from _defining(*module.names[used], seen)
    elif used is not None and _file(f"{name}.{used}") is not None:
        yield from _defining(f"{name}.{used}", None, seen)
    elif module.face and not (used or "").startswith("__"):  # all of it, or a name that its imports do not tell
        for use in module.names.values():
            yield from _defining(*use, seen)


def _is_face_line(statement: ast.stmt) -> bool:
    """A docstring, an import, a dunder such as ``__all__``, or an import for type checkers."""
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id.startswith("__") for target in statement.targets)
    if isinstance(statement, ast.If):
        return _for_type_checkers(statement)
    return isinstance(statement, ast.Import | ast.ImportFrom) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _for_type_checkers(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        and not node.orelse
    )


def uses_of(tree: ast.AST, package: str) -> set[Use]:
    """What the code of a tree uses of other modules; ``package`` is what relative imports start from.

    A module that is imported as such counts by the attributes that are asked of it, and as a whole where it is passed on.
    """
    imports = [node for node in _executed(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    chains = attributes(tree)
    found: set[Use] = set()
    for bound, (module, name) in _imported(imports, package):
        if name is not None and not _is_submodule(module, name):
            found.add((module, name))
            continue
        whole = module if name is None else f"{module}.{name}"
        found.update(of_module(whole, chains.get(bound, {()})))
    return found


def of_module(module: str, chains: Iterable[tuple[str, ...]]) -> Iterator[Use]:
    """What is used of a module by chains of attributes, such as ``("nn", "Decoder")`` of orchard."""
    for chain in chains:
        inner, rest = module, list(chain)
        while rest and _is_submodule(inner, rest[0]):
            inner = f"{inner}.{rest.pop(0)}"
        yield inner, rest[0] if rest else None


def _is_submodule(module: str, name: str) -> bool:
    """Whether ``name`` is a module below ``module`` and is not hidden by something that the package imports under this name."""
    if _file(f"{module}.{name}") is None:
        return False
    return _file(module) is None or _known(module).names.get(name, (module, name)) == (module, name)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not _for_type_checkers(child):
            yield from _executed(child)


def _imported(statements: Iterable[ast.AST], package: str) -> Iterator[tuple[str, Use]]:
    """(local name, what it stands for) of import statements. ``import a.b`` binds ``a``, and runs ``a.b`` too, whatever is used of it; a
    star binds every name, here ``*``."""
    for node in statements:
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                yield local, (alias.name if alias.asname else local, None)
                yield f"import {alias.name}", (alias.name, "__name__")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:  # of no package: it would fail
                    continue
            for alias in node.names:
                yield alias.asname or alias.name, (base, None if alias.name == "*" else alias.name)


def attributes(tree: ast.AST) -> dict[str, set[tuple[str, ...]]]:
    """For every name that is read: the chains of attributes asked of it, ``()`` where the name stands alone."""
    found: dict[str, set[tuple[str, ...]]] = {}

    def visit(node: ast.AST) -> None:
        chain: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            found.setdefault(inner.id, set()).add(tuple(chain))
        else:
            for child in ast.iter_child_nodes(inner):
                visit(child)

    visit(tree)
    return found


@lru_cache(maxsize=4096)
def _file(name: str) -> Path | None:
    """The source file of a module of orchard or of the user, found without importing anything; None for any other."""
    package, *parts = name.split(".")
    if package == PACKAGE:
        stem = HOME.joinpath(*parts)
        places = (stem / "__init__.py", stem.with_suffix(".py")) if parts else (stem / "__init__.py",)
        return next((place for place in places if place.is_file()), None)
    file = getattr(sys.modules.get(name), "__file__", None) or _found(name)
    path = Path(file) if file and file.endswith(".py") else None
    return path if path is not None and path.is_file() and not _installed(path) else None


@lru_cache(maxsize=4096)
def _found(name: str) -> str | None:
    """Where a module would be imported from."""
    above = name.rpartition(".")[0]
    if above == "" and name in sys.stdlib_module_names:
        return None
    try:
        folder = None if above == "" else _folders(above)
        finders: Iterable[Any] = (PathFinder, *sys.meta_path) if folder is None or folder else ()
        specs = (finder.find_spec(name, folder) for finder in finders)
        return next((spec.origin for spec in specs if spec is not None), None)
    except (ImportError, ValueError):
        return None


def _folders(name: str) -> list[str]:
    """Where modules below a package are looked for."""
    loaded = getattr(sys.modules.get(name), "__path__", None)
    if loaded is not None:
        return list(loaded)
    above = name.rpartition(".")[0]
    spec = PathFinder.find_spec(name, _folders(above) if above else None)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


_PYTHON = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))


@lru_cache(maxsize=4096)
def _installed(path: Path) -> bool:
    path = path.resolve()
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(
        path.is_relative_to(home) for home in _PYTHON
    )


def tree_sha256(tree: ast.AST) -> str:
    """Hash of a syntax tree, without docstrings; comments and layout are none of it. Equal on Python 3.11 to 3.13."""
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
