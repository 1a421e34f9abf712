"""The run store: one folder per run, complete or absent.

::

    <store>/<id>/            config.json status.json result.json metrics.jsonl provenance.json log.txt *.safetensors
    <store>/.work/<id>/      an attempt that is not complete: files/ becomes the run's folder, checkpoints/ survives a kill
    <store>/.locks/<id>      held by the process that computes the run
    <store>/.damaged/        folders that failed verification, set aside
    <store>/.imported/       recipe (config + code) -> id, for runs that were made on another machine

A run appears under its id by one rename, after everything in it is on disk. ``status.json`` holds the size and SHA-256 of every
other file; a folder that does not match it is set aside and computed again, never read. The files are plain JSON, text and
safetensors: no Orchard is needed to read them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchard.errors import BadInput
from orchard.files import write
from orchard.paths import root
from orchard.runs.finished import DamagedRun, Finished, RunError, check, file_sha256, files_of
from orchard.runs.identity import Identity, dependencies, identity
from orchard.runs.provenance import Stopwatch, environment
from orchard.runs.run import THREADS, Run, Workspace, to_json

FORMAT = 1


def store_path(path: str | Path | None = None) -> Path:
    """Folder of the store: ``path``, else ``$ORCHARD_STORE``, else ``.orchard/runs`` under the project's root."""
    chosen = path or os.environ.get("ORCHARD_STORE")
    return Path(chosen).expanduser().absolute() if chosen else root() / ".orchard" / "runs"


