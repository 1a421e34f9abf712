"""Progress of notebooks: plain lines where there is no terminal, live bars where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Execution:
    """How the execution of one notebook went.

    Attributes:
        name: ``<slug>/<notebook>``, or the notebook's file name without its suffix.
        path: the executed copy.
        seconds: wall time from the start of the kernel to its end.
        error: what went wrong and in which cell; None when all went well.
        peak_memory: bytes, the largest sum seen of the resident sizes of the kernel and the processes it started
            (pages they share count in each).
    """

    name: str
    path: Path
    ok: bool
    seconds: float
    error: str | None
    peak_memory: int


class Progress(Protocol):
    """Told how far each notebook is; ``done`` and ``total`` count code cells."""

    def tick(self, name: str, done: int, total: int, seconds: float) -> None: ...

    def finished(self, execution: Execution) -> None: ...

    def computing(self, slug: str, line: str | None) -> None:
        """A line about the runs of a series; None when they are finished."""


def summary(execution: Execution) -> str:
    """One line for people: how long, how much memory, or what failed and where the executed copy is."""
    facts = f"{execution.seconds:.1f} s, peak {execution.peak_memory / 2**20:.0f} MiB"
    if execution.ok:
        return f"{execution.name}: done in {facts}"
    copy = f"\n  executed copy: {execution.path}" if execution.path.exists() else ""
    return f"{execution.name}: FAILED after {facts}: {execution.error}{copy}"


class Lines:
    """Plain lines for output that is no terminal: start, end, and now and then how far it is."""

    def __init__(self, every_s: float = 20.0) -> None:
        self.every_s = every_s
        self._next: dict[str, float] = {}

    def tick(self, name: str, done: int, total: int, seconds: float) -> None:
        if name not in self._next:
            print(f"{name}: started, {total} cells", flush=True)
        elif seconds >= self._next[name]:
            print(f"{name}: cell {min(done + 1, total)} of {total}, {seconds:.0f} s", flush=True)
        else:
            return
        self._next[name] = seconds + self.every_s

    def finished(self, execution: Execution) -> None:
        with suppress(OSError):  # the terminal may be closed: what was done is written all the same
            print(summary(execution), flush=True)

    def computing(self, slug: str, line: str | None) -> None:
        if line is not None:
            print(f"{slug}: {line}", flush=True)


class Bars:
    """A live bar per running notebook, and one for the runs of a series."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def tick(self, name: str, done: int, total: int, seconds: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done)

    def finished(self, execution: Execution) -> None:
        if execution.name in self._tasks:
            self._bars.remove_task(self._tasks.pop(execution.name))
        style = "green" if execution.ok else "bold red"
        with suppress(OSError):
            self._bars.console.print(summary(execution), style=style, markup=False, highlight=False, soft_wrap=True)

    def computing(self, slug: str, line: str | None) -> None:
        if line is None:
            if slug in self._tasks:
                self._bars.remove_task(self._tasks.pop(slug))
            return
        if slug not in self._tasks:
            self._tasks[slug] = self._bars.add_task(slug, total=None)
        self._bars.update(self._tasks[slug], description=f"{slug}: {line}")
        if known := re.match(r"run (\d+)/(\d+) ", line):
            self._bars.update(self._tasks[slug], completed=int(known[1]), total=int(known[2]))

    def close(self) -> None:
        self._bars.stop()


@contextmanager
def progress(live: bool) -> Iterator[Progress]:
    """Live bars, or plain lines."""
    if not live:
        yield Lines()
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()
