"""``python -m orchard.notebooks check PATH...``: print what keeps notebooks from being committed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchard.errors import OrchardError
from orchard.notebooks.hygiene import check_hygiene


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    if len(arguments) < 2 or arguments[0] != "check":
        say("usage: python -m orchard.notebooks check PATH...")
        return 2
    paths = [
        p for given in map(Path, arguments[1:]) for p in (sorted(given.rglob("*.ipynb")) if given.is_dir() else [given])
    ]
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    try:
        problems = [problem for path in paths for problem in check_hygiene(path)]
    except OrchardError as error:
        say(str(error))
        return error.exit_code
    for problem in problems:
        say(problem)
    say(f"{len(paths)} notebooks, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
