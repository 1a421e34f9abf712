"""How fast one core of this machine is beside the reference machine, in a few seconds.

Budgets of profiles are stated for the reference machine, whose speed is 1. Two kinds of work stand for what runs do: products of
matrices, which are bound by arithmetic, and steps of a small transformer, which are bound by the number of operations. Both use
nothing of this library, so that a change here changes no speed.

To set the reference anew: on the reference machine, idle, ``python -m orchard.speed`` prints ``REFERENCE``.
"""

from __future__ import annotations

import math
import statistics

import torch

from orchard.timing import interleaved

# Seconds of each kind of work on one core of the reference machine, idle. Measured 2026-11-30.
REFERENCE = {"products": 0.0190, "steps": 0.0111}
ROUNDS = 31


def products() -> None:
    """Eight products of 512 x 512 matrices in single precision."""
    matrix = torch.ones(512, 512)
    for _ in range(8):
        torch.mm(matrix, matrix)


class Steps:
    """Optimizer steps of a transformer of two layers, dim 64, on 8 sequences of 128 numbers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(8, 128, 64)

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()


def measured() -> dict[str, float]:
    """Seconds of each kind of work here: medians of processor time on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            rounds = interleaved({"products": products, "steps": Steps()}, ROUNDS, "cpu")
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(seconds) for name, seconds in rounds.items()}


def factor() -> float:
    """The speed of one core here: 1 on the reference machine, 0.5 where everything takes twice as long."""
    here = measured()
    return math.prod(REFERENCE[name] / here[name] for name in REFERENCE) ** (1 / len(REFERENCE))


if __name__ == "__main__":
    print({name: float(f"{seconds:.4g}") for name, seconds in measured().items()})
