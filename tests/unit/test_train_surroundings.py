"""What surrounds a training: launchers of clusters, a mirror on Weights & Biases, losses that are not finite."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from orchard.errors import Diverged, OrchardError
from orchard.runs import Store, Workspace
from orchard.train import AdamW, choose, fit, mirror
from orchard.train.callbacks import LOOK_EVERY, StopWhenDiverged
from orchard.train.loop import Schedule, train_loop
from orchard.train.mirror import mirrors
from toy_runs import corpus, tiny_lm

LAUNCHERS: dict[str, dict[str, str]] = {
    "slurm": {  # `#SBATCH -n 4`, to get four cores
        "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "orchard", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NODELIST": "node[1-2]",
        "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_JOB_NUM_NODES": "2",
    },
    "torchrun": {
        "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1", "NODE_RANK": "1",
        "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "7",
    },
    "mpi": {
        "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3", "PMI_RANK": "3", "PMI_SIZE": "8",
    },
    "lsf": {
        "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "8",
        "JSM_NAMESPACE_LOCAL_RANK": "3",
    },
}  # fmt: skip
LAUNCHERS["all"] = {name: value for variables in LAUNCHERS.values() for name, value in variables.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A text, and the files of a training on it where nothing is set."""
    path = corpus(tmp_path_factory.mktemp("text"))
    return path, trained(path, tmp_path_factory.mktemp("plain"))


def trained(path: Path, store: Path) -> dict[str, bytes]:
    done = Store(store).compute(tiny_lm(path, steps=4, checkpoint_every=2), "cpu")
    return {name: (done.folder / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl", "result.json")}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_variables_of_launchers_steer_nothing(
    undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    """A job script sets them for everything in it, also for a single training in one process."""
    path, plain = undisturbed
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 3)  # as at an import with these set
    assert trained(path, tmp_path) == plain
    assert {name: os.environ.get(name) for name in LAUNCHERS[launcher]} == LAUNCHERS[launcher]


class Blows(pl.LightningModule):
    """A loss that is not finite from a step on."""

    def __init__(self, at: int, value: float = float("nan")) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.at, self.value = at, value

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.weight * (self.value if self.global_step + 1 >= self.at else 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        halve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halve, "interval": "step"}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_stops_at_the_first_loss_that_is_not_finite(tmp_path: Path, value: float) -> None:
    work = Workspace(tmp_path, tmp_path / "checkpoints")
    settings = Schedule(steps=9, seed=0, label="", checkpoint_every=2)
    data = torch.utils.data.DataLoader(torch.zeros(20), batch_size=1)
    with pytest.raises(Diverged, match=r"diverged at step 4 with learning rate 0\.0625: .* lower the learning rate"):
        train_loop(Blows(4, value), data, settings, work, choose("cpu"), [])
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_000000002.safetensors"]


def test_on_an_accelerator_losses_are_looked_at_together_and_before_a_checkpoint() -> None:
    """Losses on the meta device can be kept and not read: an early look would raise."""
    trainer: Any = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.strategy.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.25)]
    callback, module = StopWhenDiverged(checkpoint_every=1000), Blows(1)
    looks: list[int] = []
    honest = callback._look
    callback._look = lambda: looks.append(len(callback._losses)) or callback._losses.clear()  # type: ignore[method-assign]
    for _ in range(2 * LOOK_EVERY + 3):
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed += 1
        callback.on_train_batch_start(trainer, module, None, 0)
        callback.on_train_batch_end(trainer, module, {"loss": torch.zeros((), device="meta")}, None, 0)
    callback.on_train_end(trainer, module)
    assert looks == [LOOK_EVERY, LOOK_EVERY, 3]
    callback._losses = [(7, 0.25, torch.tensor(1.0)), (8, 0.125, torch.tensor(torch.nan))]
    with pytest.raises(Diverged, match=r"step 8 with learning rate 0\.125"):
        honest()


def test_a_run_that_diverges_is_never_finished(tmp_path: Path) -> None:
    cfg = tiny_lm(corpus(tmp_path), steps=30, optim=AdamW.Config(learning_rate=1e30), clip=0.0)
    store = Store(tmp_path / "store")
    with pytest.raises(Diverged, match=r"diverged at step \d+ with learning rate"):
        store.compute(cfg, "cpu")
    assert store.get(cfg) is None


