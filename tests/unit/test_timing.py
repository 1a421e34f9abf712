"""Time and memory beside peers: turns, repeats, and exact peaks."""

from __future__ import annotations

import pytest
import torch

from orchard import timing
from orchard.timing import interleaved, peak_bytes


def test_peers_take_turns_and_nobody_always_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(timing, "SHORTEST", 0.0)  # one call per round
    peers = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = interleaved(peers, rounds=3, device="cpu", warmup=1)
    assert calls == [*"abc", *"abc", *"bca", *"cab"]
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(timing, "seconds", lambda step, repeats, device: calls.append(repeats) or 1e-3 * repeats)
    times = interleaved({"a": list}, rounds=2, device="cpu")
    assert calls == [1, 10, 10]  # the warm-up says 1 ms, SHORTEST is 10
    assert times == {"a": [1e-3, 1e-3]}


def test_peak_memory_is_exact() -> None:
    def work() -> torch.Tensor:
        first = torch.zeros(1000)
        second = torch.zeros(2000) + first.sum()  # 2000 for the zeros, 2000 for the sum
        del first
        return second[:1]

    scalar = 4
    assert peak_bytes(work) == 4 * (1000 + 2000 + 2000) + scalar
    assert peak_bytes(lambda: None) == 0
