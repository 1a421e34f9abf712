"""Time and memory of operations beside their peers, as every benchmark here measures them.

Peers take turns, round by round, so that a slow moment of the machine hits all of them; a ratio is the median over rounds of the
ratio within a round. On a CPU time is processor time of the process, which other processes on the machine do not change.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

Step = Callable[[], object]  # one call of what is measured
Rounds = dict[str, list[float]]  # name -> seconds per call in every round
SHORTEST = 1e-2  # seconds a measurement lasts at least; shorter calls are repeated within a round


def interleaved(peers: Mapping[str, Step], rounds: int, device: str, warmup: int = 1) -> Rounds:
    """Seconds per call of every peer in every round, in turn, after `warmup` calls of each.

    The first peer of a round moves on by one from round to round: nobody always follows the same neighbour.
    """
    repeats = {}
    for name, step in peers.items():
        for _ in range(warmup):
            taken = seconds(step, 1, device)
        repeats[name] = max(1, math.ceil(SHORTEST / max(taken, 1e-6)))
    found: Rounds = {name: [] for name in peers}
    names = list(peers)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(seconds(peers[name], repeats[name], device) / repeats[name])
    return found


def seconds(step: Step, repeats: int, device: str) -> float:
    """Seconds that `repeats` calls take: of the clock on a GPU, whose work is waited for, else of the processor."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    _wait(device)
    start = clock()
    for _ in range(repeats):
        step()
    _wait(device)
    return clock() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(function: Step, device: str = "cpu") -> int:
    """Highest sum of live bytes that PyTorch's allocator handed out during a call, over what was live before it.

    On a CPU the allocator reports every allocation and release, temporaries inside an operation included, so the number repeats to
    the byte. The resident size of a process says the same less well: it holds what the allocator keeps for later, moves in pages,
    and its peak may lie in an import.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return int(torch.cuda.max_memory_allocated() - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at the first profile: without it, lines on standard error
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = function()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    del kept
    return int(max(np.cumsum([size for _, size in events]), default=0))