class Store:
    """Finished runs on disk.

    Args:
        path: folder of the store; see :func:`store_path`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = store_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"the run store {self.path} is not a folder; name another one with STORE or $ORCHARD_STORE")
        self.warnings: list[str] = []

    # ---------------------------------------------------------------- finding

    def get(self, cfg: Run.Config, ident: Identity | None = None) -> Finished | None:
        """The finished run of ``cfg``, or None.

        A damaged folder is set aside, reported in ``warnings`` and counts as absent. A run that was imported from another machine
        is found although its embedded corpus differs from this machine's, because it cannot be computed again here; its
        provenance says so. Data that the user named is never excused in this way.
        """
        ident = ident or identity(cfg)
        folder = self.path / ident.id
        if not folder.exists() and ident.machine_bound:
            pointer = self.path / ".imported" / ident.recipe
            if pointer.exists():
                folder = self.path / pointer.read_text("utf-8").strip()
        if not folder.exists():
            return None
        problem = check(folder)
        if problem:
            self._set_aside(folder, problem)
            return None
        return Finished(folder)

    def ls(self) -> list[Finished]:
        """Every complete run, oldest first. Damaged ones are listed by :meth:`verify`."""
        folders = [f for f in self._folders() if (f / "status.json").exists()]
        return [Finished(f) for f in sorted(folders, key=lambda f: (f.stat().st_mtime, f.name)) if check(f) is None]

    def get_by_prefix(self, prefix: str) -> Finished:
        """The run whose id starts with ``prefix``; an error if there is none or more than one."""
        matches = [f for f in self._folders() if prefix and f.name.startswith(prefix)]
        if len(matches) != 1:
            what = "no run" if not matches else f"{len(matches)} runs"
            raise RunError(
                f"{what} in {self.path} with an id that starts with {prefix!r}; `orchard runs ls` lists them"
            )
        problem = check(matches[0])
        if problem:
            raise DamagedRun(f"run {matches[0].name} is damaged: {problem}; running its experiment again replaces it")
        return Finished(matches[0])

    def verify(self) -> list[tuple[str, str]]:
        """Id and problem of every folder that does not match its status. Changes nothing."""
        return [(f.name, problem) for f in self._folders() if (problem := check(f))]

    # -------------------------------------------------------------- computing

    def compute(self, cfg: Run.Config, device: str = "auto", threads: int = THREADS) -> Finished:
        """The finished run of ``cfg``; computed here if it is missing.

        Waits while another process computes the same run, and takes over if that process dies. An attempt that was killed
        goes on from its last checkpoint.

        Raises:
            RunError: the disk is full, or another run that this one contains failed.
        """
        ident = identity(cfg)
        done = self.get(cfg, ident)
        if done:
            return done
        for needed in dependencies(cfg):
            self.compute(needed, device, threads)
        with self._lock(ident.id):
            done = self.get(cfg, ident)  # the process that held the lock may have made it
            return done or self._attempt(cfg, ident, device, threads)

    def _attempt(self, cfg: Run.Config, ident: Identity, device: str, threads: int) -> Finished:
        attempt = self.path / ".work" / ident.id
        files = attempt / "files"
        status_path = attempt / "attempt.json"
        previous = json.loads(status_path.read_text("utf-8")) if status_path.exists() else {"attempts": 0}
        try:
            files.mkdir(parents=True, exist_ok=True)
            (attempt / "checkpoints").mkdir(exist_ok=True)
            attempts = previous["attempts"] + 1
            # An attempt that goes on keeps the thread count it began with: the last bits of a sum depend on it.
            threads = previous.get("threads", threads)
            write(status_path, to_json({"attempts": attempts, "threads": threads}))
            work = Workspace(
                files, attempt / "checkpoints", device, threads, lambda need: self.compute(need, device, threads)
            )
            watch = Stopwatch()
            work.log(f"run {ident.id} attempt {attempts}: {cfg.label or type(cfg).__qualname__}")
            with _threads(threads):
                result = cfg.clone().build().compute(work)
            write(files / "config.json", to_json(cfg.to_dict()))
            write(files / "result.json", to_json(result))
            provenance = {**environment(), **watch.read(), "threads": threads, "attempts": attempts, **work.notes}
            write(files / "provenance.json", to_json(provenance))
            status = {
                "format": FORMAT,
                "state": "complete",
                "label": cfg.label,
                "identity": ident.as_dict(),
                "files": {p.name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files_of(files)},
            }
            write(files / "status.json", to_json(status))
            _sync(files)
            os.rename(files, self.path / ident.id)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise RunError(
                    f"no space for run {ident.id} in {self.path} ({error.strerror}); free some space or choose another "
                    f"store with STORE or $ORCHARD_STORE; what is done so far is kept and the run goes on from there"
                ) from None
            raise
        shutil.rmtree(attempt, ignore_errors=True)
        return Finished(self.path / ident.id)

    # ------------------------------------------------------- moving, removing

    def export(self, runs: Sequence[Finished], file: str | Path) -> Path:
        """Write runs to one tar file, for :meth:`import_` on another machine. Appears complete or not at all."""
        file = Path(file)
        if not runs:
            raise RunError(f"nothing to export to {file}: no run matches; `orchard runs ls` lists them")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part:
            try:
                with tarfile.open(fileobj=part, mode="w") as tar:
                    for run in runs:
                        tar.add(run.folder, arcname=run.id)
                part.flush()
                os.fsync(part.fileno())
                os.replace(part.name, file)
            except BaseException:
                os.unlink(part.name)
                raise
        return file

    def import_(self, file: str | Path) -> list[Finished]:
        """Add the runs of an exported file; those that are here already are left alone. All of them or, on an error, none."""
        file = Path(file)
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".import-") as scratch:
            try:
                with tarfile.open(file) as tar:
                    tar.extractall(scratch, filter="data")
            except FileNotFoundError:
                raise RunError(f"no file {file} to import") from None
            except (tarfile.TarError, EOFError) as error:
                raise RunError(f"{file} is not a complete export of runs ({error}); export it again") from None
            folders = sorted(Path(scratch).iterdir())
            problems = [f"{f.name}: {problem}" for f in folders if (problem := check(f))]
            if problems or not folders:
                raise RunError(f"{file} holds damaged runs, none was imported: {'; '.join(problems) or 'it is empty'}")
            for folder in folders:
                target = self.path / folder.name
                if not target.exists():
                    os.rename(folder, target)
                    recipe = json.loads((target / "status.json").read_text("utf-8"))["identity"]["recipe"]
                    (self.path / ".imported").mkdir(exist_ok=True)
                    write(self.path / ".imported" / recipe, folder.name)
        return [Finished(self.path / f.name) for f in folders]

    def remove(self, ids: Sequence[str]) -> None:
        """Delete runs by id (whole ids only)."""
        for run_id in ids:
            if not (self.path / run_id).is_dir() or run_id.startswith("."):
                raise RunError(f"no run {run_id!r} in {self.path}; `orchard runs ls` lists them")
        for run_id in ids:
            doomed = self.path / f".removed-{run_id}"
            os.rename(self.path / run_id, doomed)  # at once, so that nobody reads a half-deleted run
            shutil.rmtree(doomed)

    # ------------------------------------------------------------------ inner

    def _folders(self) -> Iterator[Path]:
        if self.path.exists():
            yield from (f for f in sorted(self.path.iterdir()) if f.is_dir() and not f.name.startswith("."))

    @contextmanager
    def _lock(self, run_id: str) -> Iterator[None]:
        folder = self.path / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / run_id)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"run {run_id} is being computed by another process; waiting for it", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _set_aside(self, folder: Path, problem: str) -> None:
        self.warnings.append(f"run {folder.name} is damaged and set aside ({problem}); it will be computed again")
        target = self.path / ".damaged"
        target.mkdir(exist_ok=True)
        number = sum(1 for _ in target.glob(f"{folder.name}.*"))
        os.rename(folder, target / f"{folder.name}.{number}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sync(folder: Path) -> None:
    for path in files_of(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
