"""The parameters a notebook declares, in its cell tagged ``parameters``; a name that is not there is an error."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchard.errors import BadInput, closest

TEXTS = ("PROFILE", "DEVICE", "ENGINE", "DATA", "STORE")
PARAMETERS = ("PROFILE", "SEEDS", "DEVICE", "ENGINE", "DATA", "STORE")


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` (an nbformat node).

    Raises:
        BadInput: there is no such file, it is not a notebook, or Jupyter is not installed.
    """
    try:
        import nbformat
    except ImportError:
        raise BadInput(
            "notebooks need Jupyter, which is not installed here: pip install 'orchard[notebooks]'"
        ) from None
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise BadInput(f"no notebook {path}") from None
    except (OSError, ValueError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise BadInput(f"{path} cannot be read as a notebook: {str(error).splitlines()[0]}") from None


def declared_parameters(notebook: Any) -> list[str]:
    """Names assigned in the cell tagged ``parameters``, in order; none if there is no such cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return assigned(cell.source)
    return []


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``BadInput`` for a parameter that the notebook at ``path`` does not declare."""
    declared = declared_parameters(read_notebook(path))
    for name in parameters:
        if name not in declared:
            raise BadInput(f"{path} has no parameter {name!r}: {closest(name, declared)}")


def parse_value(name: str, text: str) -> Any:
    """The value of a parameter given as text: a YAML scalar or list, so ``2`` is a number and ``[0, 1]`` a list.

    Parameters that are text (PROFILE, DEVICE, ENGINE, DATA, STORE) stay text: a folder may be called 2024.
    ``None`` means None, ``1e-3`` is a number, and what is neither number, truth value, null nor list is the text itself,
    letter by letter (a path may hold ``#`` or ``:``, a date is no date).
    """
    import yaml

    if text == "None":
        return None
    if name in TEXTS:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text):
        return float(text)
    quoted = isinstance(value, str) and text[:1] in ("'", '"')
    return value if quoted or value is None or isinstance(value, bool | int | float | list) else text


def assigned(source: str) -> list[str]:
    names: list[str] = []
    with suppress(SyntaxError):
        for node in ast.parse(source).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
