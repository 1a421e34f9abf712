"""Checkpoints without pickle, and what makes a killed training go on bit for bit.

Plain Lightning does not do this: it writes checkpoints with pickle, and it stores neither the random state nor, for a plain
``DataLoader``, the place in the data. Here

* a checkpoint is one safetensors file; the rest of Lightning's state is JSON in its header, with a SHA-256 of the tensors,
* random numbers are counter-based: at the start of each batch the generators are seeded with a function of the run's seed and
  the batch's number, so there is no random state to store (:class:`CounterRandomness`),
* the place in the data is the state of :class:`orchard.data.ResumableLoader`, which Lightning keeps with its loops.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchard.errors import OrchardError
from orchard.files import share
from orchard.train.seeding import seed_everything


class DamagedCheckpoint(OrchardError):
    """A checkpoint file is truncated or altered."""


class SafetensorsIO(CheckpointIO):
    """Writes and reads Lightning's checkpoint dictionary as one safetensors file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write the file so that it appears complete or not at all."""
        tensors: dict[str, Tensor] = {}
        tree = _pack(checkpoint, tensors)
        header = {"tree": json.dumps(tree), "sha256": _digest(tensors)}
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=header)
        share(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file and check its SHA-256.

        Raises:
            DamagedCheckpoint: it is not the file that was written.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except (SafetensorError, OSError) as error:
            raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {error}") from None
        if header.get("sha256") != _digest(tensors):
            raise DamagedCheckpoint(f"checkpoint {path} does not have its SHA-256")
        checkpoint: dict[str, Any] = _unpack(json.loads(header["tree"]), tensors)
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


class KeepCheckpoints(pl.Callback):
    """Save a checkpoint every ``every`` optimizer steps, and keep the last two.

    Two, because the last one may turn out to be damaged. :func:`latest` gives the newest that is whole.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self._last = 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step == self._last:  # gradients are being accumulated
            return
        self._last = step
        if step % self.every:
            return
        trainer.save_checkpoint(self.folder / f"step_{step:09d}.safetensors")
        for old in sorted(self.folder.glob("step_*.safetensors"))[:-2]:
            old.unlink()


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that can be read; damaged ones are deleted."""
    for path in sorted(folder.glob("step_*.safetensors"), reverse=True):
        try:
            SafetensorsIO().load_checkpoint(path)
        except DamagedCheckpoint:
            path.unlink()
        else:
            return path
    return None


class CounterRandomness(pl.Callback):
    """Seed every generator at the start of each batch with a function of (seed, batch number, rank)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        seed_everything(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by their names in ``tensors`` and say of each container what it is, so that JSON can hold it."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors):06d}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a checkpoint cannot hold {value!r} of type {type(value).__name__}; store tensors and plain values"
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    items = [_unpack(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
