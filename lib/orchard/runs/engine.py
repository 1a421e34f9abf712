"""Engines compute the runs that a store lacks. ``local``: a bounded pool of processes on this machine."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchard.errors import BadInput, OrchardError
from orchard.runs.device import resolve_device
from orchard.runs.finished import Finished, RunError
from orchard.runs.identity import dependencies, identity
from orchard.runs.run import Run
from orchard.runs.store import Store

ENGINES = ("local",)
Report = Callable[[str], None]


def execute(
    cfgs: Sequence[Run.Config],
    store: Store | None = None,
    *,
    engine: str = "local",
    jobs: int | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> list[Finished]:
    """The finished runs of ``cfgs``, in their order; those that are missing, and the runs they contain, are computed first.

    Args:
        engine: where to compute; "local" is a bounded pool of processes on this machine.
        jobs: number of processes; by default one per CPU core on the CPU, and one on an accelerator.
        device: "auto", "cpu", "cuda" or "mps".
        report: called with a line of progress whenever a run is finished; prints by default.

    Raises:
        RunError: a run failed. The others are finished and kept; the message names each failed run with its first cause.
    """
    check_engine(engine)
    store = store or Store()
    report = report or (lambda line: print(line, flush=True))
    ids, found, todo = _sort(cfgs, store)
    for warning in store.warnings:
        report(f"warning: {warning}")
    store.warnings.clear()
    if todo:
        _compute(todo, store, jobs or default_jobs(device), device, report)
    for run_id, cfg in zip(ids, cfgs, strict=True):
        run = found.get(run_id) or store.get(cfg)
        if run is None:
            raise RunError(f"run {run_id} ({cfg.label}) vanished from {store.path}; is another process removing runs?")
        found[run_id] = run
    return [found[run_id] for run_id in ids]


def plan(cfgs: Sequence[Run.Config], store: Store) -> list[tuple[str, str, bool]]:
    """Id, label and whether it is finished, for every run that ``cfgs`` need (theirs and those they contain)."""
    rows: dict[str, tuple[str, str, bool]] = {}
    for cfg in cfgs:
        for needed in [*_all_dependencies(cfg), cfg]:
            ident = identity(needed)
            rows.setdefault(ident.id, (ident.id, needed.label, store.get(needed, ident) is not None))
    return list(rows.values())


def check_engine(engine: str) -> None:
    """Raise an error that lists the engines if ``engine`` is not one of them."""
    if engine not in ENGINES:
        raise BadInput(f"ENGINE {engine!r} does not exist; the engines are {', '.join(ENGINES)}")


def default_jobs(device: str) -> int:
    """One process per core this process may use; one on an accelerator, where runs would compete for memory."""
    if resolve_device(device) != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Task:
    cfg: Run.Config
    id: str
    needs: set[str] = field(default_factory=set)


def _all_dependencies(cfg: Run.Config) -> list[Run.Config]:
    return [run for needed in dependencies(cfg) for run in [*_all_dependencies(needed), needed]]


def _sort(cfgs: Sequence[Run.Config], store: Store) -> tuple[list[str], dict[str, Finished], dict[str, _Task]]:
    """Ids of the runs of ``cfgs``, those that are finished, and those to compute, each with the ids it waits for."""
    found: dict[str, Finished] = {}
    tasks: dict[str, _Task] = {}

    def visit(cfg: Run.Config) -> str:
        ident = identity(cfg)
        if ident.id not in found and ident.id not in tasks:
            run = store.get(cfg, ident)
            if run is not None:
                found[ident.id] = run
            else:
                needs = {visit(child) for child in dependencies(cfg)} - found.keys()
                tasks[ident.id] = _Task(cfg, ident.id, needs)
        return ident.id

    return [visit(cfg) for cfg in cfgs], found, tasks


def _compute(tasks: dict[str, _Task], store: Store, jobs: int, device: str, report: Report) -> None:
    waiting = dict(tasks)
    failed: dict[str, str] = {}
    finished, total = 0, len(tasks)
    owners = {task.cfg.owner for task in tasks.values()}
    preload = sorted({owner.preload for owner in owners} | {owner.__module__ for owner in owners})
    with _submitter(jobs, total, preload) as submit:
        running: dict[Future[float], _Task] = {}
        while waiting or running:
            for task in [
                t for t in waiting.values() if not t.needs & (waiting.keys() | {r.id for r in running.values()})
            ]:
                del waiting[task.id]
                if task.needs & failed.keys():
                    failed[task.id] = "a run that it contains failed"
                else:
                    running[submit(_work, task.cfg, task.id, str(store.path), device)] = task
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                name = task.cfg.label or task.id
                try:
                    seconds = future.result()
                except BrokenProcessPool:
                    failed[task.id] = (
                        "its process was killed (out of memory?); run again to go on from its last checkpoint"
                    )
                except Exception as error:
                    failed[task.id] = (
                        f"{type(error).__name__}: {error}" if not isinstance(error, OrchardError) else str(error)
                    )
                else:
                    finished += 1
                    report(f"run {finished}/{total}  {name}  {seconds:.1f} s")
    if failed:
        lines = [f"{tasks[i].cfg.label or i}: {cause}" for i, cause in failed.items()]
        raise RunError(f"{len(failed)} of {total} runs failed in {store.path}:\n  " + "\n  ".join(lines))


@contextmanager
def _submitter(jobs: int, runs: int, preload: list[str]) -> Iterator[Callable[..., Future[float]]]:
    """Yield ``submit``. One job computes in this process, and so does a single run for which no worker would be there already."""
    if jobs > 1 and (runs > 1 or _WORKERS.there(jobs)):
        with _WORKERS.lent(jobs, preload) as pool:
            yield pool.submit
        return

    def here(function: Callable[..., float], *args: Any) -> Future[float]:
        future: Future[float] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    yield here


class _Workers:
    """A pool of processes that is kept for a while between uses: what workers have imported and read once serves the next runs."""

    def __init__(self, idle_s: float = 60.0) -> None:
        self.idle_s = idle_s
        self._lock = threading.Lock()
        self._kept: tuple[int, ProcessPoolExecutor, threading.Timer] | None = None

    def there(self, jobs: int) -> bool:
        """Whether a pool of as many processes is kept."""
        return self._kept is not None and self._kept[0] == jobs

    @contextmanager
    def lent(self, jobs: int, preload: list[str]) -> Iterator[ProcessPoolExecutor]:
        """A pool of ``jobs`` processes; they import ``preload`` only once where processes can be forked from a server."""
        pool = self._take(jobs) or self._new(jobs, preload)
        try:
            yield pool
        except BaseException:  # Ctrl-C: do not wait for runs nobody will read; they resume from their checkpoints
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        self._keep(jobs, pool)

    def _take(self, jobs: int) -> ProcessPoolExecutor | None:
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return None
        size, pool, timer = kept
        timer.cancel()
        if size == jobs and not pool._broken:
            return pool
        pool.shutdown()
        return None

    def _keep(self, jobs: int, pool: ProcessPoolExecutor) -> None:
        timer = threading.Timer(self.idle_s, self._take, (0,))
        timer.daemon = True
        with self._lock:
            before, self._kept = self._kept, (jobs, pool, timer)
        timer.start()
        if before is not None:  # two threads had one each
            before[2].cancel()
            before[1].shutdown()

    @staticmethod
    def _new(jobs: int, preload: list[str]) -> ProcessPoolExecutor:
        method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context = mp.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(preload)
        return ProcessPoolExecutor(jobs, mp_context=context, initializer=_initialise_worker, initargs=(os.getpid(),))


_WORKERS = _Workers()


def _initialise_worker(parent: int) -> None:
    """A worker never outlives the process that wants its results."""

    def watch() -> None:
        while os.getppid() != 1 and _alive(parent):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _work(cfg: Run.Config, expected: str, store: str, device: str) -> float:
    """Compute one run in this process; returns the seconds it took."""
    if identity(cfg).id != expected:
        raise RunError(
            "its code or data changed on disk while this program ran; start again (in a notebook: restart the kernel)"
        )

    start = time.perf_counter()
    Store(Path(store)).compute(cfg, device)
    sys.stdout.flush()
    return time.perf_counter() - start