class Server:
    """Stands for the module `wandb`: what is sent to it, and whether it can be reached."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.runs: list[SimpleNamespace] = []
        self.reachable, self.writes, self.breaks = True, True, False

    def Settings(self, **settings: Any) -> dict[str, Any]:  # its name there
        return settings

    def init(self, **about: Any) -> Any:
        taken = [other["id"] for other in self.begun if "id" in other and not self.reachable]
        if about.get("id") in taken:
            raise RuntimeError(f"run ID {about['id']} is in use")  # although it did not begin
        self.begun.append(about)
        if about.get("mode") != "offline" and not self.reachable:
            raise ConnectionError("deadline exceeded\nand much more")
        if not self.writes:
            raise OSError("read-only")
        run = SimpleNamespace(rows=[], ended=[])

        def log(row: dict[str, float], step: int) -> None:
            if self.breaks:
                raise RuntimeError("gone")
            run.rows.append((step, row))

        run.log, run.finish = log, lambda exit_code: run.ended.append(exit_code)
        self.runs.append(run)
        return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server)
    monkeypatch.setenv("ORCHARD_WANDB", "project")
    monkeypatch.setattr(mirror, "_offline", False)
    return server


def test_a_mirror_is_off_unless_switched_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHARD_WANDB", raising=False)
    assert mirrors("x", {}, tmp_path) == []
    monkeypatch.setenv("ORCHARD_WANDB", "project")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OrchardError, match="pip install wandb, or unset it"):
        mirrors("x", {}, tmp_path)


def test_each_training_is_a_run_of_its_own_with_its_config(tmp_path: Path, server: Server) -> None:
    path = corpus(tmp_path)
    for seed in (0, 1):
        done = fit(
            tiny_lm(path, steps=3, validate_every=3, seed=seed, label=f"seed {seed}"), Store(tmp_path / "s"), "cpu"
        )
        rows = [{k: v for k, v in row.items() if v == v} for row in done.metrics().to_dict("records")]
        assert [{"step": step, **row} for step, row in server.runs[seed].rows] == rows
        assert server.runs[seed].ended == [0]
    first, second = server.begun
    assert first["id"] != second["id"]
    assert (first["project"], first["name"], second["name"]) == ("project", "seed 0", "seed 1")
    assert (first["config"]["seed"], second["config"]["seed"]) == (0, 1)
    assert first["config"]["model"]["dim"] == 16
    assert first["reinit"] == "create_new"


def test_an_attempt_that_goes_on_continues_its_run(tmp_path: Path, server: Server) -> None:
    cfg = tiny_lm(corpus(tmp_path), steps=6, checkpoint_every=2)

    class Dies(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                raise KeyError("killed")

    with pytest.raises(KeyError):
        fit(cfg, Store(tmp_path / "s"), "cpu", callbacks=[Dies()])
    assert server.runs[0].ended == [1]
    fit(cfg, Store(tmp_path / "s"), "cpu")
    assert server.begun[0]["id"] == server.begun[1]["id"]
    assert server.begun[1]["resume"] == "allow"
    assert [step for step, _ in server.runs[1].rows] == [5, 6]


def test_without_a_server_the_process_writes_offline_and_says_so_once(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path, server.reachable = corpus(tmp_path), False
    for seed in (0, 1):
        done = fit(tiny_lm(path, steps=2, seed=seed), Store(tmp_path / "s"), "cpu")
        assert len(done.metrics()) == 2
    modes = [about.get("mode") for about in server.begun]
    assert modes == [None, "offline", "offline"]  # the server is asked once
    assert [len(run.rows) for run in server.runs] == [2, 2]
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "Weights & Biases cannot be reached (deadline exceeded)" in said


@pytest.mark.parametrize("what", ["writes", "breaks"])
def test_a_broken_mirror_ends_no_training(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    setattr(server, what, what == "breaks")
    done = fit(tiny_lm(corpus(tmp_path), steps=3), Store(tmp_path / "s"), "cpu")
    assert len(done.metrics()) == 3
    assert "Weights & Biases does not get run" in capsys.readouterr().err
