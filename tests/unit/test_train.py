"""Training: schedule, checkpoints, meter, hardware rules, logs, and what a run of the language model gives."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchard.runs import Store
from orchard.runs.engine import execute
from orchard.train import AdamW, choose, fit, load_model
from orchard.train.checkpoint import DamagedCheckpoint, SafetensorsIO, latest
from orchard.train.hardware import RULES, bf16_peak
from orchard.train.lm import token_losses
from orchard.train.metrics import JsonLinesLogger, ThroughputMeter
from orchard.train.seeding import seed_everything
from toy_runs import corpus, tiny_lm


def test_schedule_warms_up_and_decays_to_a_tenth() -> None:
    optim = AdamW.Config(warmup_fraction=0.1).build()
    scales = [optim.scale(step, 100) for step in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9] == 1.0
    assert scales[10:] == sorted(scales[10:], reverse=True)
    assert scales[100] == pytest.approx(0.1)


def test_checkpoint_round_trip_and_damage(tmp_path: Path) -> None:
    content = {
        "a": torch.arange(5),
        3: [1, 2.5, None, ("x", True)],
        "b": {"c": torch.zeros(0), "d": {}},
        "e": torch.tensor(2.0),
    }
    file = tmp_path / "step_000000001.safetensors"
    SafetensorsIO().save_checkpoint(content, file)
    back = SafetensorsIO().load_checkpoint(file)
    assert torch.equal(back["a"], content["a"])
    assert back[3] == [1, 2.5, None, ("x", True)]
    assert back["b"]["d"] == {}
    assert load_file(file)  # anybody can open it
    (plain := tmp_path / "plain").touch()
    assert file.stat().st_mode == plain.stat().st_mode
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedCheckpoint, match="SHA-256"):
        SafetensorsIO().load_checkpoint(file)
    file.write_bytes(whole[:-3])
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        SafetensorsIO().load_checkpoint(file)
    with pytest.raises(TypeError, match="cannot hold"):
        SafetensorsIO().save_checkpoint({"x": object()}, tmp_path / "no.safetensors")


def test_latest_skips_damaged_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2):
        SafetensorsIO().save_checkpoint({"step": step}, tmp_path / f"step_{step:09d}.safetensors")
    newest = tmp_path / "step_000000002.safetensors"
    assert latest(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-2])
    assert latest(tmp_path) == tmp_path / "step_000000001.safetensors"
    assert latest(tmp_path / "nothing") is None


def test_counter_randomness_depends_on_counters_alone() -> None:
    seed_everything(1, 2, 3)
    first = torch.rand(3)
    torch.rand(5)
    seed_everything(1, 2, 3)
    assert torch.equal(torch.rand(3), first)
    seed_everything(1, 2, 4)
    assert not torch.equal(torch.rand(3), first)


def test_hardware_rules_on_the_cpu_print_what_was_chosen() -> None:
    hardware = choose("cpu")
    assert hardware.precision == "32-true"
    assert hardware.compile == (sys.platform == "linux" and shutil.which("g++") is not None)
    assert hardware.peak_flops is None
    text = str(hardware)
    assert all(word in text for word in ("cpu", "32-true", "attention auto", "thread", "no MFU"))


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
     ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("Some new thing", None)],
)  # fmt: skip
def test_bf16_peaks(name: str, peak: float | None) -> None:
    assert bf16_peak(name) == peak


def test_meter_reports_flops_and_mfu_only_for_a_known_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    clock = iter(range(100))
    hardware = choose("cpu")
    for peak in (None, 6000.0):
        meter = ThroughputMeter(100, 10.0, dataclasses.replace(hardware, peak_flops=peak), warmup=2)
        monkeypatch.setattr(meter, "_now", lambda: float(next(clock)))
        for _ in range(2):
            meter.on_train_batch_end()
        with meter.paused():  # a tick of the clock that must not count
            pass
        meter.on_train_batch_end()
        meter.on_train_end()
        rates = meter.read()
        assert rates["tokens_per_s"] == pytest.approx(50.0)  # one step of 100 tokens in 2 ticks
        assert rates["flops"] == pytest.approx(50 * 30)
        assert ("mfu" in rates) == (peak is not None)
        assert ("no MFU" in str(meter)) == (peak is None)
        if peak:
            assert rates["mfu"] == pytest.approx(0.25)


def test_jsonl_drops_rows_after_the_step_it_resumes_from(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path)
    for step in (1, 2, 3):
        logger.log_metrics({"loss": 1.0 / step}, step)
    logger.finalize("killed")
    with open(logger.path, "a") as file:
        file.write('{"step": 4, "lo')  # cut off by a kill
    again = JsonLinesLogger(tmp_path, resume_step=2)
    again.finalize("done")
    assert [line.split(",")[0] for line in logger.path.read_text().splitlines()] == ['{"step": 1', '{"step": 2']


def test_rows_are_strict_json(tmp_path: Path) -> None:
    logger = JsonLinesLogger(tmp_path)
    logger.log_metrics({"loss": math.nan, "validation_loss": math.inf, "accuracy": 0.5}, 3)
    logger.finalize("done")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in logger.path.read_text().splitlines()]
    assert rows == [{"step": 3, "loss": None, "validation_loss": None, "accuracy": 0.5}]


@pytest.mark.parametrize(
    ("name", "precision"),
    [("NVIDIA H100 80GB HBM3", "bf16-mixed"), ("NVIDIA H200", "bf16-mixed"), ("NVIDIA A100-SXM4-80GB", "bf16-mixed"),
     ("NVIDIA L4", "bf16-mixed"), ("NVIDIA L40S", "bf16-mixed"), ("NVIDIA GeForce RTX 4090", "bf16-mixed"),
     ("NVIDIA GeForce RTX 4060 Ti", "bf16-mixed"), ("NVIDIA GeForce RTX 5080", "bf16-mixed"), ("NVIDIA RTX A6000", "bf16-mixed"),
     ("NVIDIA RTX 6000 Ada Generation", "bf16-mixed"), ("NVIDIA RTX PRO 6000 Blackwell", "bf16-mixed"),
     ("Quadro RTX 6000", "16-mixed"), ("Quadro RTX 5000", "16-mixed"), ("Quadro RTX 4000", "16-mixed"), ("Tesla T4", "16-mixed"),
     ("NVIDIA GeForce RTX 2080 Ti", "16-mixed"), ("Tesla V100-SXM2-16GB", "16-mixed"), ("TITAN RTX", "16-mixed")],
)  # fmt: skip
def test_bf16_is_for_gpus_that_have_it(name: str, precision: str) -> None:
    rule = next(rule for rule in RULES if re.fullmatch(rule.pattern, f"cuda-{name}"))
    assert rule.precision == precision
    assert rule.compile == (precision == "bf16-mixed")


def test_a_trained_model_learns_scores_truthfully_and_loads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = tiny_lm(corpus(tmp_path))
    done = fit(cfg, Store(tmp_path / "store"), device="cpu")
    out, err = capfd.readouterr()
    assert "device cpu" in out
    assert err == ""
    assert len(out.splitlines()) == 2  # the hardware rules and the finished run: quiet without a terminal
    rows = done.metrics()
    losses = rows["loss"].dropna()
    assert losses.iloc[-5:].mean() < losses.iloc[:5].mean() - 0.5
    assert rows["validation_loss"].notna().sum() == 2
    assert done.result["tokens"] == 40 * 32 * 64
    model = load_model(done, cfg)
    scores = done.tensors("eval")
    with torch.no_grad():
        nll = token_losses(model, scores["tokens"].long())
    assert torch.allclose(nll, scores["nll"], atol=1e-5)
    size = (scores["tokens"][:, 1:] < 256).sum().item()
    assert done.result["bits_per_byte"] == pytest.approx(nll.double().sum().item() / math.log(2) / size, rel=1e-5)
    assert done.provenance["throughput"]["tokens_per_s"] > 0
    assert "mfu" not in done.provenance["throughput"]
    assert not list(done.folder.glob("*.ckpt"))
    assert "checkpoints" not in {p.name for p in done.folder.iterdir()}
    assert done.provenance["hardware"]["torch"] == torch.__version__
    assert (
        len({path.stat().st_mode & 0o777 for path in done.folder.iterdir()}) == 1
    )  # weights are no more private than text


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    files = []
    for store, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = execute([tiny_lm(path, steps=5, seed=seed)], Store(tmp_path / store), jobs=1, report=lambda line: None)[
            0
        ]
        files.append((done.folder / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
