"""Reproduce whole series: first everything that can be checked is, then all runs are computed in one pool, then every notebook is
executed on the finished store."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchard.errors import BadInput, OrchardError
from orchard.notebooks.execution import check_limit, run_notebook, write_atomically
from orchard.notebooks.parameters import check_parameters
from orchard.notebooks.progress import Execution, Progress, progress
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
    check_home()
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
    series.check_folders(parameters.get("STORE"))
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
    jobs: int | None = None,
    timeout_s: float | None = None,
    live: bool = False,
    executed: Callable[[Path], object] = lambda copy: None,
) -> list[Execution]:
    """Compute the runs of each series in one pool, then execute its notebooks into ``reports/<slug>/<profile>/``.

    All names and values are checked before anything starts. A run or a notebook that fails stops no other.

    Args:
        slugs: papers; all of them when empty.
        parameters: parameters of the notebooks, by name; PROFILE, ENGINE, DATA and so on.
        jobs: runs and notebooks at a time; by default one per core for runs on a CPU and for notebooks.
        timeout_s: limit on each notebook, in seconds.
        executed: called with every executed copy, one at a time, while others are executed.

    Raises:
        BadInput: a slug, a parameter or its value is wrong. Nothing was started.
    """
    from orchard import series
    from orchard.runs import Setting
    from orchard.runs.device import resolve_device
    from orchard.runs.engine import check_jobs, default_jobs

    parameters = dict(parameters or {})
    slugs = list(dict.fromkeys(slugs)) or series.slugs()
    check_request(slugs, parameters)
    check_limit(timeout_s)
    check_jobs(jobs)
    seeds = series.check_seeds(parameters.get("SEEDS"))
    setting = Setting(str(parameters.get("PROFILE", "smoke")), seeds, str(parameters.get("DATA", "embedded")))
    folders = {slug: series.output_folder(slug, setting, str(parameters.get("DEVICE", "auto"))) for slug in slugs}
    todo = [(slug, path, folders[slug]) for slug in slugs for path in notebooks_of(slug)]
    at_a_time = jobs or notebooks_at_a_time()
    env = {
        "ORCHARD_OUTPUT": str(series.reports_folder()),  # the notebooks' own results go beside their copies
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, default_jobs("cpu") // at_a_time)),
    }
    stop = threading.Event()

    # Elsewhere, and under the driver of an accelerator, libraries break in a forked process.
    warm = len(todo) > 1 and sys.platform == "linux" and resolve_device("auto") == "cpu"
    if warm:
        from orchard.notebooks.warm import start

        start([f"orchard.papers.{slug}.experiments" for slug in slugs])
    one_page = threading.Lock()
    with progress(live) as shown:

        def one(slug: str, path: Path, folder: Path) -> Execution | None:
            if stop.is_set():
                return None
            facts = folder / EXECUTIONS / f"{path.stem}.json"
            for stale in (folder / f"{path.stem}.json", facts):
                stale.unlink(missing_ok=True)  # results of an earlier execution must not pass for this one's
            name = f"{slug}/{path.stem}"
            done = run_notebook(
                path, folder / path.name, parameters, timeout_s, Path.cwd(), shown, name, env, stop, warm
            )
            content = {
                **asdict(done), "path": path.name, "slug": slug, "notebook": path.stem, "profile": setting.profile,
                "data": setting.data, "parameters": parameters, "finished": time.strftime("%Y-%m-%d %H:%M"),
            }  # fmt: skip
            write_atomically(facts, json.dumps(content, indent=1, default=str))
            with one_page:
                executed(done.path)
            return done

        with ThreadPoolExecutor(max_workers=at_a_time) as pool:
            futures: list[Future[Execution | None]] = []

            def drawn() -> None:
                """Nothing is computed, and timed, beside notebooks that are drawn."""
                wait(futures)

            try:
                for slug in slugs:
                    _compute(slug, parameters, jobs, shown, before=drawn)
                    futures += [pool.submit(one, *item) for item in todo if item[0] == slug]
                return [done for future in futures if (done := future.result()) is not None]
            except BaseException:
                stop.set()
                raise


def _compute(
    slug: str, parameters: Mapping[str, Any], jobs: int | None, shown: Progress, before: Callable[[], object]
) -> None:
    """Compute what the notebooks of a series will ask for. What fails is said here, and again by the notebook that needs it."""
    from orchard import series

    names = {
        "profile": "PROFILE",
        "seeds": "SEEDS",
        "device": "DEVICE",
        "engine": "ENGINE",
        "data": "DATA",
        "store": "STORE",
    }
    setting = {key: parameters[name] for key, name in names.items() if name in parameters}
    try:
        series.compute(slug, **setting, jobs=jobs, report=lambda line: shown.computing(slug, line), before=before)
    except BadInput:
        raise
    except Exception as error:
        shown.computing(slug, str(error) if isinstance(error, OrchardError) else f"{type(error).__name__}: {error}")
    finally:
        shown.computing(slug, None)


def notebooks_at_a_time() -> int:
    """One per core, as far as memory reaches (3 GiB for each)."""
    from orchard.estimate import memory_bytes
    from orchard.runs.engine import default_jobs

    return max(1, min(default_jobs("cpu"), memory_bytes() // (3 * 2**30)))


def check_home() -> None:
    """Raise ``BadInput`` for an account without a home directory, in which no kernel starts."""
    try:
        Path.home()
    except RuntimeError:
        raise BadInput(
            "this account has no home directory, which kernels need: set HOME to a folder, as in HOME=/tmp orchard reproduce"
        ) from None
