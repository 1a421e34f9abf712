"""Reproduce whole series: every notebook of each, after everything that can be checked first has been."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchard.errors import BadInput
from orchard.notebooks.execution import run_notebook, write_atomically
from orchard.notebooks.parameters import check_parameters
from orchard.notebooks.progress import Execution, progress
from orchard.paths import root

EXECUTIONS = "executions"  # folder beside the executed copies: <notebook>.json says how each execution went


def notebooks_of(slug: str) -> list[Path]:
    """The notebooks of a series, in order; empty where the checkout has none."""
    return sorted((root() / "notebooks" / slug).glob("*.ipynb"))


def check_request(slugs: Sequence[str], parameters: Mapping[str, Any]) -> None:
    """Check before a kernel starts: slugs, notebooks, names of parameters, profile, engine, device, data.

    The hub is asked for data of its own now, so that no notebook starts in vain.

    Raises:
        BadInput: with the value, the place and the fix.
    """
    from orchard import series
    from orchard.data import HubText, text_source
    from orchard.runs import Store
    from orchard.runs.device import resolve_device
    from orchard.runs.engine import check_engine

    profile = parameters.get("PROFILE", "smoke")
    for slug in slugs:
        series.paper_module(slug, "experiments")
        found = notebooks_of(slug)
        if not found:
            raise BadInput(f"no notebooks in {root() / 'notebooks' / slug}; run this inside a checkout of Orchard")
        for path in found:
            check_parameters(path, parameters)
        series.check_profile(slug, profile)
    if profile in series.PUBLISHED_SCALE:
        raise BadInput(
            f"PROFILE {profile!r} is too large for notebooks; `orchard run SLUG --profile {profile} --dry-run` shows it"
        )
    Store(parameters.get("STORE"))
    series.check_seeds(parameters.get("SEEDS"))
    check_engine(parameters.get("ENGINE", "local"))
    resolve_device(parameters.get("DEVICE", "auto"))
    source = text_source(str(parameters.get("DATA", "embedded")))
    if isinstance(source, HubText.Config):
        source.build().manifest()


def reproduce(
    slugs: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    *,
    jobs: int = 1,
    timeout_s: float | None = None,
    live: bool = False,
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
    from orchard import series
    from orchard.runs import Setting

    parameters = dict(parameters or {})
    slugs = list(dict.fromkeys(slugs)) or series.slugs()
    check_request(slugs, parameters)
    seeds = series.check_seeds(parameters.get("SEEDS"))
    setting = Setting(str(parameters.get("PROFILE", "smoke")), seeds, str(parameters.get("DATA", "embedded")))
    folders = {slug: series.output_folder(slug, setting, str(parameters.get("DEVICE", "auto"))) for slug in slugs}
    todo = [(slug, path, folders[slug]) for slug in slugs for path in notebooks_of(slug)]
    env = {"ORCHARD_OUTPUT": str(series.reports_folder())}  # the notebooks' own results go beside their copies
    stop = threading.Event()

    with progress(live) as shown:

        def one(slug: str, path: Path, folder: Path) -> Execution | None:
            if stop.is_set():
                return None
            facts = folder / EXECUTIONS / f"{path.stem}.json"
            for stale in (folder / f"{path.stem}.json", facts):
                stale.unlink(missing_ok=True)  # results of an earlier execution must not pass for this one's
            name = f"{slug}/{path.stem}"
            done = run_notebook(path, folder / path.name, parameters, timeout_s, Path.cwd(), shown, name, env, stop)
            content = {
                **asdict(done), "path": path.name, "slug": slug, "notebook": path.stem, "profile": setting.profile,
                "data": setting.data, "parameters": parameters, "finished": time.strftime("%Y-%m-%d %H:%M"),
            }  # fmt: skip
            write_atomically(facts, json.dumps(content, indent=1, default=str))
            return done

        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            futures = [pool.submit(one, *item) for item in todo]
            try:
                return [done for future in futures if (done := future.result()) is not None]
            except BaseException:
                stop.set()
                raise
