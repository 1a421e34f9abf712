"""Where Orchard keeps things: ``root()`` is the project folder, ``cache_dir()`` what can be deleted and made again."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path


def _is_project(folder: Path) -> bool:
    """Whether ``folder/pyproject.toml`` declares the project ``orchard``."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return project.get("project", {}).get("name") == "orchard"


def root() -> Path:
    """The nearest parent of the working directory, else of this package, whose pyproject.toml names ``orchard``;
    ``~/.cache/orchard`` when there is none (an installed package used outside any checkout)."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if _is_project(folder):
                return folder
    return Path.home() / ".cache" / "orchard"


def cache_dir() -> Path:
    """``$ORCHARD_CACHE``, else ``<root>/.orchard/cache``: manifests, tokenizers and tokenised corpora."""
    folder = os.environ.get("ORCHARD_CACHE")
    return Path(folder).expanduser().resolve() if folder else root() / ".orchard" / "cache"
