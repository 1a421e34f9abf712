"""The store: devices, attempts, strict JSON, permissions, foreign files, locks, what is deleted."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from orchard import series
from orchard.config import REQUIRED
from orchard.errors import BadInput, Diverged
from orchard.files import from_json, locked, share, to_json
from orchard.runs import Finished, OtherDevice, Run, RunError, Store, Workspace, execute, is_current, recipe
from orchard.runs import finished as finished_module
from orchard.runs.identity import identity
from orchard.runs.provenance import git
from orchard.runs.tabulated import Tabulated
from toy_runs import Square


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def quietly(line: str) -> None:
    pass


# ------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU does nothing, but can be asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * 2**20)


@pytest.mark.usefixtures("gpu")
def test_a_run_of_another_device_answers_only_who_takes_any(store: Store) -> None:
    cfg = Square.Config(number=3, label="three")
    done = store.compute(cfg, device="cuda")
    assert done.provenance["device"] == done.device == "cuda"
    assert done.provenance["peak_device_memory_mib"] == 5.0
    for device in ("auto", "cuda"):
        assert store.get(cfg, device=device) == done
    with pytest.raises(
        OtherDevice, match=r"\(three\) was made on cuda, and DEVICE is cpu: DEVICE auto takes it.*orchard runs rm"
    ):
        store.get(cfg, device="cpu")
    with pytest.raises(OtherDevice, match="was made on cuda"):
        store.compute(cfg, device="cpu")
    other = store.compute(Square.Config(number=4), device="cuda")
    with pytest.raises(OtherDevice, match="and 1 more"):
        execute([cfg, Square.Config(number=4)], store, device="cpu", report=quietly)
    assert execute([cfg, Square.Config(number=4)], store, report=quietly) == [done, other]
    assert "peak_device_memory_mib" not in store.compute(Square.Config(number=5), device="cpu").provenance


# ------------------------------------------------------------------------------------------------ attempts


class Walk(Run):
    """Takes steps, keeps each, and breaks off after ``until`` unless an earlier attempt got so far."""

    class Config(Run.Config):
        steps: int = 4

    until = 2
    precision = "32-true"

    def compute(self, work: Workspace) -> dict[str, Any]:
        work.begin({"device": "cpu", "name": "x", "precision": self.precision})
        taken = []
        for step in range(self.cfg.steps):
            path = work.checkpoints / str(step)
            if not path.exists():
                taken.append(step)
                path.touch()
            if step == self.until and len(taken) == step + 1:
                raise ValueError("tired")
        return {"taken": taken, "threads": work.threads}


def broken_off(store: Store) -> Path:
    """The attempt.json of a walk that broke off."""
    with pytest.raises(ValueError, match="tired"):
        store.compute(Walk.Config(), device="cpu", threads=1)
    return store.path / ".work" / identity(Walk.Config()).id / "attempt.json"


def test_an_attempt_goes_on_where_it_was(store: Store) -> None:
    facts = json.loads(broken_off(store).read_text())
    assert facts == {"attempts": 1, "threads": 1, "device": "cpu", "torch": torch.__version__, "precision": "32-true"}
    done = store.compute(Walk.Config(), device="cpu", threads=2)
    assert done.result == {"taken": [3], "threads": 1}
    assert done.provenance["attempts"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "cuda"), ("torch", "1.0"), ("precision", "bf16-mixed")],
    ids=["device", "torch", "precision"],
)
def test_an_attempt_with_other_arithmetic_is_begun_anew_and_says_so(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    path = broken_off(store)
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {name: value}))
    monkeypatch.setattr(Walk, "until", 99)
    done = store.compute(Walk.Config(), device="cpu")
    assert done.result["taken"] == [0, 1, 2, 3]
    assert f"begun anew with {name} {facts[name]}: an earlier attempt had {name} {value}" in capsys.readouterr().out
    assert "begun anew" in (done.folder / "log.txt").read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attempts": null}'])
def test_an_unreadable_attempt_keeps_its_checkpoints(
    store: Store, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    broken_off(store).write_text(text)
    done = store.compute(Walk.Config(), device="cpu")
    assert done.result["taken"] == [3]
    assert done.provenance["attempts"] == 1
    assert (
        "attempt.json cannot be read: attempts are counted from 1 again, checkpoints are kept"
        in capsys.readouterr().out
    )


def test_attempts_that_nobody_needs_are_deleted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = broken_off(store).parent
    done = store.compute(Square.Config(number=1))
    left = store.path / ".work" / done.id
    shutil.copytree(done.folder, left / "files")  # killed after the rename
    assert store.compute(Square.Config(number=1)).id == done.id
    assert not left.exists()
    shutil.copytree(done.folder, left / "files")
    scratch = store.path / ".import-x"
    scratch.mkdir()
    assert [path for path, _ in store.clean()] == [left]
    long_ago = time.time() - 40 * 86400
    for path in [attempt, *attempt.rglob("*"), scratch]:
        os.utime(path, (long_ago, long_ago))
    with locked(store.path / ".locks" / attempt.name):  # it goes on at this moment
        assert [path for path, _ in store.clean()] == [scratch]
    assert store.clean(days=50) == []
    assert [path for path, size in store.clean() if size > 0] == [attempt]
    assert Store(store.path / "nothing").clean() == []


# -------------------------------------------------------------------------------------------------- failures


class Broken(Run):
    """Raises what it is told to."""

    class Config(Run.Config):
        what: str = REQUIRED

    def compute(self, work: Workspace) -> dict[str, Any]:
        if self.cfg.what == "diverged":
            raise Diverged("diverged at step 7 with learning rate 0.1")
        if self.cfg.what == "memory":
            raise MemoryError
        if self.cfg.what == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")
        return {"size": len(torch.empty(2**50))}


@pytest.mark.parametrize(
    ("what", "message"),
    [("memory", r"run \w+ \(a\) ran out of memory \(MemoryError\); compute fewer runs at a time with --jobs 1"),
     ("gpu", r"\(a\) ran out of memory \(CUDA out of memory. Tried to allocate 2 GiB.\); compute fewer"),
     ("host", r"\(a\) ran out of memory \(.*DefaultCPUAllocator.*\); compute fewer")],
)  # fmt: skip
def test_out_of_memory_names_the_run_and_the_fix(store: Store, what: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        store.compute(Broken.Config(what=what, label="a"))


def test_a_run_that_diverges_is_never_finished(store: Store) -> None:
    cfgs = [Broken.Config(what="diverged", label="seed 0"), Square.Config(number=1)]
    with pytest.raises(RunError, match=r"1 of 2 runs failed.*\n  seed 0: diverged at step 7 with learning rate 0.1$"):
        execute(cfgs, store, jobs=1, report=quietly)
    assert store.get(cfgs[0]) is None
    assert store.get(cfgs[1]) is not None


@pytest.mark.parametrize("jobs", [0, -3, 100_000])
def test_a_number_of_jobs_is_one_that_the_machine_can_bear(store: Store, jobs: int) -> None:
    with pytest.raises(BadInput, match=rf"--jobs {jobs}: give a number of processes from 1 to "):
        execute([Square.Config(number=1)], store, jobs=jobs)


# ------------------------------------------------------------------------------------------------------ JSON


def strictly(text: str) -> Any:
    """As a parser reads it that knows JSON and nothing more."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Lost(Run):
    """A result that is not finite."""

    def compute(self, work: Workspace) -> dict[str, Any]:
        work.notes["rate"] = math.inf
        return {"loss": math.nan, "rows": [{"a/b": -math.inf, "c": 1.5}]}


