"""Batches of shuffled windows, for ever, from a position that can be stored and restored.

Epoch e reads the windows in the order of a permutation from a generator seeded by (seed, e), whole steps only. So
the state is two numbers, and a run that stops after any batch goes on with the very batches it would have had.

Lightning stores ``state_dict()`` in its checkpoints and hands it back before it iterates. The state counts batches
that were handed out, whatever workers have read ahead. That equals the batches trained on because the loader has a
length: Lightning fetches ahead only from loaders that have none. For the same reason it never asks past the last batch,
so the step to the next epoch is taken when the last batch is handed out, not when the iterator ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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

    Args:
        workers: processes that make batches ahead. 0 is right for windows of tokens: a batch is one gather from a memory map.
        rank, ranks: of ``ranks`` processes that train together, this one reads the ``rank``-th part of every batch of
            ``ranks * batch_size`` windows.

    Raises:
        DataError: fewer windows than one step needs.
    """

    def __init__(
        self,
        windows: Indexed,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        *,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not (batch_size >= 1 and accumulate >= 1 and batch_size * accumulate * ranks <= len(windows)):
            factors = {"batch_size": batch_size, "accumulate": accumulate, "ranks": ranks}
            said = " and ".join(f"{name} = {n}" for name, n in factors.items() if name == "batch_size" or n != 1)
            raise DataError(
                f"{said} with {len(windows)} windows of {windows.length} tokens: no whole batch; "
                "give more text, a smaller batch or shorter windows"
            )
        self.windows, self.batch_size, self.seed, self.accumulate = windows, batch_size, seed, accumulate
        self.workers, self.rank, self.ranks = workers, rank, ranks
        self._epoch, self._position = 0, 0
        self._under_way = False  # batches of this epoch were handed out by an iterator of this process

    def __len__(self) -> int:
        return len(self.windows) // (self.batch_size * self.ranks * self.accumulate) * self.accumulate

    def order(self, epoch: int) -> Int64[np.ndarray, "windows"]:
        """The permutation of the windows in an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self._under_way:
            self._epoch, self._position, self._under_way = self._epoch + 1, 0, False
        return self._rest(self._epoch, self._position)

    def _rest(self, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
        order = self.order(epoch)
        firsts = [(place * self.ranks + self.rank) * self.batch_size for place in range(start, len(self))]
        batches = self._made([order[first : first + self.batch_size] for first in firsts])
        for position, batch in enumerate(batches, start):
            last = position + 1 == len(self)
            self._epoch, self._position = (epoch + 1, 0) if last else (epoch, position + 1)
            self._under_way = not last
            yield batch

    def _made(self, indices: list[Int64[np.ndarray, "batch"]]) -> Iterable[dict[str, Tensor]]:
        """The batches of windows with these numbers, in order."""
        if not self.workers:
            return map(self.windows.batch, indices)
        return DataLoader(
            _Batches(self.windows, indices), batch_size=None, num_workers=self.workers, collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(self.seed),  # seeds of workers are drawn from it, not from the global one
        )  # fmt: skip

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
        names = ("batch_size", "seed", "accumulate", "ranks")
        return {"windows": len(self.windows), **{name: getattr(self, name) for name in names}}


class OrderedLoader(ResumableLoader):
    """One pass after the other in the order that the sequences have."""

    def order(self, epoch: int) -> Int64[np.ndarray, "windows"]:
        return np.arange(len(self.windows))


class _Batches(Dataset[dict[str, Tensor]]):
    """Whole batches as the items of a data set, for workers."""

    def __init__(self, windows: Indexed, indices: list[Int64[np.ndarray, "batch"]]) -> None:
        self.windows, self.indices = windows, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.windows.batch(self.indices[position])


def _as_it_is(batch: Any) -> Any:
    return batch
