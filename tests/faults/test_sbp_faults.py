"""Bootstrapping on real machines: kills in the middle of synthesis and of tuning, damaged batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from orchard.papers.sbp.method.rules import Rules
from orchard.papers.sbp.runs.filter import Filter, provenance_table
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.runs import Finished, Store
from toy_sbp import Ragged, sampled, tuned

TESTS = Path(__file__).parents[1]
RULES = Rules.Config(copy=1.0, percentile=100.0)  # the toy's short documents resemble each other


def killed(code: str) -> None:
    """Run a program that ends by killing itself, for real."""
    path = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": path}, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def synthesis_killed_at(store: Path, batch: int, before_rename: bool) -> None:
    """Kill synthesis after it has written a batch, or when all of it is written and it has no name yet."""
    killed(f"""
        import os, signal
        import torch
        torch.set_num_threads(1)
        from pathlib import Path
        from orchard.runs import Store
        from toy_sbp import sampled
        from orchard.papers.sbp.method.rules import Rules
        cfg = sampled(rules=Rules.Config(copy=1.0, percentile=100.0))
        rename = Path.rename
        def rename_and_die(self, target):
            last = Path(target).name == "batch_{batch:06d}.safetensors"
            if last and {before_rename}:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(self, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = rename_and_die
        Store({str(store)!r}).compute(cfg, device="cpu")
    """)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("faults"))


def config() -> Synthesise.Config:
    return sampled(rules=RULES)


def table(store: Store, done: Finished) -> pd.DataFrame:
    cfg = Filter.Config(corpus=Ragged.Config(), sampled=config(), rules=RULES)
    return provenance_table(Ragged.Config().build(), done, store.compute(cfg, "cpu"))


def test_a_killed_synthesis_makes_the_same_corpus_with_the_same_provenance(store: Store, tmp_path: Path) -> None:
    """After the first batch, before the third has its name, and with the second damaged before it goes on."""
    whole = store.compute(config(), "cpu")
    assert whole.result["batches"] > 3
    expected = table(store, whole)
    broken = Store(tmp_path / "broken")
    broken.import_(store.export(store.ls(), tmp_path / "runs.tar"))
    broken.remove([whole.id, *(run.id for run in broken.ls() if "rejections" in run.result)])
    synthesis_killed_at(broken.path, 0, before_rename=False)
    synthesis_killed_at(broken.path, 2, before_rename=True)
    batches = next((broken.path / ".work").glob("*/checkpoints"))
    assert sorted(path.name for path in batches.glob("*.safetensors")) == [
        "batch_000000.safetensors", "batch_000001.safetensors",
    ]  # fmt: skip
    truncated = batches / "batch_000001.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-9])
    done = broken.compute(config(), "cpu")
    assert done.provenance["attempts"] == 3
    for name in ("synthetic.safetensors", "result.json", "config.json"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    pd.testing.assert_frame_equal(table(broken, done), expected)


def test_a_killed_tuning_keeps_the_weights_that_an_unbroken_one_keeps(store: Store, tmp_path: Path) -> None:
    """Killed between a validation and its checkpoint, and again later; the best weights lie before the end."""
    whole = store.compute(tuned(), "cpu")
    broken = Store(tmp_path / "broken")
    for step, what in [(4, "validated"), (9, "saved")]:
        killed(f"""
            import os, signal
            import torch
            torch.set_num_threads(1)
            from toy_sbp import tuned
            from orchard.runs import Store
            from orchard.train.checkpoint import KeepCheckpoints
            from orchard.train.metrics import Monitor
            cls = Monitor if {what!r} == "validated" else KeepCheckpoints
            ended = cls.on_train_batch_end
            def end_then_die(self, trainer, *args):
                ended(self, trainer, *args)
                if trainer.global_step == {step} and trainer.max_steps == 14:
                    os.kill(os.getpid(), signal.SIGKILL)
            cls.on_train_batch_end = end_then_die
            Store({str(broken.path)!r}).compute(tuned(), device="cpu")
        """)
    done = broken.compute(tuned(), "cpu")
    assert done.provenance["attempts"] == 3
    for name in ("model.safetensors", "result.json", "metrics.jsonl"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
