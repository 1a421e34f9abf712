"""The run store: one folder per run, complete or absent.

::

    <store>/<id>/            config.json status.json result.json metrics.jsonl provenance.json log.txt *.safetensors
    <store>/.work/<id>/      an attempt that is not complete: files/ becomes the run's folder, checkpoints/ survives a kill
    <store>/.locks/<id>      held by the process that computes the run
    <store>/.damaged/        folders that failed verification, set aside
    <store>/.imported/       recipe (config + code) -> id, for runs that were made on another machine

A run appears under its id by one rename, after everything in it is on disk. ``status.json`` holds the size and SHA-256 of every
other file; a folder that lacks one of them, or has another, is set aside and computed again, never read. What it does not list is no
part of the run and does no harm. All files have the permissions that the umask asks for.
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

from safetensors import SafetensorError

from orchard.errors import BadInput
from orchard.files import locked, share, to_json, write
from orchard.paths import root
from orchard.runs.attempt import Attempt, age_days
from orchard.runs.device import resolve_device
from orchard.runs.finished import DamagedRun, Finished, Problem, RunError, check, file_sha256, files_of, is_foreign
from orchard.runs.identity import Identity, dependencies, identity
from orchard.runs.provenance import Stopwatch, environment
from orchard.runs.run import THREADS, Run, Workspace

FORMAT = 1


class OtherDevice(RunError):
    """A run was made on a device of another kind than the one that the caller insists on."""


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

    def get(self, cfg: Run.Config, ident: Identity | None = None, device: str = "auto") -> Finished | None:
        """The finished run of ``cfg``, or None.

        A damaged folder is set aside, reported in ``warnings`` and counts as absent. A run that was imported from another machine
        is found although its embedded corpus differs from this machine's, because it cannot be computed again here; its
        provenance says so. Data that the user named is never excused in this way.

        Args:
            device: "auto" takes a run of any device, whose provenance says which; "cpu", "cuda" and "mps" take no other.

        Raises:
            OtherDevice: the run was made on a device of another kind.
            RunError: it is there and cannot be read.
        """
        return self._get(ident or identity(cfg), cfg.label, device)

    def _get(self, ident: Identity, label: str, device: str, held: bool = False) -> Finished | None:
        """``held``: the caller holds the run's lock."""
        folder = self.path / ident.id
        if not folder.exists() and ident.machine_bound:
            pointer = self.path / ".imported" / ident.recipe
            if pointer.exists():
                folder = self.path / pointer.read_text("utf-8").strip()
        if not folder.exists():
            return None
        problem = check(folder)
        if problem is None:
            return self._accepted(Finished(folder), label, device)
        if not problem.readable:
            raise RunError(
                f"run {folder.name} ({label}) is in {self.path}, but {problem}; ask its owner to let others read it "
                "(chmod -R a+rX), or choose another store with STORE or $ORCHARD_STORE"
            )
        if held:
            self._set_aside(folder, problem)
        else:
            with self._lock(folder.name, wait=False) as free:  # else another process sees to it
                if free and check(folder) is not None:
                    self._set_aside(folder, problem)
        return None

    def _accepted(self, run: Finished, label: str, device: str) -> Finished:
        if device != "auto" and run.device not in (None, device):
            raise OtherDevice(
                f"run {run.id} ({label or run.label}) was made on {run.device}, and DEVICE is {device}: DEVICE auto takes it as it is; "
                f"to compute it on {device} choose another store with STORE, or remove it with `orchard runs rm {run.id}`"
            )
        return run

    def ls(self) -> list[Finished]:
        """Every complete run, oldest first. Damaged ones and those that cannot be read are listed by :meth:`verify`."""
        return self.survey()[0]

    def survey(self) -> tuple[list[Finished], list[tuple[str, str]]]:
        """What :meth:`ls` and :meth:`verify` list, where every file is read once for both."""
        found = {folder: check(folder) for folder in self._folders()}
        whole = [folder for folder, problem in found.items() if problem is None]
        whole.sort(key=lambda folder: (folder.stat().st_mtime, folder.name))
        return [Finished(f) for f in whole], [(f.name, str(problem)) for f, problem in found.items() if problem]

    def get_by_prefix(self, prefix: str) -> Finished:
        """The run whose id starts with ``prefix``; an error if there is none or more than one."""
        matches = [f for f in self._folders() if prefix and f.name.startswith(prefix)]
        if len(matches) != 1:
            what = "no run" if not matches else f"{len(matches)} runs"
            raise RunError(
                f"{what} in {self.path} with an id that starts with {prefix!r}; `orchard runs ls` lists them"
            )
        problem = check(matches[0])
        if problem is not None and not problem.readable:
            raise RunError(f"run {matches[0].name}: {problem}; ask its owner to let others read it (chmod -R a+rX)")
        if problem is not None:
            raise DamagedRun(f"run {matches[0].name} is damaged: {problem}; running its experiment again replaces it")
        return Finished(matches[0])

    def verify(self) -> list[tuple[str, str]]:
        """Id and problem of every folder that does not match its status or cannot be read. Changes nothing."""
        return self.survey()[1]

    def strangers(self) -> list[Path]:
        """Files in the folders of complete runs that are none of theirs. They do no harm."""
        return [path for run in self.ls() for path in sorted(run.folder.iterdir()) if path not in run.files]

    # -------------------------------------------------------------- computing

    def compute(self, cfg: Run.Config, device: str = "auto", threads: int = THREADS) -> Finished:
        """The finished run of ``cfg``; computed here if it is missing.

        Waits while another process computes the same run, and takes over if that process dies. An attempt that was killed
        goes on from its last checkpoint.

        Raises:
            RunError: the disk or the memory is full, or another run that this one contains failed.
            OtherDevice: the run is finished, on a device of another kind than the one that is asked for.
            Diverged: its loss is no longer finite.
        """
        ident = identity(cfg)
        done = self._get(ident, cfg.label, device)
        if done:
            self._forget_attempt(ident.id)
            return done
        for needed in () if cfg.owner.inside else dependencies(cfg):
            self.compute(needed, device, threads)
        with self._lock(ident.id):
            done = self._get(ident, cfg.label, device, held=True)  # the process that held the lock may have made it
            return done or self._attempt(cfg, ident, device, threads)

    def _attempt(self, cfg: Run.Config, ident: Identity, device: str, threads: int) -> Finished:
        import torch

        kind = resolve_device(device)
        try:
            attempt = Attempt(self.path / ".work" / ident.id)
            attempt.settle(device=kind, torch=torch.__version__)
            threads = attempt.threads(threads)
            watch = Stopwatch(kind)

            def held(need: Run.Config) -> Finished:
                with watch.paused():
                    return self.compute(need, device, threads)

            work = Workspace(
                attempt.files, attempt.checkpoints, device, threads, held,
                settle=lambda precision: attempt.settle(precision=precision),
            )  # fmt: skip
            work.log(f"run {ident.id} attempt {attempt.number}: {cfg.label or type(cfg).__qualname__}")
            with _threads(threads):
                result = cfg.clone().build().compute(work)
            write(attempt.files / "config.json", to_json(cfg.to_dict()))
            write(attempt.files / "result.json", to_json(result))
            provenance = {
                **environment(), "device": kind, **watch.read(), "threads": threads, "attempts": attempt.number, **work.notes
            }  # fmt: skip
            write(attempt.files / "provenance.json", to_json(provenance))
            for path in files_of(attempt.files):
                share(path)
            status = {
                "format": FORMAT,
                "state": "complete",
                "label": cfg.label,
                "identity": ident.as_dict(),
                "files": {
                    p.name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files_of(attempt.files)
                },
            }
            write(attempt.files / "status.json", to_json(status))
            _sync(attempt.files)
            os.rename(attempt.files, self.path / ident.id)
        except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
            explained = self._explained(error, f"run {ident.id} ({cfg.label or type(cfg).__qualname__})")
            if explained is None:
                raise
            raise RunError(explained) from None
        shutil.rmtree(attempt.folder, ignore_errors=True)
        return Finished(self.path / ident.id)

    def _explained(self, error: BaseException, run: str) -> str | None:
        """The message for a machine that is too small; None for any other error."""
        if is_disk_full(error):
            return (
                f"no space for {run} in {self.path} ({getattr(error, 'strerror', None) or error}); free some space or choose another "
                "store with STORE or $ORCHARD_STORE; a run that saved a checkpoint goes on from there"
            )
        if is_out_of_memory(error):
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return (
                f"{run} ran out of memory ({first}); compute fewer runs at a time with --jobs 1, choose a smaller profile or batch, "
                "or a machine with more; a run that saved a checkpoint goes on from there"
            )
        return None

    # --------------------------------------------------------------- cleaning

    def clean(self, days: float = 30.0) -> list[tuple[Path, int]]:
        """Delete what no run needs: attempts at runs that are finished, attempts that nothing was written to for ``days``, and what an
        import or a removal left behind that was killed. Attempts that go on at this moment are left alone.

        Returns:
            What was deleted, with its size in bytes.
        """
        found = sorted(self.path.glob(".import-*")) + sorted(self.path.glob(".removed-*"))
        deleted = [self._deleted(folder) for folder in found if age_days(folder) > 1]
        work = self.path / ".work"
        for folder in sorted(work.iterdir()) if work.exists() else []:
            with self._lock(folder.name, wait=False) as free:
                done = (self.path / folder.name).exists()
                if free and folder.exists() and (done or age_days(folder) > days):
                    deleted.append(self._deleted(folder))
        return deleted

    def _forget_attempt(self, run_id: str) -> None:
        """Delete an attempt whose run is finished: one that was killed between its last two steps."""
        folder = self.path / ".work" / run_id
        if folder.exists():
            with self._lock(run_id, wait=False) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _deleted(folder: Path) -> tuple[Path, int]:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        return folder, size

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
                        for path in run.files:
                            tar.add(path, arcname=f"{run.id}/{path.name}")
                part.flush()
                os.fsync(part.fileno())
                share(Path(part.name))
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
                    tar.extractall(scratch, filter=_wanted)
            except FileNotFoundError:
                raise RunError(f"no file {file} to import") from None
            except (tarfile.TarError, EOFError) as error:
                raise RunError(f"{file} is not a complete export of runs ({error}); export it again") from None
            folders = sorted(f for f in Path(scratch).iterdir() if not f.name.startswith("."))
            problems = [f"{f.name}: {problem}" for f in folders if (problem := check(f))]
            if problems or not folders:
                raise RunError(f"{file} holds damaged runs, none was imported: {'; '.join(problems) or 'it is empty'}")
            for folder in folders:
                target = self.path / folder.name
                if not target.exists():
                    for path in files_of(folder):
                        share(path)
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
    def _lock(self, run_id: str, wait: bool = True) -> Iterator[bool]:
        folder = self.path / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        message = f"run {run_id} is being computed by another process; waiting for it"
        with locked(folder / run_id, wait=wait, waiting=lambda: print(message, flush=True)) as held:
            yield held

    def _set_aside(self, folder: Path, problem: Problem) -> None:
        """The caller holds the run's lock."""
        target = self.path / ".damaged"
        try:
            target.mkdir(exist_ok=True)
            number = sum(1 for _ in target.glob(f"{folder.name}.*"))
            os.rename(folder, target / f"{folder.name}.{number}")
        except OSError as error:
            raise RunError(
                f"run {folder.name} in {self.path} is damaged ({problem}) and cannot be set aside ({error.strerror}): "
                "ask its owner, or choose another store with STORE or $ORCHARD_STORE"
            ) from None
        self.warnings.append(f"run {folder.name} is damaged and set aside ({problem}); it will be computed again")


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of space, or of a right to more; some libraries say so in words alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    return isinstance(error, RuntimeError | SafetensorError) and any(word in str(error) for word in words)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the host or of an accelerator could not be had."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in str(error) or "out of memory" in str(error))


def _wanted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """What is extracted of an export: no file that a desktop put into it, and nothing outside the folder."""
    if any(is_foreign(part) for part in Path(member.name).parts):
        return None
    return tarfile.data_filter(member, path)


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
