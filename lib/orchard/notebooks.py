"""Headless notebooks: execute one with strict parameters under a time limit, reproduce whole series, check hygiene.

A notebook runs through papermill in a kernel of this very Python, whatever kernels are registered on the machine. The
kernel talks over IPC sockets in a private folder, so kernels that start together cannot race for TCP ports (ipykernel
itself keeps one loopback socket for the output of forked children). It reads no IPython profile of the user. On the time
limit or Ctrl-C it is killed with every process it started. The executed copy appears complete, by one rename, and also
when the notebook failed, so that the reader sees the traceback.

``python -m orchard.notebooks check FOLDER`` prints what keeps notebooks from being committed (see ``check_hygiene``).
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from orchard.errors import BadInput, OrchardError, closest
from orchard.paths import root

PARAMETERS = ("PROFILE", "SEEDS", "DEVICE", "ENGINE", "DATA", "STORE")
MAX_CODE_LINES = 15
SAMPLE_S = 0.2  # between two looks at the kernel: memory, time limit, Ctrl-C


@dataclass(frozen=True)
class Execution:
    """How the execution of one notebook went.

    Attributes:
        name: ``<slug>/<notebook>``, or the notebook's file name without its suffix.
        path: the executed copy.
        seconds: wall time from the start of the kernel to its end.
        error: what went wrong and in which cell; None when all went well.
        peak_memory: bytes, largest sum seen of the resident sizes of the kernel and the processes it started (pages they
            share count in each).
    """

    name: str
    path: Path
    ok: bool
    seconds: float
    error: str | None
    peak_memory: int


# ------------------------------------------------------------------ progress


class Progress(Protocol):
    """Told how far each notebook is; ``done`` and ``total`` count code cells."""

    def tick(self, name: str, done: int, total: int, seconds: float) -> None: ...

    def finished(self, execution: Execution) -> None: ...


def summary(execution: Execution) -> str:
    """One line for people: how long, how much memory, or what failed and where the executed copy is."""
    facts = f"{execution.seconds:.1f} s, peak {execution.peak_memory / 2**20:.0f} MiB"
    if execution.ok:
        return f"{execution.name}: done in {facts}"
    return f"{execution.name}: FAILED after {facts}: {execution.error}\n  executed copy: {execution.path}"


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
        print(summary(execution), flush=True)


class Bars:
    """A live bar per running notebook."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
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
        self._bars.console.print(summary(execution), style=style, markup=False, highlight=False, soft_wrap=True)

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


