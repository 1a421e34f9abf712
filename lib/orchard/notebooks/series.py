"""Reproduce whole series: every notebook of each, after everything that can be checked first has been."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchard.errors import BadInput, closest
from orchard.notebooks.execution import run_notebook, write_atomically
from orchard.notebooks.parameters import check_parameters
from orchard.notebooks.progress import Execution, progress
from orchard.paths import root


def papers() -> list[str]:
    """Slugs of the papers, in alphabetical order: the packages under ``orchard.papers``."""
    import orchard.papers

    folders = [folder for base in orchard.papers.__path__ for folder in Path(base).iterdir()]
    return sorted(folder.name for folder in folders if (folder / "__init__.py").is_file())


def notebooks_of(slug: str) -> list[Path]:
    """The notebooks of a series, in order; empty where the checkout has none."""
    return sorted((root() / "notebooks" / slug).glob("*.ipynb"))


def check_slug(slug: str) -> None:
    """Raise ``BadInput``, with the closest name, if there is no such paper."""
    if slug not in papers():
        raise BadInput(f"no paper {slug!r}: {closest(slug, papers())}")


def check_request(slugs: Sequence[str], parameters: Mapping[str, Any]) -> None:
    """Check what can be checked before a kernel starts: slugs, notebooks, parameter names, profile, engine, data, device.

    Raises:
        BadInput: with the value, the place and the fix.
    """
    for slug in slugs:
        check_slug(slug)
        found = notebooks_of(slug)
        if not found:
            raise BadInput(f"no notebooks in {root() / 'notebooks' / slug}; run this inside a checkout of Orchard")
        for path in found:
            check_parameters(path, parameters)
        check_profile(slug, parameters.get("PROFILE", "smoke"))
    check_data(parameters.get("DATA", "embedded"))
    from orchard.runs.device import resolve_device
    from orchard.runs.engine import check_engine

    check_engine(parameters.get("ENGINE", "local"))
    resolve_device(parameters.get("DEVICE", "auto"))


def check_profile(slug: str, profile: str) -> None:
    """Raise ``BadInput`` if the paper has no such profile."""
    from importlib import import_module

    known = import_module(f"orchard.papers.{slug}.experiments").PROFILES
    if profile not in known:
        raise BadInput(f"{slug} has no profile {profile!r}: {closest(str(profile), known)}")


def check_data(data: str) -> None:
    """Raise ``DataError`` if ``data`` cannot be found; data of the hub are asked for now, so that no notebook starts in vain."""
    from orchard.data import HubText, text_source

    source = text_source(str(data))
    if isinstance(source, HubText.Config):
        source.build().manifest()


def label(profile: str, data: str) -> str:
    """Name of the output folder of a profile: ``smoke``, or ``smoke-wikitext-2`` for data other than the embedded text."""
    if data == "embedded":
        return profile
    return f"{profile}-{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(data).name or 'data')}"


def reports_folder() -> Path:
    """``$ORCHARD_OUTPUT``, else ``reports`` under the project's root."""
    chosen = os.environ.get("ORCHARD_OUTPUT")
    return Path(chosen).expanduser().absolute() if chosen else root() / "reports"


def reproduce(
    slugs: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    jobs: int = 1,
    timeout_s: float | None = None,
    live: bool = False,
    reports: Path | None = None,
) -> list[Execution]:
    """Execute every notebook of each series, in order, into ``reports/<slug>/<profile>/``.

    All names and values are checked before the first kernel starts. A notebook that fails stops no other.

    Args:
        slugs: papers; all of them when empty.
        parameters: parameters of the notebooks, by name; PROFILE, ENGINE, DATA and so on.
        jobs: notebooks that run at a time.
        timeout_s: limit on each notebook, in seconds.

    Raises:
        BadInput: a slug, a parameter or its value is wrong. Nothing was started.
    """
    parameters = dict(parameters or {})
    slugs = list(dict.fromkeys(slugs)) or papers()
    check_request(slugs, parameters)
    profile, data = str(parameters.get("PROFILE", "smoke")), str(parameters.get("DATA", "embedded"))
    todo: list[tuple[str, Path, Path]] = []
    for slug in slugs:
        folder = (reports or reports_folder()) / slug / label(profile, data)
        todo += [(slug, path, folder) for path in notebooks_of(slug)]
    stop = threading.Event()

    with progress(live) as shown:

        def one(slug: str, path: Path, folder: Path) -> Execution | None:
            if stop.is_set():
                return None
            folder.mkdir(parents=True, exist_ok=True)
            for stale in (folder / f"{path.stem}.json", folder / f"{path.stem}.execution.json"):
                stale.unlink(missing_ok=True)  # results of an earlier execution must not pass for this one's
            env = {"ORCHARD_OUTPUT": str(folder)}
            done = run_notebook(
                path, folder / path.name, parameters, timeout_s, Path.cwd(), shown, f"{slug}/{path.stem}", env, stop
            )
            facts = {**asdict(done), "path": done.path.name, "slug": slug, "notebook": path.stem, "profile": profile,
                     "data": data, "parameters": parameters, "finished": time.strftime("%Y-%m-%d %H:%M")}  # fmt: skip
            write_atomically(folder / f"{path.stem}.execution.json", json.dumps(facts, indent=1, default=str))
            return done

        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            futures = [pool.submit(one, *item) for item in todo]
            try:
                return [done for future in futures if (done := future.result()) is not None]
            except BaseException:
                stop.set()
                raise
