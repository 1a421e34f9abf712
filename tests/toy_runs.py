"""Small runs that the tests of the store, the engine and the faults compute, also in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.data import ByteTokenizer, LocalText
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.runs import Run, Workspace
from orchard.train import TrainLM


class Square(Run):
    """Squares a number; counts how often it was really computed."""

    class Config(Run.Config):
        number: int = REQUIRED
        log: str = ""  # a file that gets a line for every computation
        wait: str = ""  # a named pipe: reading it blocks until somebody opens and closes the other end
        fail: str = ""
        megabytes: int = 0  # size of a file to write
        tensors: bool = False  # write it through safetensors
        kill: str = ""  # a file: where it is missing it is made, and the process kills itself
        always: bool = False  # kill whether it is there or not

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        if cfg.log:
            with open(cfg.log, "a") as file:
                file.write(f"{cfg.number}\n")
        if cfg.wait:
            Path(cfg.wait).read_text()
        if cfg.kill and (cfg.always or not Path(cfg.kill).exists()):
            Path(cfg.kill).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if cfg.fail:
            raise ValueError(cfg.fail)
        save_file({"value": torch.tensor([float(cfg.number)])}, work.folder / "value.safetensors")
        if cfg.megabytes and cfg.tensors:
            save_file({"large": torch.zeros(cfg.megabytes, 2**18)}, work.folder / "large.safetensors")
        elif cfg.megabytes:
            (work.folder / "large.bin").write_bytes(os.urandom(2**20) * cfg.megabytes)
        return {"square": cfg.number**2}


class Total(Run):
    """Adds up the results of the runs it contains."""

    class Config(Run.Config):
        parts: list[Square.Config] = REQUIRED

    def compute(self, work: Workspace) -> dict[str, Any]:
        return {"total": sum(work.result_of(part).result["square"] for part in self.cfg.parts)}


def corpus(folder: Path) -> Path:
    """A small text file with many paragraphs."""
    path = folder / "text.txt"
    words = ["orchard", "apple", "pear", "window", "branch", "state", "root", "leaf"]
    paragraphs = [" ".join(words[(i * j + j) % 8] + str(i) for j in range(1, 60)) for i in range(120)]
    path.write_text("\n\n".join(paragraphs))
    return path


def tiny_lm(path: Path, **fields: Any) -> TrainLM.Config:
    """A language model that trains in a second or two; with few windows, so that several epochs go by."""
    layer = Block.Config(
        attention=Attention.Config(num_heads=2, window=8), feed_forward=FeedForward.Config(hidden_dim=32)
    )
    model = Decoder.Config(dim=16, layers=[layer.clone(), layer.clone()])
    settings: dict[str, Any] = {
        "seq_len": 64, "batch_size": 32, "steps": 40, "validate_every": 15, "eval_windows": 8, "checkpoint_every": 6,
        "log_every": 1, "label": "tiny",
    }  # fmt: skip
    return TrainLM.Config(
        model=model, source=LocalText.Config(path=str(path)), tokenizer=ByteTokenizer.Config(), **(settings | fields)
    )


class Threads(Run):
    """Says with how many threads it was computed."""

    def compute(self, work: Workspace) -> dict[str, Any]:
        return {"threads": torch.get_num_threads()}
