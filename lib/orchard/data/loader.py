"""Batches of shuffled windows, for ever, from a position that can be stored and restored.

Epoch e reads the windows in the order of a permutation from a generator seeded by (seed, e), whole batches only. So
the state is two numbers, and a run that stops after any batch goes on with the very batches it would have had.

Lightning stores ``state_dict()`` in its checkpoints and hands it back before it iterates. The state counts batches
that were handed out. That equals the batches trained on because the loader has a length: Lightning fetches ahead only
from loaders that have none. For the same reason it never asks past the last batch, so the step to the next
epoch is taken when the last batch is handed out, not when the iterator ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from orchard.data.cache import DataError


@runtime_checkable
class Indexed(Protocol):
    """What the loader reads: numbered sequences of ``length`` tokens, such as ``orchard.data.Windows``."""

    length: int

    def __len__(self) -> int: ...

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """The sequences with these numbers."""
        ...


class ResumableLoader:
    """Iterating gives the rest of the current epoch, batches as ``Windows.batch`` makes them; iterating again gives the
    next epoch, also when the one before was left half-way. ``len`` is the number of batches in a whole epoch, a multiple
    of ``accumulate``, the batches of an optimizer step.

    One process, no workers: a batch is one gather from a memory map. Under several ranks every rank would read
    the same batches. DataError when there are fewer windows than one step needs.
    """

    def __init__(self, windows: Indexed, batch_size: int, seed: int, accumulate: int = 1) -> None:
        if not (batch_size >= 1 and accumulate >= 1 and batch_size * accumulate <= len(windows)):
            several = f" and accumulate = {accumulate}" if accumulate != 1 else ""
            raise DataError(
                f"batch_size = {batch_size}{several} with {len(windows)} windows of {windows.length} tokens: no whole batch; "
                "give more text, a smaller batch or shorter windows"
            )
        self.windows, self.batch_size, self.seed, self.accumulate = windows, batch_size, seed, accumulate
        self._epoch, self._position = 0, 0
        self._under_way = False  # batches of this epoch were handed out by an iterator of this process

    def __len__(self) -> int:
        return len(self.windows) // (self.batch_size * self.accumulate) * self.accumulate

    def order(self, epoch: int) -> Int64[np.ndarray, "windows"]:
        """The permutation of the windows in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self._under_way:
            self._epoch, self._position, self._under_way = self._epoch + 1, 0, False
        return self._rest(self._epoch, self._position)

    def _rest(self, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
        order = self.order(epoch)
        for position in range(start, len(self)):
            batch = self.windows.batch(order[position * self.batch_size : (position + 1) * self.batch_size])
            last = position + 1 == len(self)
            self._epoch, self._position = (epoch + 1, 0) if last else (epoch, position + 1)
            self._under_way = not last
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch is, and what the position is counted in. Plain integers."""
        return {"epoch": self._epoch, "position": self._position, **self._measure()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; the next iterator starts there. DataError if it was counted in other batches."""
        for name, value in self._measure().items():
            if state[name] != value:
                raise DataError(f"the stored loader state has {name} = {state[name]}, this loader {value}; start anew")
        self._epoch, self._position, self._under_way = state["epoch"], state["position"], False

    def _measure(self) -> dict[str, int]:
        return {"windows": len(self.windows), "batch_size": self.batch_size, "seed": self.seed, "batches": len(self)}


class OrderedLoader(ResumableLoader):
    """One pass after the other in the order that the sequences have."""

    def order(self, epoch: int) -> Int64[np.ndarray, "windows"]:
        return np.arange(len(self.windows))
