"""Where a result came from: code version, package versions, hardware, seeds, time and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from orchard.runs.device import cpu_name

PACKAGES = ("orchard", "torch", "lightning", "numpy", "tokenizers", "safetensors", "datasets", "transformers", "triton")


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Facts about the code and the machine that do not change while this process runs."""
    return {
        "git": git(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


class Stopwatch:
    """Wall and CPU seconds of this process since the stopwatch was made, its peak memory, and that of the device."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.started = time.time()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this context no second counts: another run is computed, which has a stopwatch of its own."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wall += time.perf_counter() - wall
            self._cpu += time.process_time() - cpu

    def read(self) -> dict[str, Any]:
        """Seconds and mebibytes so far. Peak memory is that of the process, which may have served other runs before; on a GPU
        ``peak_device_memory_mib`` is what PyTorch handed out at most since the stopwatch was made."""
        found = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_s": round(time.perf_counter() - self._wall, 3),
            "cpu_s": round(time.process_time() - self._cpu, 3),
            "peak_memory_mib": round(peak_memory() / 2**20, 1),
        }
        if self.device == "cuda":
            import torch

            found["peak_device_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return found


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git(folder: Path) -> dict[str, Any]:
    """``sha`` and ``dirty`` of the checkout that a folder lies in; where git reads none, ``sha`` is None and ``why`` says why."""
    try:
        sha, status = (
            subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"sha": None, "why": f"git cannot be run: {error}"}
    if sha.returncode != 0:
        said = sha.stderr.strip().splitlines()
        return {
            "sha": None,
            "why": said[0].removeprefix("fatal: ") if said else f"git ended with status {sha.returncode}",
        }
    return {"sha": sha.stdout.strip(), "dirty": bool(status.stdout.strip())}
