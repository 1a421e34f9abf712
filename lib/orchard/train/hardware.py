"""Hardware rules: one table that says, for each kind of device, how training runs on it.

The key of a machine is ``{device}-{name}``; the first rule that matches the whole key applies. Every run prints and records
what was chosen. Nothing here is part of a run's identity: it says how a run is computed, not what.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from orchard.errors import BadInput
from orchard.runs.device import resolve_device
from orchard.runs.run import THREADS

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Rule:
    """What to do on devices whose key matches ``pattern``."""

    pattern: str
    precision: Precision
    compile: bool
    fused_optimizer: bool


RULES = (
    Rule(
        r"cuda-.*(H100|H200|H800|B200|B300|A100|A800|L4|L40S?|RTX [45]0[5-9]0|RTX [2-6]\d00 Ada|RTX PRO|A10G?|A40|A6000).*",
        "bf16-mixed",
        True,
        True,
    ),
    Rule(r"cuda-.*", "16-mixed", False, True),
    Rule(r"mps-.*", "32-true", False, False),
    Rule(r"cpu-.*", "32-true", True, True),
)


@dataclass(frozen=True)
class Compiling:
    """What compiling a training costs and saves on a kind of device: it is compiled where it saves more.

    An eager step takes what its FLOPs take at ``flops`` per second, and not less than ``shortest``.
    """

    seconds: float
    saves: float  # share of the eager step
    shortest: float  # seconds
    flops: float  # per second


# On a GPU estimates, nothing was measured yet: launching the thousand kernels of eight layers takes 10 ms, the rest runs at a quarter
# of the peak (here of an unknown GPU), compiling takes a minute and saves 0.4 (nanoGPT reports 250 ms to 135 ms for GPT-2). On a CPU
# measured with one thread of an EPYC, 4 layers of dim 64, batches of 16 x 128: a step of 60 ms takes 48, a process needs 7 s for a
# graph that another has compiled and 30 s for a new one, of which a study has as many as arms.
COMPILING = {"cuda": Compiling(60.0, 0.4, 0.01, 25e12), "cpu": Compiling(15.0, 0.2, 0.01, 40e9)}
EAGER_MFU = 0.25

# orchard.nn chooses by device and shape: see `attention` there for the rule and what it rests on.
ATTENTION = {"cuda": "auto (sdpa; compiled flex for windows and packed documents)"}
ATTENTION_ELSEWHERE = "auto (sdpa; banded where the window is short)"

# Dense bf16 peak in FLOP/s, from the makers' data sheets (without sparsity). First match wins.
BF16_PEAKS = (
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"H100|H200|H800", 989e12),
    (r"B200", 2250e12),
    (r"A100|A800", 312e12),
    (r"L40S", 362e12),
    (r"L4\b", 121e12),
    (r"A10G?\b", 125e12),
    (r"RTX 4090", 165e12),
    (r"RTX 3090", 71e12),
)


@dataclass(frozen=True)
class Hardware:
    """The choices for this machine."""

    device: str
    name: str
    precision: Precision
    compile: bool
    fused_optimizer: bool
    threads: int
    peak_flops: float | None

    @property
    def attention(self) -> str:
        """How attention is computed here, in words."""
        return ATTENTION.get(self.device, ATTENTION_ELSEWHERE)

    def compiles(self, steps: int, flops: float) -> bool:
        """Whether compiling a training of so many ``steps``, of ``flops`` each, saves more than it costs."""
        if not self.compile:
            return False
        rule = COMPILING[self.device]
        step = max(rule.shortest, flops / (EAGER_MFU * self.peak_flops if self.peak_flops else rule.flops))
        return rule.saves * step * steps > rule.seconds

    def __str__(self) -> str:
        peak = f"{self.peak_flops / 1e12:.0f} TFLOP/s bf16 peak" if self.peak_flops else "peak unknown, no MFU"
        return (
            f"device {self.device} ({self.name}), precision {self.precision}, attention {self.attention}, "
            f"compile {'where it pays' if self.compile else 'off'}, "
            f"{self.threads} CPU thread{'s' * (self.threads != 1)}, {peak}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the provenance of a run."""
        return {"device": self.device, "name": self.name, "precision": self.precision, "attention": self.attention,
                "compile": self.compile, "threads": self.threads, "torch": torch.__version__}  # fmt: skip


def choose(device: str = "auto", precision: Precision | Literal["auto"] = "auto") -> Hardware:
    """Apply the rules to this machine.

    Args:
        precision: of a training; "auto" is what the rules say.

    Raises:
        BadInput: ``device`` is unknown or not here, or has no such precision.
    """
    device = resolve_device(device)
    if precision == "16-mixed" and device != "cuda":
        raise BadInput(
            f"precision is {precision!r} on the device {device}: only CUDA has it; choose bf16-mixed or 32-true"
        )
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu_name() if device == "cpu" else "Apple GPU"
    rule = next(rule for rule in RULES if re.fullmatch(rule.pattern, f"{device}-{name}"))
    if precision == "auto":
        precision = rule.precision
        if precision == "16-mixed" and torch.cuda.is_bf16_supported(including_emulation=False):
            precision = "bf16-mixed"
    return Hardware(
        device=device,
        name=name,
        precision=precision,
        compile=rule.compile and not os.environ.get("ORCHARD_NO_COMPILE") and (device != "cpu" or _has_compiler()),
        fused_optimizer=rule.fused_optimizer,
        threads=torch.get_num_threads(),
        peak_flops=bf16_peak(name) if device == "cuda" else None,
    )


def bf16_peak(name: str) -> float | None:
    """Dense bf16 peak of a GPU in FLOP/s, or None if its name is not in the table."""
    return next((peak for pattern, peak in BF16_PEAKS if re.search(pattern, name)), None)


def describe(device: str = "auto", precision: Precision | Literal["auto"] = "auto") -> str:
    """One line for people: how runs will be computed, each with ``THREADS`` CPU threads."""
    return str(replace(choose(device, precision), threads=THREADS))


def _has_compiler() -> bool:
    """Whether there is a C++ compiler, which PyTorch's own needs on a CPU."""
    return sys.platform == "linux" and shutil.which(os.environ.get("CXX", "g++")) is not None


def _cpu_name() -> str:
    from orchard.runs.provenance import environment

    return str(environment()["cpu"])
