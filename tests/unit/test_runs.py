"""Runs: identity, the store, the local engine, moving runs between machines."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from orchard.data import EmbeddedText
from orchard.errors import BadInput
from orchard.runs import Finished, RunError, Store, dependencies, execute, identity
from orchard.runs.code import tree_sha256
from orchard.runs.engine import _Workers, plan
from orchard.runs.store import DamagedRun
from toy_runs import Square, Threads, Total, corpus, tiny_lm


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_comment_or_docstring_changes_no_code_hash_but_a_constant_does() -> None:
    def sha256(source: str) -> str:
        return tree_sha256(ast.parse(source))

    source = 'def f(x: int) -> int:\n    """Text."""\n    return x + 1\n'
    assert sha256(source) == sha256("# comment\n" + source.replace("Text", "Other").replace("x + 1", "(x +\n 1)"))
    assert sha256(source) != sha256(source.replace("+ 1", "+ 2"))
    assert sha256(source) != sha256(source.replace("x: int", "x: float"))
    assert sha256("class A:\n    '''only text'''\n") == sha256("class A:\n    '''another'''\n")


def test_identity_follows_config_and_data_but_not_label_or_path(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    first = identity(tiny_lm(path))
    assert identity(tiny_lm(path, label="another name")) == first
    assert identity(tiny_lm(path, steps=41)).id != first.id
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(path, moved / "text.txt")
    assert identity(tiny_lm(moved / "text.txt")) == first
    (moved / "text.txt").write_text(path.read_text().replace("pear3", "plum3", 1))
    changed = identity(tiny_lm(moved / "text.txt"))
    assert changed.id != first.id
    assert (changed.config, changed.code) == (first.config, first.code)


def test_compute_once_then_serve(store: Store, tmp_path: Path) -> None:
    cfg = Square.Config(number=7, log=str(tmp_path / "log"))
    assert store.get(cfg) is None
    first = store.compute(cfg)
    again = store.compute(cfg)
    assert first.result == again.result == {"square": 49}
    assert first.tensors("value")["value"].item() == 7.0
    assert (tmp_path / "log").read_text() == "7\n"
    assert not list((store.path / ".work").iterdir())
    names = {p.name for p in first.folder.iterdir()}
    assert names == {"config.json", "status.json", "result.json", "provenance.json", "log.txt", "value.safetensors"}
    facts = first.provenance
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["wall_s"] >= 0
    assert facts["threads"] == 1


def test_a_run_computes_with_one_thread_whatever_the_caller_has(store: Store) -> None:
    torch.set_num_threads(2)
    try:
        done = store.compute(Threads.Config())
        assert done.result["threads"] == done.provenance["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_runs_inside_runs_are_computed_first_and_once(store: Store, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    parts = [Square.Config(number=n, log=log) for n in (1, 2, 3)]
    total = Total.Config(parts=parts)
    assert [d.number for d in dependencies(total)] == [1, 2, 3]
    assert [done for _, _, done in plan([total], store)] == [False] * 4
    done = execute([total, parts[1]], store, jobs=1, report=lambda line: None)
    assert done[0].result == {"total": 14}
    assert done[1].result == {"square": 4}
    assert sorted((tmp_path / "log").read_text().split()) == ["1", "2", "3"]
    assert all(done for _, _, done in plan([total], store))


def test_pool_gives_the_same_as_one_process(store: Store, tmp_path: Path) -> None:
    cfgs = [Square.Config(number=n) for n in range(5)]
    lines: list[str] = []
    many = execute(cfgs, store, jobs=2, report=lines.append)
    one = execute(cfgs, Store(tmp_path / "other"), jobs=1, report=lines.append)
    assert [r.result for r in many] == [r.result for r in one]
    assert len(lines) == 10
    assert [r.id for r in many] == [r.id for r in one]


def test_workers_stay_until_they_are_others_killed_or_idle() -> None:
    workers = _Workers(idle_s=3600)
    cfg = Square.Config(number=1)

    def worker(jobs: int) -> int:
        with workers.lent(jobs, []) as pool:
            future = pool.submit(os.getpid, cfg)
            pid = int(future.result())
            pool.release(future)
        return pid

    first = worker(2)
    assert worker(2) == first
    other = worker(3)
    assert other != first
    assert not psutil.pid_exists(first)  # a pool of another size replaces the first one
    with workers.lent(3, []) as pool:
        assert pool.pids == [other]
        os.kill(other, signal.SIGKILL)
        with suppress(psutil.NoSuchProcess):
            psutil.Process(other).wait()
    last = worker(3)  # another process does its work
    assert last != other
    workers.idle_s = 0.0
    worker(3)
    while workers.there(3):  # the timer takes them away
        threading.Event().wait(0.01)
    with pytest.raises(KeyboardInterrupt), workers.lent(2, []):
        raise KeyboardInterrupt
    assert not workers.there(2)


def test_workers_have_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = _Workers(idle_s=3600)

    def seen() -> str | None:
        with workers.lent(2, []) as pool:
            future = pool.submit(partial(os.getenv, "PEAR"), Square.Config(number=1))
            value = future.result()
            pool.release(future)
        return value

    monkeypatch.delenv("PEAR", raising=False)
    assert seen() is None
    monkeypatch.setenv("PEAR", "ripe")
    assert seen() == "ripe"
    with workers.lent(1, []):  # lets the others go
        pass


@pytest.mark.parametrize("always", [False, True])
def test_a_killed_run_takes_no_other_with_it_and_is_tried_once_more_alone(
    store: Store, tmp_path: Path, always: bool
) -> None:
    """The others go on while it dies, in the same pool."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    killed = Square.Config(
        number=1, kill=str(tmp_path / "killed"), always=always, log=str(tmp_path / "log"), label="big"
    )
    others = [Square.Config(number=2, wait=str(pipe)), Square.Config(number=3), Square.Config(number=4)]
    after = Total.Config(parts=[killed], label="sum")
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if "big" in line and "tried once more" in line:
            threading.Thread(target=pipe.write_text, args=("",), daemon=True).start()  # the second run may end now

    def sweep() -> list[Finished]:
        return execute([killed, *others, after], store, jobs=2, report=report)

    if always:
        with pytest.raises(RunError, match=r"2 of 5 runs failed.*\n  big: its process was killed, twice"):
            sweep()
        assert store.get(killed) is None
    else:
        assert [run.result for run in sweep()][-1] == {"total": 1}
    assert [store.get(cfg) is not None for cfg in others] == [True, True, True]
    assert (tmp_path / "log").read_text() == "1\n1\n"
    assert lines[-1 if always else -3].startswith("run 3/5")  # alone: after the others


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_names_itself_and_the_others_are_kept(store: Store, jobs: int) -> None:
    bad = Square.Config(number=1, fail="no apples", label="the bad one")
    good = Square.Config(number=2)
    with pytest.raises(RunError, match=r"the bad one: ValueError: no apples") as error:
        execute([bad, good, Total.Config(parts=[bad], label="sum")], store, jobs=jobs, report=lambda line: None)
    assert "sum: a run that it contains failed" in str(error.value)
    assert store.get(good) is not None
    assert store.get(bad) is None


