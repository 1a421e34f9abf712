"""Code that is defined in a notebook, or in the script that is running, where a file as a whole would say too much.

A class of a notebook counts by its own statement and by what that uses: further statements of the notebook, the values of plain
variables, and modules. Another cell, or another line of the script, changes nothing. Statements are looked up newest first, so that a
cell that was run again counts as it is now.
"""

from __future__ import annotations

import ast
import copy
import json
import linecache
import symtable
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from orchard.errors import BadInput
from orchard.runs.code import Use, attributes, is_own, of_module, tree_sha256, uses_of
from orchard.values import MAIN, Node, canonical, code_in, is_code

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, Path)


def is_main(value: Any) -> bool:
    """Whether a class or function is defined in the notebook or in the script that is running."""
    return getattr(value, "__module__", None) in MAIN


def is_interactive() -> bool:
    """Whether the main module has no file, so that another process cannot import it."""
    return getattr(sys.modules["__main__"], "__file__", None) is None


def definitions(values: Iterable[Any]) -> tuple[str, set[Use]]:
    """The code of classes and functions of the main module: a text that changes with it, and what it uses of modules.

    Raises:
        BadInput: the source cannot be found, as at a plain prompt.
    """
    main = vars(sys.modules["__main__"])
    todo = [_top(value) for value in values]
    texts: dict[str, str] = {}
    uses: set[Use] = set()
    while todo:
        name = todo.pop()
        if name in texts:
            continue
        statement = _statement(name, main)
        texts[name] = tree_sha256(statement)
        uses |= uses_of(statement, main.get("__package__") or "")  # imports inside functions
        chains = attributes(statement)
        for used in sorted(_globals(statement) & main.keys()):
            value = main[used]
            if isinstance(value, ModuleType):
                uses.update(of_module(value.__name__, chains.get(used, {()})))
            elif isinstance(value, Node) or (is_code(value) and not is_main(value)):
                texts[used] = json.dumps(canonical(value, location=False))
                todo += [_top(part) for part in code_in(value) if is_main(part)]
                uses.update((part.__module__ or "", _top(part)) for part in code_in(value) if not is_main(part))
            elif (text := _plain(value)) is not None:
                texts[used] = text
            else:  # of the notebook's own, or an object that counts by the statement that makes it
                todo.append(used)
    return json.dumps(texts, sort_keys=True), {use for use in uses if is_own(use[0])}


def _top(value: Any) -> str:
    """The name at the top level of its module that holds a class or function."""
    return str(value.__qualname__).partition(".")[0]


def _plain(value: Any) -> str | None:
    """A plain value as text; None for anything else."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if type(value) not in (list, tuple, set, frozenset, dict):
        return f"{type(value).__name__} {value!r}" if isinstance(value, _PLAIN) else None
    items = [part for pair in value.items() for part in pair] if type(value) is dict else value
    parts = [_plain(item) for item in items]
    if None in parts:
        return None
    return f"{type(value).__name__} {sorted(map(str, parts)) if isinstance(value, set | frozenset) else parts}"


def _statement(name: str, main: dict[str, Any]) -> ast.stmt:
    """The newest statement at the top level that binds a name of the main module."""
    for tree in _sources(main.get(name)):
        for statement in reversed(tree.body):
            if name in _bound(statement):
                return statement
    raise BadInput(
        f"the source of {name!r} (module __main__) cannot be found, so that a change of it would go unnoticed: "
        "define it in a file, or in a cell of a notebook"
    )


def _sources(value: Any) -> Iterator[ast.Module]:
    """Syntax trees of the main module: the cell or file that defines a value, if it is known, then all cells, newest first."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    code = _code(value)
    lines = linecache.getlines(code.co_filename) if code is not None else []
    if lines:
        yield ast.parse("".join(lines))
    elif file is not None and file.endswith(".py"):
        yield ast.parse(Path(file).read_bytes())
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    for cell in reversed(shell.user_ns.get("In", [])) if shell is not None else []:
        try:
            yield ast.parse(cell)
        except SyntaxError:  # it never ran
            continue


def _code(value: Any) -> CodeType | None:
    """The code of a function, or of the first method of a class."""
    if not is_main(value):
        return None
    parts = vars(value).values() if isinstance(value, type) else [value]
    own = (getattr(part, "__func__", part) for part in parts)
    return next((part.__code__ for part in own if isinstance(part, FunctionType) and is_main(part)), None)


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement binds at the level where it stands."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    found: set[str] = set()
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            found |= _bound(child)
        else:
            found |= {
                node.id for node in ast.walk(child) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return found


def _globals(statement: ast.stmt) -> set[str]:
    """Names of the module that a statement reads, wherever in it; annotations aside."""
    bare = _Bare().visit(copy.deepcopy(statement))
    top = symtable.symtable(ast.unparse(ast.fix_missing_locations(bare)), "<definition>", "exec")

    def names(table: symtable.SymbolTable) -> Iterator[str]:
        yield from (s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global()))
        for child in table.get_children():
            yield from names(child)

    return {name for name in names(top) if not name.startswith("__")}


class _Bare(ast.NodeTransformer):
    """Takes annotations away."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)
