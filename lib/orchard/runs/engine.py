"""Engines compute the runs that a store lacks. ``local``: a bounded pool of processes on this machine."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from orchard.errors import BadInput, OrchardError
from orchard.runs.cells import is_interactive, is_main
from orchard.runs.device import resolve_device
from orchard.runs.finished import Finished, RunError
from orchard.runs.identity import dependencies, identity
from orchard.runs.run import Run
from orchard.runs.store import OtherDevice, Store
from orchard.values import code_in

ENGINES = ("local",)
Report = Callable[[str], None]
Remark = Callable[[Run.Config, float], str]


def execute(
    cfgs: Sequence[Run.Config],
    store: Store | None = None,
    *,
    engine: str = "local",
    jobs: int | None = None,
    device: str = "auto",
    report: Report | None = None,
    remark: Remark | None = None,
) -> list[Finished]:
    """The finished runs of ``cfgs``, in their order; those that are missing, and the runs they contain, are computed first.

    A run whose process is killed takes no other with it: it is tried once more, with nothing beside it. Runs of classes that a notebook
    defines are computed in its own process, one at a time, since no other can import them.

    Args:
        engine: where to compute; "local" is a bounded pool of processes on this machine.
        jobs: number of processes; by default one per CPU core on the CPU, and one on an accelerator.
        device: "auto", "cpu", "cuda" or "mps". A run that was made on another kind of device than the one named here is no answer;
            "auto" takes any.
        report: called with a line of progress whenever a run is finished; prints by default.
        remark: what is added to that line, from the run and the seconds that it took.

    Raises:
        RunError: a run failed. The others are finished and kept; the message names each failed run with its first cause.
        BadInput: no such engine or device, or ``jobs`` below 1 or above four per core.
    """
    check_engine(engine)
    check_jobs(jobs)
    jobs = jobs or default_jobs(device)
    store = store or Store()
    report = report or (lambda line: print(line, flush=True))
    ids, found, todo = _sort(cfgs, store, device)
    for warning in store.warnings:
        report(f"warning: {warning}")
    store.warnings.clear()
    if todo:
        remark = remark or (lambda cfg, seconds: "")
        _compute(todo, set(ids), store, jobs, device, report, remark)
    for run_id, cfg in zip(ids, cfgs, strict=True):
        run = found.get(run_id) or store.get(cfg, device=device)
        if run is None:
            raise RunError(f"run {run_id} ({cfg.label}) vanished from {store.path}; is another process removing runs?")
        found[run_id] = run
    return [found[run_id] for run_id in ids]


def plan(cfgs: Sequence[Run.Config], store: Store) -> list[tuple[str, str, bool]]:
    """Id, label and whether it is finished, for every run that ``cfgs`` need (theirs and those they contain)."""
    rows: dict[str, tuple[str, str, bool]] = {}
    for cfg in cfgs:
        for needed in [*all_dependencies(cfg), cfg]:
            ident = identity(needed)
            rows.setdefault(ident.id, (ident.id, needed.label, store.get(needed, ident) is not None))
    return list(rows.values())


def check_engine(engine: str) -> None:
    """Raise an error that lists the engines if ``engine`` is not one of them."""
    if engine not in ENGINES:
        raise BadInput(f"ENGINE {engine!r} does not exist; the engines are {', '.join(ENGINES)}")


def check_jobs(jobs: int | None) -> None:
    """Raise ``BadInput`` unless ``jobs`` is None or a number of processes that this machine can bear: at most four per core."""
    most = 4 * _cores()
    if jobs is not None and not 1 <= jobs <= most:
        raise BadInput(f"--jobs {jobs}: give a number of processes from 1 to {most}, or leave it out for one per core")


def default_jobs(device: str) -> int:
    """One process per core this process may use; one on an accelerator, where runs would compete for memory."""
    if resolve_device(device) != "cpu":
        return 1
    return _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Task:
    cfg: Run.Config
    id: str
    needs: set[str] = field(default_factory=set)


def all_dependencies(cfg: Run.Config) -> list[Run.Config]:
    """The runs that a run contains, and those that they contain, before what needs them; some may come twice."""
    return [run for needed in dependencies(cfg) for run in [*all_dependencies(needed), needed]]


def _sort(
    cfgs: Sequence[Run.Config], store: Store, device: str
) -> tuple[list[str], dict[str, Finished], dict[str, _Task]]:
    """Ids of the runs of ``cfgs``, those that are finished, and those to compute, each with the ids it waits for."""
    found: dict[str, Finished] = {}
    tasks: dict[str, _Task] = {}
    others: dict[str, str] = {}

    def visit(cfg: Run.Config) -> str:
        ident = identity(cfg)
        if ident.id not in found and ident.id not in tasks and ident.id not in others:
            try:
                run = store.get(cfg, ident, device)
            except OtherDevice as error:
                others[ident.id] = str(error)
                return ident.id
            if run is not None:
                found[ident.id] = run
            else:
                cfg.clone().build()  # bad values are refused before anything is computed
                needs = {visit(child) for child in dependencies(cfg)} - found.keys()
                tasks[ident.id] = _Task(cfg, ident.id, needs)
        return ident.id

    ids = [visit(cfg) for cfg in cfgs]
    if others:
        more = f"\n  and {len(others) - 1} more" if len(others) > 1 else ""
        raise OtherDevice(f"{next(iter(others.values()))}{more}")
    return ids, found, tasks


def _compute(
    tasks: dict[str, _Task], asked: set[str], store: Store, jobs: int, device: str, report: Report, remark: Remark
) -> None:
    """Compute every task, each after those it waits for; raises RunError for those that failed.

    What a run computes ``inside`` it answers for itself: it is begun all the same when one of those that it waits for has failed, and
    if it then ends well, no failure of theirs counts, unless they were ``asked`` for themselves.
    """
    waiting = dict(tasks)
    running: dict[Future[float], _Task] = {}
    killed: list[_Task] = []  # to be tried once more, with nothing beside them
    tried: set[str] = set()
    failed: dict[str, str] = {}
    finished, total = 0, len(tasks)
    with _submitter(jobs, tasks.values()) as pool:

        def start(task: _Task) -> None:
            running[pool.submit(partial(_work, task.cfg, task.id, str(store.path), device), task.cfg)] = task

        while waiting or running or killed:
            unfinished = waiting.keys() | {task.id for task in [*running.values(), *killed]}
            ready = [task for task in waiting.values() if not task.needs & unfinished]
            for task in ready:
                if task.needs & failed.keys() and not task.cfg.owner.inside:
                    failed[task.id] = "a run that it contains failed"
                    del waiting[task.id]
                elif pool.free:
                    del waiting[task.id]
                    start(task)
            if not running and not ready:
                tried.add(killed[0].id)
                start(killed.pop(0))
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                pool.release(future)
                name = task.cfg.label or task.id
                try:
                    seconds = future.result()
                except BrokenProcessPool:
                    if task.id in tried:
                        failed[task.id] = (
                            "its process was killed, twice, the second time with no other run beside it (out of memory?); "
                            "run again to go on from its last checkpoint"
                        )
                    else:
                        killed.append(task)
                        report(f"{name}: its process was killed (out of memory?); it is tried once more, alone")
                except OrchardError as error:
                    failed[task.id] = str(error)
                except Exception as error:
                    failed[task.id] = f"{type(error).__name__}: {error}"
                else:
                    finished += 1
                    report(f"run {finished}/{total}  {name}  {seconds:.1f} s{remark(task.cfg, seconds)}")
    within = [task.needs for task in tasks.values() if task.cfg.owner.inside]
    forgiven: set[str] = set()
    while within:
        further = within.pop() - forgiven
        forgiven |= further
        within += [tasks[need].needs for need in further]
    if failed.keys() - (forgiven - asked):
        lines = [f"{tasks[i].cfg.label or i}: {cause}" for i, cause in failed.items()]
        raise RunError(f"{len(failed)} of {total} runs failed in {store.path}:\n  " + "\n  ".join(lines))


class _Here:
    """Computes in this process, one run after the other."""

    def __init__(self) -> None:
        self._busy: dict[Future[float], int | None] = {}  # worker of a future; None: this process

    @property
    def free(self) -> bool:
        """Whether another run can be given to it."""
        return not self._busy

    def submit(self, call: Callable[[], float], cfg: Run.Config) -> Future[float]:
        """A future that is done already."""
        future: Future[float] = Future()
        self._busy[future] = None
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def release(self, future: Future[float]) -> None:
        """Somebody has taken the result of a future that is done."""
        del self._busy[future]


class _Pool(_Here):
    """Worker processes, each for one run at a time and with a queue of its own: one that is killed takes no other with it."""

    def __init__(self, jobs: int, preload: list[str]) -> None:
        super().__init__()
        method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        self._context = mp.get_context(method)
        self.environment = dict(os.environ)  # a fork server keeps the one it was started with
        if method == "forkserver":
            self._context.set_forkserver_preload(preload)
        self._workers = [self._worker() for _ in range(jobs)]

    def _worker(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, self._context, initializer=_initialise_worker, initargs=(os.getpid(), self.environment)
        )

    @property
    def free(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self._busy) < len(self._workers)

    def submit(self, call: Callable[[], float], cfg: Run.Config) -> Future[float]:
        """Give a run to a free worker; one whose class is defined in a notebook is computed here."""
        if is_interactive() and any(is_main(value) for value in code_in(cfg)):
            return super().submit(call, cfg)
        index = next(i for i in range(len(self._workers)) if i not in self._busy.values())
        try:
            future = self._workers[index].submit(call)
        except BrokenProcessPool:  # killed while it had nothing to do
            self._workers[index] = self._worker()
            future = self._workers[index].submit(call)
        self._busy[future] = index
        return future

    def release(self, future: Future[float]) -> None:
        """The worker of a future that is done is free again, or replaced if it was killed."""
        index = self._busy.pop(future)
        if index is not None and isinstance(future.exception(), BrokenProcessPool):
            self._workers[index] = self._worker()

    def serves(self, jobs: int) -> bool:
        """Whether it has as many workers and their environment is this process's of now."""
        return len(self._workers) == jobs and self.environment == dict(os.environ)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that were started."""
        return [pid for worker in self._workers for pid in worker._processes or {}]

    def shutdown(self, kill: bool = False) -> None:
        """End the workers: when they are idle, or at once."""
        for worker in self._workers:
            for process in list((worker._processes or {}).values()) if kill else ():
                process.terminate()
            worker.shutdown(wait=not kill, cancel_futures=kill)


@contextmanager
def _submitter(jobs: int, tasks: Collection[_Task]) -> Iterator[_Here]:
    """Where runs are computed. One job computes in this process, and so does a single run for which no worker would be there already."""
    if jobs == 1 or (len(tasks) == 1 and not _WORKERS.there(jobs)):
        yield _Here()
        return
    owners = {task.cfg.owner for task in tasks}
    preload = {owner.preload for owner in owners} | {owner.__module__ for owner in owners if not is_main(owner)}
    with _WORKERS.lent(jobs, sorted(preload)) as pool:
        yield pool


class _Workers:
    """A pool of processes that is kept for a while between uses: what workers have imported and read once serves the next runs."""

    def __init__(self, idle_s: float = 60.0) -> None:
        self.idle_s = idle_s
        self._lock = threading.Lock()
        self._kept: tuple[_Pool, threading.Timer] | None = None

    def there(self, jobs: int) -> bool:
        """Whether a pool of as many processes is kept."""
        return self._kept is not None and self._kept[0].serves(jobs)

    @contextmanager
    def lent(self, jobs: int, preload: list[str]) -> Iterator[_Pool]:
        """A pool of ``jobs`` processes; they import ``preload`` only once where processes can be forked from a server."""
        pool = self._take(jobs) or _Pool(jobs, preload)
        try:
            yield pool
        except BaseException:  # Ctrl-C: do not wait for runs nobody will read; they resume from their checkpoints
            pool.shutdown(kill=True)
            raise
        self._keep(pool)

    def _take(self, jobs: int) -> _Pool | None:
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return None
        pool, timer = kept
        timer.cancel()
        if pool.serves(jobs):
            return pool
        pool.shutdown()
        return None

    def _keep(self, pool: _Pool) -> None:
        timer = threading.Timer(self.idle_s, self._take, (0,))
        timer.daemon = True
        with self._lock:
            before, self._kept = self._kept, (pool, timer)
        timer.start()
        if before is not None:  # two threads had one each
            before[1].cancel()
            before[0].shutdown()


_WORKERS = _Workers()


def _initialise_worker(parent: int, environment: dict[str, str]) -> None:
    """A worker has the environment of the process that wants its results, and never outlives it."""
    os.environ.clear()
    os.environ.update(environment)

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