def test_what_is_not_finite_is_null_and_named(store: Store) -> None:
    done = store.compute(Lost.Config())
    for path in done.folder.glob("*.json"):
        strictly(path.read_text())
    text = strictly((done.folder / "result.json").read_text())
    assert text["loss"] is None
    assert text["not_finite"] == {"/loss": "NaN", "/rows/0/a~1b": "-Infinity"}
    assert math.isnan(done.result["loss"])
    assert done.result["rows"] == [{"a/b": -math.inf, "c": 1.5}]
    assert done.provenance["rate"] == math.inf
    assert from_json(to_json({"x": [1, math.inf]})) == {"x": [1, math.inf]}
    assert from_json(to_json([1.5])) == [1.5]
    with pytest.raises(ValueError, match="/0 is not finite"):
        to_json([math.nan])
    with pytest.raises(ValueError, match="'not_finite' is taken"):
        to_json({"not_finite": 1})


# -------------------------------------------------------------------------------- what others can read and leave


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_file_has_the_permissions_of_the_umask(store: Store, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        done = store.compute(Square.Config(number=1))
        file = store.export([done], tmp_path / "runs.tar")
        moved = Store(tmp_path / "moved").import_(file)[0]
    finally:
        os.umask(before)
    paths = [*done.folder.iterdir(), *moved.folder.iterdir(), file]
    assert {oct(path.stat().st_mode & 0o777) for path in paths} == {oct(0o666 & ~umask)}
    assert {oct(run.folder.stat().st_mode & 0o777) for run in (done, moved)} == {oct(0o777 & ~umask)}
    private = tmp_path / "private"
    private.touch(0o600)
    share(private)
    assert private.stat().st_mode & 0o077 == 0o066 & ~before


def test_an_unreadable_run_is_reported_and_left_alone_and_the_others_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = Square.Config(number=1, label="theirs")
    done, other = store.compute(cfg), store.compute(Square.Config(number=2))
    real = finished_module.file_sha256

    def denied(path: Path) -> str:
        if path.parent == done.folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(finished_module, "file_sha256", denied)
    assert store.ls() == [other]
    assert store.verify() == [(done.id, "config.json cannot be read: Permission denied")]
    with pytest.raises(RunError, match=r"\(theirs\) is in .*, but config.json cannot be read.*chmod -R a\+rX"):
        store.get(cfg)
    with pytest.raises(RunError, match=r"chmod -R a\+rX"):
        store.get_by_prefix(done.id)
    assert store.get_by_prefix(other.id) == other
    assert done.folder.exists()
    assert not (store.path / ".damaged").exists()


def test_foreign_files_are_no_damage(store: Store, tmp_path: Path) -> None:
    cfg = Square.Config(number=1, log=str(tmp_path / "log"))
    done = store.compute(cfg)
    for name in (".DS_Store", "._result.json", ".nfs0001", "Thumbs.db", "extra.txt"):
        (done.folder / name).write_text("x")
    assert store.get(cfg) == done
    assert store.verify() == []
    assert store.strangers() == sorted(
        done.folder / n for n in (".DS_Store", "._result.json", ".nfs0001", "Thumbs.db", "extra.txt")
    )
    file = store.export([done], tmp_path / "runs.tar")
    with tarfile.open(file) as tar:
        assert sorted(tar.getnames()) == sorted(f"{done.id}/{path.name}" for path in done.files)
    with tarfile.open(file, "a") as tar:  # packed again on a Mac
        for name in (f"._{done.id}", f"{done.id}/._log.txt", f"{done.id}/.DS_Store", f"__MACOSX/{done.id}/x"):
            tar.add(done.folder / "extra.txt", arcname=name)
    moved = Store(tmp_path / "moved")
    assert [run.id for run in moved.import_(file)] == [done.id]
    assert sorted(path.name for path in (moved.path / done.id).iterdir()) == sorted(path.name for path in done.files)


def test_a_damaged_run_is_set_aside_under_its_lock(store: Store) -> None:
    cfg = Square.Config(number=1)
    done = store.compute(cfg)
    (done.folder / "result.json").unlink()
    with locked(store.path / ".locks" / done.id):  # another process repairs it
        assert store.get(cfg) is None
        assert done.folder.exists()
    assert store.warnings == []
    assert store.get(cfg) is None
    assert not done.folder.exists()
    assert "result.json is missing" in store.warnings[0]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_lock_files(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="has no locks .*a lock file stands in"):
        assert store.compute(Square.Config(number=4)).result == {"square": 16}


@pytest.mark.filterwarnings("ignore:the file system")
def test_a_lock_file_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "x") as held, locked(tmp_path / "x", wait=False) as again:
        assert (held, again) == (True, False)
    with locked(tmp_path / "x", wait=False) as held:
        assert held


# ------------------------------------------------------------------------------------------------- provenance


def test_why_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\necho \"fatal: detected dubious ownership in repository at '/x'\" >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git(tmp_path) == {"sha": None, "why": "detected dubious ownership in repository at '/x'"}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git(tmp_path)["why"].startswith("git cannot be run")


def test_whether_a_finished_run_is_that_of_the_code_that_is_here(tmp_path: Path) -> None:
    cfg = Tabulated.Config(table=series.overview)

    def kept(tree: Any, known: str) -> Finished:
        (tmp_path / "config.json").write_text(to_json(tree))
        (tmp_path / "status.json").write_text(to_json({"identity": {"recipe": known}}))
        return Finished(tmp_path)

    assert recipe(cfg) == identity(cfg).recipe
    assert is_current(kept(cfg.to_dict(), recipe(cfg)))
    assert not is_current(kept(cfg.to_dict(), "0" * 16))
    assert not is_current(kept(cfg.to_dict() | {"gone": 1}, recipe(cfg)))
    assert not is_current(kept(Square.Config(number=1).to_dict(), "0" * 16))  # of no module of this library