# ---------------------------------------------------------------- parameters


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` (an nbformat node).

    Raises:
        BadInput: there is no such file, it is not a notebook, or Jupyter is not installed.
    """
    try:
        import nbformat
    except ImportError:
        raise BadInput("notebooks need Jupyter, which is not installed here: pip install 'orchard[notebooks]'") from None
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
            return _assigned(cell.source)
    return []


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``BadInput`` for a parameter that the notebook at ``path`` does not declare."""
    declared = declared_parameters(read_notebook(path))
    for name in parameters:
        if name not in declared:
            raise BadInput(f"{path} has no parameter {name!r}: {closest(name, declared)}")


def _assigned(source: str) -> list[str]:
    names: list[str] = []
    with suppress(SyntaxError):
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


# ------------------------------------------------------------------ one kernel


class _Kernel:
    """A kernel of this Python over IPC sockets, and the processes it starts."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3", language="python", env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        )  # fmt: skip

        class Manager(AsyncKernelManager):
            kernel_spec = spec  # never looked up: the machine may have no kernel "python3", or that of another Python
            ipykernel = True

        self.manager = Manager(transport="ipc", connection_file=str(folder / "k.json"), ip=str(folder / "k"))
        self.peak_memory = 0
        self._seen: set[Any] = set()

    def sample(self) -> None:
        """Look at the kernel's process tree: note its members, and its memory if that is the most so far."""
        import psutil

        process = getattr(self.manager.provisioner, "process", None)
        if process is None or process.poll() is not None:
            return
        with suppress(psutil.Error):
            kernel = psutil.Process(process.pid)
            tree = [kernel, *kernel.children(recursive=True)]
            self._seen.update(tree)
            total = 0
            for member in tree:
                with suppress(psutil.Error):
                    total += member.memory_info().rss
            self.peak_memory = max(self.peak_memory, total)

    def kill(self) -> None:
        """End the kernel and every process it started, at once."""
        self.sample()
        process = getattr(self.manager.provisioner, "process", None)
        if process is not None and process.poll() is None and hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # jupyter_client starts a kernel in a session of its own
        self.kill_leftovers()

    def kill_leftovers(self) -> None:
        """End the processes the kernel left behind."""
        import psutil

        for member in self._seen:
            with suppress(psutil.Error):
                member.kill()  # psutil makes sure that the id was not given to another process since


def _private_folder() -> Path:
    """A new folder only this user can read, with a path short enough for a socket's name (107 characters)."""
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="orchard-", dir=base if len(base) <= 60 else "/tmp"))


@dataclass
class _Held:
    """What the thread that talks to the kernel shares with the one that watches."""

    notebook: Any = None
    done: int = 0
    current: int | None = None  # index of the cell that runs
    error: BaseException | None = None


def _talk(kernel: _Kernel, held: _Held, notebook: Path, parameters: dict[str, Any], cwd: Path, env: dict[str, str]) -> None:
    """Execute the notebook with papermill; what comes of it is left in ``held``."""
    import logging

    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    quiet = logging.getLogger("orchard.notebooks")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    logging.getLogger("papermill").setLevel(logging.ERROR)

    class Client(PapermillNotebookClient):
        def execute_cell(self, cell: Any, index: int, **kwargs: Any) -> Any:
            held.current = index
            out = super().execute_cell(cell, index, **kwargs)
            held.done += cell.cell_type == "code"
            return out

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> None:
            held.notebook = nb_man.nb
            client = Client(nb_man, km=kernel.manager, kernel_name=kernel_name, log=quiet, startup_timeout=120, iopub_timeout=60)
            client.execute(cwd=str(cwd), env=env, cleanup_kc=True)

    engine = f"orchard-{id(held)}"
    papermill_engines.register(engine, Engine)
    try:
        papermill.execute_notebook(
            read_notebook(notebook), None, {name: _plain(value) for name, value in parameters.items()},
            engine_name=engine, kernel_name="python3", language="python", progress_bar=False,
        )  # fmt: skip
    except BaseException as error:
        held.error = error
    finally:
        papermill_engines._engines.pop(engine, None)


def _plain(value: Any) -> Any:
    """Tuples and paths as papermill can write them."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


# ---------------------------------------------------------------- one notebook


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
    with progress(live) as shown:
        return _execute(notebook, output, dict(parameters), timeout_s, cwd or Path.cwd(), shown, notebook.stem)


def _execute(
    notebook: Path, output: Path, parameters: dict[str, Any], timeout_s: float | None, cwd: Path, shown: Progress,
    name: str, env: Mapping[str, str] | None = None, stop: threading.Event | None = None,
) -> Execution:  # fmt: skip
    total = sum(cell.cell_type == "code" for cell in read_notebook(notebook).cells) + bool(parameters)
    folder = _private_folder()
    held, reason, interrupt = _Held(), None, None
    start = time.monotonic()
    try:
        kernel = _Kernel(folder)
        environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), **(env or {})}
        talker = threading.Thread(target=_talk, args=(kernel, held, notebook, parameters, cwd, environment), daemon=True)
        talker.start()
        while talker.is_alive():
            try:
                shown.tick(name, held.done, total, time.monotonic() - start)
                talker.join(SAMPLE_S)
                kernel.sample()
                if stop is not None and stop.is_set():
                    reason = reason or "interrupted"
                elif timeout_s is not None and time.monotonic() - start > timeout_s:
                    reason = reason or f"stopped at the limit of {timeout_s:g} s on the whole notebook (--timeout)"
            except KeyboardInterrupt as error:
                reason, interrupt = "interrupted", error
            if reason:
                kernel.kill()  # again until the thread has noticed: the kernel may have been starting
        kernel.kill_leftovers()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    error = _describe(held, reason, kernel.peak_memory)
    if held.notebook is not None:
        _finish_copy(held, error, reason, notebook)
        _write_notebook(output, held.notebook)
    execution = Execution(name, output, error is None, seconds, error, kernel.peak_memory)
    shown.finished(execution)
    if interrupt is not None:
        raise interrupt
    return execution


def _describe(held: _Held, reason: str | None, peak_memory: int) -> str | None:
    """What went wrong, in one message, with the number of the cell (counted from 1, all cells); None if nothing did."""
    if held.error is None:
        return None
    from papermill.exceptions import PapermillExecutionError

    if reason is None and isinstance(held.error, PapermillExecutionError):
        value = held.error.evalue.strip()
        # papermill has put one marker cell at the top and one before the failing cell, which cell_index does not count.
        return f"cell {held.error.cell_index + 1}: {held.error.ename}" + (f": {value}" if value else "")
    where = f" in cell {held.current + 1}" if held.current is not None else " before its first cell"
    if reason is None and type(held.error).__name__ == "DeadKernelError":
        reason = f"the kernel died (out of memory? its peak was {peak_memory / 2**20:.0f} MiB)"
    if reason is not None:
        return reason + where
    return f"{type(held.error).__name__}: {held.error}{where}"


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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise OrchardError(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


# ---------------------------------------------------------------- whole series


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
            done = _execute(path, folder / path.name, parameters, timeout_s, Path.cwd(), shown, f"{slug}/{path.stem}", env, stop)
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


# -------------------------------------------------------------------- hygiene


def check_hygiene(path: Path) -> list[str]:
    """What keeps a notebook from being committed; empty when nothing does.

    No outputs, execution counts or widget state; kernel ``python3``; at most 15 lines of code in a cell (blank lines and
    comments not counted); one cell tagged ``parameters`` that assigns exactly PROFILE, SEEDS, DEVICE, ENGINE, DATA and
    STORE (``index.ipynb`` needs none); plain Python: no magics, no shell, no installs; no class definitions.
    """
    import nbformat

    notebook = read_notebook(path)
    problems: list[str] = []
    with suppress(Exception):  # the reason is in the message below
        nbformat.validate(notebook)
        notebook = notebook
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        problems.append(f"{path}: the kernel is named {kernel!r}; it must be 'python3'")
    if "widgets" in notebook.metadata:
        problems.append(f"{path}: holds widget state; clear it")
    code = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    tagged = [cell for _, cell in code if "parameters" in cell.metadata.get("tags", [])]
    if path.name != "index.ipynb":
        if len(tagged) != 1:
            problems.append(f"{path}: {len(tagged)} cells are tagged 'parameters'; one must be")
        elif set(_assigned(tagged[0].source)) != set(PARAMETERS):
            problems.append(f"{path}: the parameters are {_assigned(tagged[0].source)}; they must be {list(PARAMETERS)}")
    for number, cell in code:
        problems += [f"{path}: cell {number}: {problem}" for problem in _cell_problems(cell)]
    return problems


def _cell_problems(cell: Any) -> Iterator[str]:
    if cell.outputs:
        yield "has outputs; clear them"
    if cell.execution_count is not None:
        yield "has an execution count; clear it"
    lines = sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())
    if lines > MAX_CODE_LINES:
        yield f"has {lines} lines of code; at most {MAX_CODE_LINES}: move some into the library"
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        magic = next((line.strip() for line in cell.source.splitlines() if line.lstrip().startswith(("!", "%"))), None)
        yield f"{magic!r} is no Python: no magics, no shell" if magic else f"is no Python: {error.msg}, line {error.lineno}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield f"defines the class {node.name}; classes belong in the library"
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in imported:
            if module.split(".")[0] in ("subprocess", "pip", "ensurepip", "pty"):
                yield f"imports {module}; no shell and no installs in a notebook"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.system", "os.popen", "get_ipython"):
            yield f"calls {ast.unparse(node.func)}; no shell and no magics in a notebook"


def _main(arguments: Sequence[str], say: Callable[[str], None] = print) -> int:
    if len(arguments) < 2 or arguments[0] != "check":
        say("usage: python -m orchard.notebooks check PATH...")
        return 2
    paths = [p for given in map(Path, arguments[1:]) for p in (sorted(given.rglob("*.ipynb")) if given.is_dir() else [given])]
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
    sys.exit(_main(sys.argv[1:]))
