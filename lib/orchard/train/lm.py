"""Language modelling: the run that trains a decoder and scores it on held-out text. Lightning's part is in ``loop.py``.

loss = - 1/N sum_t log p(x_t | x_<t)           nats per token
bits per byte = sum of nats / (ln 2 * bytes)   comparable between tokenizers
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import ByteTokenizer, DataError, EmbeddedText, ResumableLoader, Source, Tokenizer, Windows, tokens
from orchard.files import write
from orchard.nn import Decoder
from orchard.runs import Finished, Workspace
from orchard.train.hardware import Hardware
from orchard.train.losses import token_losses
from orchard.train.optim import AdamW
from orchard.train.run import TrainingRun, fit, save_tensors, save_weights
from orchard.train.seeding import seed_everything

TOKENIZER = "tokenizer.json"


class TrainLM(TrainingRun):
    """Train a language model and score it on test windows.

    Result: ``loss`` and ``validation_loss`` (nats per token), ``bits_per_byte``, ``tokens`` trained on, ``parameters``,
    ``flops_per_token`` (forward), ``cache_bytes`` (what decoding holds after ``seq_len`` tokens, in 16 bits), ``test_tokens``,
    ``test_bytes``.
    Files: ``model.safetensors`` (weights), ``eval.safetensors`` (``nll`` [windows, time], ``tokens`` [windows, time + 1],
    ``document`` [windows, time + 1]), ``tokenizer.json`` (of a tokenizer that was trained), ``metrics.jsonl`` (``step``, ``loss``,
    ``validation_loss``).
    """

    class Config(TrainingRun.Config):
        model: Decoder.Config = REQUIRED  # vocab_size is set from the tokenizer
        source: Source.Config = EmbeddedText.Config()
        tokenizer: Tokenizer.Config = ByteTokenizer.Config()
        seq_len: int = REQUIRED  # tokens predicted per window
        batch_size: int = REQUIRED  # windows per batch
        eval_windows: int = 64  # of the validation split and of the test split

    sizes = (*TrainingRun.sizes, "seq_len", "batch_size", "eval_windows")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, to the last step, then score."""
        from orchard.train.loop import LanguageModel  # Lightning takes seconds to import: only when training

        cfg = self.cfg
        hardware = self.set_up(work)
        tokenizer = cfg.tokenizer.build(source=cfg.source.build())
        train, validation, test = (
            Windows(tokens(cfg.source, cfg.tokenizer, split), cfg.seq_len) for split in ("train", "validation", "test")
        )
        seed_everything(cfg.seed)
        model = cfg.model.set(vocab_size=tokenizer.vocab_size).build()
        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer)
        loader = ResumableLoader(train, cfg.batch_size, cfg.seed, cfg.accumulate)

        def validate() -> dict[str, float]:
            nats = score(model, validation, cfg.eval_windows, cfg.batch_size, hardware)["nll"]
            return {"validation_loss": nats.double().mean().item()}

        batch, flops = cfg.batch_size * cfg.seq_len, model.flops_per_token(cfg.seq_len)
        validated = self.train(work, hardware, module, loader, validate, tokens=batch, flops=flops)
        save_weights(model, work.folder / "model.safetensors")
        if (text := tokenizer.to_json()) is not None:
            write(work.folder / TOKENIZER, text)
        scores = score(model, test, cfg.eval_windows, cfg.batch_size, hardware)
        save_tensors(scores, work.folder / "eval.safetensors")
        nats = scores["nll"].double().sum().item()
        size = int(tokenizer.token_bytes(scores["tokens"][:, 1:].numpy()).sum())
        return {
            "loss": nats / scores["nll"].numel(),
            "bits_per_byte": nats / math.log(2) / size,
            **validated,
            "test_tokens": scores["nll"].numel(),
            "test_bytes": size,
            "tokens": cfg.batches * batch,
            "parameters": model.num_parameters(),
            "parameters_without_embedding": model.num_parameters(embedding=False),
            "flops_per_token": flops,
            "cache_bytes": model.cache_bytes(cfg.seq_len, 2),
        }


def load_model(run: Finished, cfg: TrainLM.Config) -> Decoder:
    """The trained decoder of a finished run, on the CPU, ready for use.

    Args:
        run: the finished run of ``cfg``.
        cfg: the config it was made from.
    """
    model: Decoder = cfg.clone().model.set(vocab_size=load_tokenizer(run, cfg).vocab_size).build()
    model.load_state_dict(run.tensors("model"))
    return model.eval()


def load_tokenizer(run: Finished, cfg: TrainLM.Config) -> Tokenizer:
    """The tokenizer that a finished run trained with, from its ``tokenizer.json``.

    Where the run keeps none although its kind is trained on a corpus, it is trained on the corpus of this machine, with a warning.
    """
    path = run.folder / TOKENIZER
    if path.is_file():
        saved: Tokenizer = cfg.tokenizer.build(saved=path.read_text("utf-8"))
        return saved
    try:
        made: Tokenizer = cfg.tokenizer.build()
    except DataError:  # its kind is trained on a corpus
        warnings.warn(
            f"run {run.id} keeps no {TOKENIZER}: its tokenizer is trained anew, on the corpus of this machine, which gives other "
            "tokens if it was made elsewhere; train the model again to be sure",
            stacklevel=2,
        )
        made = cfg.tokenizer.build(source=cfg.source.build())
    return made


@torch.no_grad()
def score(model: Decoder, windows: Windows, count: int, batch_size: int, hardware: Hardware) -> dict[str, Tensor]:
    """Nats of every token in ``count`` windows spread evenly over a split; with the windows themselves."""
    device = torch.device(hardware.device)
    was_training = model.training
    model = model.to(device).eval()
    kept: dict[str, list[Tensor]] = {"nll": [], "tokens": [], "document": [], "window": []}
    for indices, batch in _batches(windows, count, batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
            kept["nll"].append(token_losses(model, batch["tokens"].to(device)).float().cpu())
        kept["tokens"].append(batch["tokens"].int())
        kept["document"].append(batch["document"].int())
        kept["window"].append(torch.from_numpy(indices))
    model.train(was_training)
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _batches(windows: Windows, count: int, batch_size: int) -> list[tuple[np.ndarray, dict[str, Tensor]]]:
    indices = np.unique(np.linspace(0, len(windows) - 1, num=min(count, len(windows))).astype(np.int64))
    parts = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return [(part, windows.batch(part)) for part in parts]


__all__ = ["AdamW", "TrainLM", "fit", "load_model", "score", "token_losses"]