def test_unknown_engine_and_device_name_the_choices(store: Store) -> None:
    with pytest.raises(BadInput, match="engines are local"):
        execute([Square.Config(number=1)], store, engine="slurmy")
    with pytest.raises(BadInput, match="choose one of auto, cpu, cuda, mps"):
        execute([Square.Config(number=1)], store, device="tpu")


def test_export_import_round_trip(store: Store, tmp_path: Path) -> None:
    cfgs = [Square.Config(number=n) for n in (3, 4)]
    done = execute(cfgs, store, jobs=1, report=lambda line: None)
    file = store.export(done, tmp_path / "out" / "runs.tar")
    other = Store(tmp_path / "other")
    assert [r.id for r in other.import_(file)] == sorted(r.id for r in done)
    for cfg, run in zip(cfgs, done, strict=True):
        found = other.get(cfg)
        assert found is not None
        assert found.result == run.result
    assert {r.id for r in other.import_(file)} == {r.id for r in done}  # a second time changes nothing
    file.write_bytes(file.read_bytes()[:-6000])
    third = Store(tmp_path / "third")
    with pytest.raises(RunError, match="export"):
        third.import_(file)
    assert third.ls() == []
    with pytest.raises(RunError, match="no file"):
        third.import_(tmp_path / "missing.tar")
    with pytest.raises(RunError, match="nothing to export"):
        store.export([], tmp_path / "none.tar")


def test_an_imported_run_on_another_machines_embedded_corpus_is_found(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_lm(corpus(tmp_path), steps=2).set(source=EmbeddedText.Config(max_bytes=400_000))
    done = store.compute(cfg)
    file = store.export([done], tmp_path / "runs.tar")
    here = Store(tmp_path / "here")
    here.import_(file)
    real = EmbeddedText.manifest

    def other(self: EmbeddedText) -> object:
        import dataclasses

        return dataclasses.replace(real(self), sha256="0" * 64)

    monkeypatch.setattr(EmbeddedText, "manifest", other)
    found = here.get(cfg)
    assert found is not None
    assert found.id == done.id
    assert store.get(cfg) is None  # computed here, not imported: other data, other run
    assert here.get(cfg.clone().set(steps=3)) is None


def test_ls_prefix_and_remove(store: Store) -> None:
    done = store.compute(Square.Config(number=5))
    assert [r.id for r in store.ls()] == [done.id]
    assert store.get_by_prefix(done.id[:6]).id == done.id
    with pytest.raises(RunError, match="no run"):
        store.get_by_prefix("zzz")
    with pytest.raises(RunError, match="no run"):
        store.remove([done.id, "feedfeedfeedfeed"])
    assert store.ls()
    store.remove([done.id])
    assert store.ls() == []


def test_verify_reports_and_changes_nothing(store: Store) -> None:
    done = store.compute(Square.Config(number=5))
    (done.folder / "result.json").write_text("{}")
    assert [i for i, _ in store.verify()] == [done.id]
    assert done.folder.exists()
    with pytest.raises(DamagedRun, match=r"result\.json has 2 bytes"):
        store.get_by_prefix(done.id)


def test_a_store_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is not a folder; name another one"):
        Store(tmp_path / "file")


def test_files_are_plain(store: Store) -> None:
    done = store.compute(Square.Config(number=5))
    for name in ("config.json", "status.json", "result.json", "provenance.json"):
        json.loads((done.folder / name).read_text())


class Refused(Total):
    def __init__(self, cfg: Total.Config) -> None:
        raise BadInput("a value that cannot be: give another")


def test_a_bad_value_is_refused_before_what_the_run_contains_is_computed(store: Store) -> None:
    with pytest.raises(BadInput, match="a value that cannot be"):
        execute([Refused.Config(parts=[Square.Config(number=3)])], store, jobs=1, device="cpu")
    assert store.ls() == []
