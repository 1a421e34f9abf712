"""What keeps a notebook from being committed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchard.notebooks.parameters import PARAMETERS, assigned, read_notebook

MAX_CODE_LINES = 15


def check_hygiene(path: Path) -> list[str]:
    """What keeps a notebook from being committed; empty when nothing does.

    No outputs, execution counts or widget state; kernel ``python3``; at most 15 lines of code in a cell (blank lines
    and comments not counted); one cell tagged ``parameters`` that assigns exactly PROFILE, SEEDS, DEVICE, ENGINE, DATA
    and STORE (``index.ipynb`` needs none); plain Python: no magics, no shell, no installs; no class definitions.
    """
    import nbformat

    notebook = read_notebook(path)
    problems: list[str] = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        problems.append(f"{path}: not a valid notebook: {str(error).splitlines()[0]}")
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        problems.append(f"{path}: the kernel is named {kernel!r}; it must be 'python3'")
    if "widgets" in notebook.metadata:
        problems.append(f"{path}: holds widget state; clear it")
    code = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    tagged = [cell for _, cell in code if "parameters" in cell.metadata.get("tags", [])]
    if path.name != "index.ipynb":
        if len(tagged) != 1:
            problems.append(f"{path}: {len(tagged)} cells are tagged 'parameters'; one must be")
        elif set(assigned(tagged[0].source)) != set(PARAMETERS):
            problems.append(f"{path}: the parameters are {assigned(tagged[0].source)}; they must be {list(PARAMETERS)}")
    for number, cell in code:
        problems += [f"{path}: cell {number}: {problem}" for problem in _cell_problems(cell)]
    return problems


def _cell_problems(cell: Any) -> Iterator[str]:
    if cell.outputs:
        yield "has outputs; clear them"
    if cell.execution_count is not None:
        yield "has an execution count; clear it"
    lines = sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())
    if lines > MAX_CODE_LINES:
        yield f"has {lines} lines of code; at most {MAX_CODE_LINES}: move some into the library"
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        magic = next((line.strip() for line in cell.source.splitlines() if line.lstrip().startswith(("!", "%"))), None)
        yield (
            f"{magic!r} is no Python: no magics, no shell"
            if magic
            else f"is no Python: {error.msg}, line {error.lineno}"
        )
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield f"defines the class {node.name}; classes belong in the library"
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in imported:
            if module.split(".")[0] in ("subprocess", "pip", "ensurepip", "pty"):
                yield f"imports {module}; no shell and no installs in a notebook"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.system", "os.popen", "get_ipython"):
            yield f"calls {ast.unparse(node.func)}; no shell and no magics in a notebook"
