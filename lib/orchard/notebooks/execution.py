"""Execute one notebook."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchard.errors import BadInput, OrchardError
from orchard.files import write
from orchard.notebooks.kernel import Kernel, private_folder
from orchard.notebooks.parameters import check_parameters, read_notebook
from orchard.notebooks.progress import Execution, Progress, progress

SAMPLE_S = 0.2  # between two looks at the kernel: memory, time limit, Ctrl-C


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    timeout_s: float | None = None,
    cwd: Path | None = None,
    live: bool = False,
) -> Execution:
    """Execute ``notebook`` with ``parameters`` and write the executed copy to ``output``.

    Args:
        timeout_s: limit on the whole notebook, in seconds of wall time; None for no limit.
        cwd: working directory of the kernel; the current one by default.
        live: show a live bar; plain lines otherwise.

    Raises:
        BadInput: the notebook cannot be read, or does not declare a parameter. Nothing was started.
        KeyboardInterrupt: the kernel was killed and the copy written before it is raised again.
    """
    check_parameters(notebook, parameters)
    check_limit(timeout_s)
    with progress(live) as shown:
        return run_notebook(notebook, output, dict(parameters), timeout_s, cwd or Path.cwd(), shown, notebook.stem)


def check_limit(timeout_s: float | None) -> None:
    """Raise ``BadInput`` unless a limit is a positive number of seconds."""
    if timeout_s is not None and not timeout_s > 0:
        raise BadInput(f"a limit of {timeout_s:g} s (--timeout) stops every notebook: give a number of seconds above 0")


def run_notebook(
    notebook: Path, output: Path, parameters: dict[str, Any], timeout_s: float | None, cwd: Path, shown: Progress,
    name: str, env: Mapping[str, str] | None = None, stop: threading.Event | None = None, warm: bool = False,
) -> Execution:  # fmt: skip
    total = sum(cell.cell_type == "code" for cell in read_notebook(notebook).cells) + bool(parameters)
    folder = private_folder()
    held = _Held()
    reason: str | None = None
    interrupt: BaseException | None = None
    start = time.monotonic()
    try:
        kernel = Kernel(folder, warm)
        environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), **(env or {})}
        talker = threading.Thread(
            target=_talk, args=(kernel, held, notebook, parameters, cwd, environment), daemon=True
        )
        talker.start()
        while not held.ended.is_set():
            try:
                shown.tick(name, held.done, total, time.monotonic() - start)
                held.ended.wait(SAMPLE_S)  # not talker.join: on Ctrl-C it takes the thread for ended (Python 3.11)
                kernel.sample()
                if stop is not None and stop.is_set():
                    reason = reason or "interrupted"
                elif timeout_s is not None and time.monotonic() - start > timeout_s:
                    reason = reason or f"stopped at the limit of {timeout_s:g} s on the whole notebook (--timeout)"
            except (KeyboardInterrupt, SystemExit) as signalled:
                reason, interrupt = "interrupted", signalled
            if reason:
                kernel.kill()  # again until the thread has noticed: the kernel may have been starting
        kernel.kill_leftovers()
        seconds = time.monotonic() - start
        error = _describe(held, reason, kernel)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if held.notebook is not None:
        _finish_copy(held, error, reason, notebook)
        _write_notebook(output, held.notebook)
    execution = Execution(name, output, error is None, seconds, error, kernel.peak_memory)
    shown.finished(execution)
    if interrupt is not None:
        raise interrupt
    return execution


@dataclass
class _Held:
    """What the thread that talks to the kernel shares with the one that watches."""

    notebook: Any = None
    done: int = 0
    current: int | None = None  # index of the cell that runs
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)


def _talk(
    kernel: Kernel, held: _Held, notebook: Path, parameters: dict[str, Any], cwd: Path, env: dict[str, str]
) -> None:
    """Execute the notebook with papermill; what comes of it is left in ``held``."""
    try:
        import papermill

        values = {name: _plain(value) for name, value in parameters.items()}
        with kernel.log.open("wb") as log:
            papermill.execute_notebook(
                read_notebook(notebook), None, values, engine_name=_engine(), kernel_name="python3", language="python",
                progress_bar=False, kernel=kernel, held=held,
                start={"cwd": str(cwd), "env": env, "stdout": log, "stderr": log},
            )  # fmt: skip
    except BaseException as error:
        held.error = error
    finally:
        held.ended.set()


def _engine() -> str:
    """Register our papermill engine and return its name. It runs the cells in our kernel and shows how far it is."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    quiet = logging.getLogger("orchard.notebooks")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    logging.getLogger("papermill").setLevel(logging.ERROR)

    class Client(PapermillNotebookClient):
        held: _Held

        def execute_cell(self, cell: Any, index: int, **kwargs: Any) -> Any:
            self.held.current = index
            executed = super().execute_cell(cell, index, **kwargs)
            self.held.done += cell.cell_type == "code"
            return executed

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, *, kernel: Kernel, held: _Held, start: dict[str, Any], **_: Any
        ) -> None:
            held.notebook = nb_man.nb
            client = Client(nb_man, km=kernel.manager, kernel_name=kernel_name, log=quiet, startup_timeout=120)
            client.iopub_timeout = 60
            client.held = held
            client.execute(cleanup_kc=True, **start)

    papermill_engines.register("orchard", Engine)
    return "orchard"


def _plain(value: Any) -> Any:
    """Tuples and paths as papermill can write them."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _describe(held: _Held, reason: str | None, kernel: Kernel) -> str | None:
    """What went wrong, in one message, with the number of the cell in the notebook as written; None if nothing did."""
    if held.error is None:
        return None
    from papermill.exceptions import PapermillExecutionError

    if reason is None and isinstance(held.error, PapermillExecutionError):
        value = held.error.evalue.strip()
        name = f"cell {_number(held, held.error.cell_index)}: {held.error.ename}"
        return f"{name}: {value}" if value else name
    where = " before its first cell" if held.current is None else f" in cell {_number(held, held.current)}"
    if reason is not None:
        return reason + where
    if type(held.error).__name__ == "DeadKernelError":
        what = f"the kernel died{where} (out of memory? its peak was {kernel.peak_memory / 2**20:.0f} MiB)"
    else:
        what = f"{type(held.error).__name__}: {held.error}{where}"
    said = kernel.last_words()
    return f"{what}; it said: {said}" if said else what


def _number(held: _Held, index: int) -> int:
    """Number, from 1, of a cell in the notebook as written: papermill adds cells of its own."""
    tags = [cell.metadata.get("tags", []) for cell in held.notebook.cells]
    executed = [tag for tag in tags if "papermill-error-cell-tag" not in tag]
    return 1 + sum("injected-parameters" not in tag for tag in executed[:index])


def _finish_copy(held: _Held, error: str | None, reason: str | None, source: Path) -> None:
    """Say in the executed copy why it stopped, if no traceback in it does, and where it comes from."""
    import nbformat

    cells = held.notebook.cells
    shown = any(out.output_type == "error" for cell in cells if cell.cell_type == "code" for out in cell.outputs)
    if error is not None and held.current is not None and (reason or not shown):
        cell = cells[min(held.current, len(cells) - 1)]
        if cell.cell_type == "code":
            cell.outputs.append(nbformat.v4.new_output("error", ename="Stopped", evalue=error, traceback=[error]))
    held.notebook.metadata.papermill.update(input_path=source.name, output_path=None)


def _write_notebook(path: Path, notebook: Any) -> None:
    import nbformat

    write_atomically(path, nbformat.writes(notebook))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it appears complete or not at all.

    Raises:
        OrchardError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
    except OSError as error:
        raise OrchardError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from None
