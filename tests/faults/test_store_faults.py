"""What goes wrong on real machines: kills in mid-training, damaged folders, two writers, a full disk, changed code and data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchard.runs import Store
from toy_runs import Square, corpus, tiny_lm

TESTS = Path(__file__).parents[1]


def python(code: str, **kwargs: object) -> subprocess.Popen[str]:
    """A fresh Python that can import the toy runs."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def train(store: Path, text: Path, kill_at: int | None) -> tuple[int, str]:
    """Train the tiny model in a fresh process that kills itself, for real, after step ``kill_at``."""
    process = python(f"""
        import os, signal
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from toy_runs import tiny_lm
        from orchard.runs import Store
        from orchard.train.checkpoint import KeepCheckpoints
        saved = KeepCheckpoints.on_train_batch_end
        def save_then_die(self, trainer, *args):
            saved(self, trainer, *args)
            if trainer.global_step == {kill_at}:
                os.kill(os.getpid(), signal.SIGKILL)
        KeepCheckpoints.on_train_batch_end = save_then_die
        Store({str(store)!r}).compute(tiny_lm(Path({str(text)!r})), device="cpu")
    """)
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


@pytest.mark.parametrize("kills", [[4], [13], [30], [6, 20, 21]])
def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, kills: list[int]) -> None:
    """Before the first checkpoint, between two, on one that is due for validation, and three times in a row."""
    text = corpus(tmp_path)
    cfg = tiny_lm(text)
    whole = Store(tmp_path / "whole").compute(cfg, device="cpu")
    broken = Store(tmp_path / "broken")
    for step in kills:
        code, errors = train(broken.path, text, step)
        assert code == -signal.SIGKILL, errors
        assert broken.get(cfg) is None
    code, errors = train(broken.path, text, None)
    assert code == 0, errors
    done = broken.get(cfg)
    assert done is not None
    assert done.provenance["attempts"] == len(kills) + 1
    if kills[-1] >= cfg.checkpoint_every:
        assert "goes on from step" in (done.folder / "log.txt").read_text()
    for name in ("model.safetensors", "eval.safetensors", "result.json", "metrics.jsonl"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def truncate(folder: Path) -> None:
    path = folder / "value.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def flip(folder: Path) -> None:
    path = folder / "value.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, lambda f: (f / "result.json").unlink(), lambda f: (f / "status.json").write_text("{"),
     lambda f: (f / "status.json").write_text("[]"),
     lambda f: (f / "result.json").write_text('{\n "square": 48\n}\n')],
    ids=["truncated", "bit", "missing", "status", "status-list", "same-size"],
)  # fmt: skip
def test_a_damaged_folder_is_reported_and_redone_never_read(tmp_path: Path, damage: object) -> None:
    store = Store(tmp_path / "store")
    cfg = Square.Config(number=7, log=str(tmp_path / "log"))
    done = store.compute(cfg)
    damage(done.folder)  # type: ignore[operator]
    assert len(store.verify()) == 1
    assert store.get(cfg) is None
    assert "damaged and set aside" in store.warnings[0]
    assert store.compute(cfg).result == {"square": 49}
    assert (tmp_path / "log").read_text() == "7\n7\n"
    assert len(list((store.path / ".damaged").iterdir())) == 1
    assert store.verify() == []


def waiting_run(store: Path, pipe: Path, log: Path) -> str:
    """A program that computes one run, which blocks on ``pipe`` while it holds the lock."""
    return f"""
        from toy_runs import Square
        from orchard.runs import Store
        cfg = Square.Config(number=9, log={str(log)!r}, wait={str(pipe)!r})
        print(Store({str(store)!r}).compute(cfg).result["square"], flush=True)
    """


def test_two_processes_that_want_one_run_compute_it_once(tmp_path: Path) -> None:
    pipe, log = tmp_path / "pipe", tmp_path / "log"
    os.mkfifo(pipe)
    code = waiting_run(tmp_path / "store", pipe, log)
    first = python(code)
    with open(pipe, "w"):  # returns when the first process computes, holding the lock
        second = python(code)
        assert second.stdout is not None
        assert "being computed by another process" in second.stdout.readline()
    assert first.communicate(timeout=120)[0].strip() == "81"
    assert second.communicate(timeout=120)[0].strip() == "81"
    assert log.read_text() == "9\n"


def test_a_waiting_process_takes_over_when_the_other_is_killed(tmp_path: Path) -> None:
    pipe, log = tmp_path / "pipe", tmp_path / "log"
    os.mkfifo(pipe)
    code = waiting_run(tmp_path / "store", pipe, log)
    first = python(code)
    with open(pipe, "w"):
        second = python(code)
        assert second.stdout is not None
        second.stdout.readline()
        first.kill()
        first.wait()
    with open(pipe, "w"):  # now the second computes
        pass
    assert second.communicate(timeout=120)[0].strip() == "81"
    assert log.read_text() == "9\n9\n"


@pytest.mark.parametrize("tensors", [False, True], ids=["file", "safetensors"])
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on_later(tmp_path: Path, tensors: bool) -> None:
    code = f"""
        import resource
        from toy_runs import Square
        from orchard.runs import RunError, Store
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
        try:
            Store({str(tmp_path / "store")!r}).compute(Square.Config(number=3, megabytes=1, tensors={tensors}))
        except RunError as error:
            print(error)
    """
    out, errors = python(code).communicate(timeout=120)
    assert "no space for run" in out, errors
    assert "free some space" in out
    store = Store(tmp_path / "store")
    assert store.ls() == []
    assert store.compute(Square.Config(number=3, megabytes=1, tensors=tensors)).result == {"square": 9}
    assert store.verify() == []


def test_changed_code_is_not_served_from_the_store(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    source = """
from orchard.config import REQUIRED
from orchard.runs import Run
FACTOR = 2  # a comment
class Times(Run):
    class Config(Run.Config):
        number: int = REQUIRED
    def compute(self, work):
        return {"value": FACTOR * self.cfg.number}
"""
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from mine import Times
        from orchard.runs import Store
        store = Store({str(tmp_path / "store")!r})
        print(store.compute(Times.Config(number=5)).result["value"], len(store.ls()))
    """
    seen = []
    for text in (source, source.replace("a comment", "another comment"), source.replace("FACTOR = 2", "FACTOR = 3")):
        module.write_text(text)
        out, errors = python(code).communicate(timeout=120)
        assert not errors, errors
        seen.append(out.split())
    assert seen == [["10", "1"], ["10", "1"], ["15", "2"]]


def test_changed_data_is_not_served_from_the_store(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    store = Store(tmp_path / "store")
    cfg = tiny_lm(text, steps=2)
    first = store.compute(cfg)
    text.write_text(text.read_text() + "\n\nOne more paragraph, which changes the corpus for good.")
    assert store.get(cfg) is None
    assert store.compute(cfg).id != first.id
