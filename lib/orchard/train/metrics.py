"""What a training run logs: JSON lines, and the throughput meter. The mirror on Weights & Biases is in ``mirror.py``.

Rows are written by :class:`Monitor` and not by Lightning's ``self.log``, which writes them after the callbacks of a step: a
checkpoint would then be older than the rows it belongs to, and a killed run would lose one.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from orchard.train.hardware import Hardware


class JsonLinesLogger(Logger):
    """Appends one JSON object per logged step to ``metrics.jsonl``.

    Args:
        folder: where the file lies.
        resume_step: rows after this step are dropped first, because training goes on from there and will log them again.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.jsonl"
        kept = []
        if self.path.exists():
            for line in self.path.read_text("utf-8").splitlines(keepends=True):
                try:
                    row = json.loads(line)
                except ValueError:  # the last line of a killed process
                    break
                if row["step"] <= resume_step:
                    kept.append(line)
        self.path.write_text("".join(kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # closed in finalize()

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return "0"

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run's ``config.json`` holds them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write one row; ``step`` counts finished optimizer steps. JSON has no NaN and no infinity: they become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def finalize(self, status: str) -> None:
        """Close the file."""
        self._file.close()


class Monitor(pl.Callback):
    """Logs the loss every ``log_every`` steps and what ``validate`` measures every ``validate_every`` steps, to every logger.

    Must stand before the callback that saves checkpoints.
    """

    def __init__(
        self, log_every: int, validate_every: int, validate: Callable[[], dict[str, float]], meter: ThroughputMeter
    ) -> None:
        self.log_every, self.validate_every, self.validate, self.meter = log_every, validate_every, validate, meter
        self.last: tuple[int, dict[str, float]] | None = None  # step and what was measured there
        self._step: int = 0
        self._loss: Any = 0.0  # of the step so far

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self._loss = self._loss + outputs["loss"]  # Lightning divides that of a batch by the batches of a step
        step, row = trainer.global_step, dict[str, float]()
        if step == self._step:  # gradients are being accumulated
            return
        self._step, loss, self._loss = step, self._loss, 0.0
        if step % self.log_every == 0 or step == 1:
            row["loss"] = float(loss)
        if step % self.validate_every == 0:
            with self.meter.paused():
                measured = self.validate()
            row |= measured
            self.last = step, measured
        if row:
            for logger in trainer.loggers:
                logger.log_metrics(row, step)


class ThroughputMeter(pl.Callback):
    """Tokens per second, FLOP/s and, where the device's peak is known, model FLOPs utilisation (MFU).

    MFU = 3 * forward FLOPs per token * tokens per second / dense bf16 peak. The backward pass counts as two forward passes;
    causal masking is taken into account (only visible keys count), recomputation is not. The first steps are left out: they
    compile and warm up.
    """

    def __init__(
        self, tokens_per_batch: int | float, forward_flops_per_token: float, hardware: Hardware, warmup: int = 5
    ) -> None:
        self.tokens_per_batch, self.hardware, self.warmup = tokens_per_batch, hardware, warmup
        self.flops_per_token = 3 * forward_flops_per_token
        self._seen = self._steps = 0
        self._start: float | None = None
        self._seconds = 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        self._seen += 1
        if self._seen == self.warmup:
            self._start = self._now()
        elif self._start is not None:
            self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens here is not training: as if the clock stood still."""
        start = self._now()
        yield
        if self._start is not None:
            self._start += self._now() - start

    def on_train_end(self, *_: Any) -> None:
        self._seconds = self._now() - self._start if self._start is not None else 0.0

    def read(self) -> dict[str, float]:
        """``tokens_per_s``, ``flops`` (per second) and ``mfu`` of a finished training; empty if it was too short."""
        if not self._steps or not self._seconds:
            return {}
        tokens = self._steps * self.tokens_per_batch / self._seconds
        rates = {"tokens_per_s": tokens, "flops": tokens * self.flops_per_token}
        if self.hardware.peak_flops:
            rates["mfu"] = rates["flops"] / self.hardware.peak_flops
        return rates

    def __str__(self) -> str:
        rates = self.read()
        if not rates:
            return "too few steps to measure throughput"
        mfu = f", MFU {rates['mfu']:.1%}" if "mfu" in rates else " (peak of this device unknown: no MFU)"
        return f"{rates['tokens_per_s']:,.0f} tokens/s, {rates['flops'] / 1e9:,.1f} GFLOP/s{mfu}"

    def _now(self) -> float:
        if self.hardware.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()
