"""Language modelling: the run that trains a decoder and scores it on held-out text. Lightning's part is in ``loop.py``.

loss = - 1/N sum_t log p(x_t | x_<t)           nats per token
bits per byte = sum of nats / (ln 2 * bytes)   comparable between tokenizers
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from orchard.config import REQUIRED, Configurable
from orchard.data import ByteTokenizer, EmbeddedText, ResumableLoader, Source, Tokenizer, Windows, tokens
from orchard.nn import Decoder
from orchard.runs import Finished, Run, Store, Workspace, execute
from orchard.train.hardware import COMPILE_FROM, Hardware, choose, describe
from orchard.train.seeding import seed_everything


class AdamW(Configurable):
    """AdamW with linear warm-up and cosine decay; weight decay on matrices only (Loshchilov & Hutter, arXiv 1711.05101)."""

    class Config(Configurable.Config):
        learning_rate: float = 1e-3
        betas: list[float] = [0.9, 0.95]
        weight_decay: float = 0.1
        warmup_fraction: float = 0.04
        final_fraction: float = 0.1  # of the learning rate, at the last step

    def __init__(self, cfg: AdamW.Config) -> None:
        self.cfg = cfg

    def scale(self, step: int, steps: int) -> float:
        """The factor on the learning rate at ``step`` of ``steps``."""
        warmup = max(1, round(self.cfg.warmup_fraction * steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return self.cfg.final_fraction + (1 - self.cfg.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def optimizer(self, module: torch.nn.Module, fused: bool) -> torch.optim.AdamW:
        """The optimizer for the parameters of ``module``."""
        matrices = [p for p in module.parameters() if p.ndim >= 2]
        others = [p for p in module.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.cfg.weight_decay}, {"params": others, "weight_decay": 0.0}]
        betas = (self.cfg.betas[0], self.cfg.betas[1])
        return torch.optim.AdamW(groups, lr=self.cfg.learning_rate, betas=betas, fused=fused)


def token_losses(model: Decoder, window: Int[Tensor, "batch time_and_one"]) -> Float[Tensor, "batch time"]:
    """Nats of each token given those before it in its window."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten(), reduction="none").view_as(
        window[:, 1:]
    )


class TrainLM(Run):
    """Train a language model and score it on test windows.

    Result: ``loss`` and ``validation_loss`` (nats per token), ``bits_per_byte``, ``tokens`` trained on, ``parameters``,
    ``flops_per_token`` (forward), ``cache_bytes`` (what decoding holds after ``seq_len`` tokens, in 16 bits), ``test_tokens``,
    ``test_bytes``.
    Files: ``model.safetensors`` (weights), ``eval.safetensors`` (``nll`` [windows, time], ``tokens`` [windows, time + 1],
    ``document`` [windows, time + 1]), ``metrics.jsonl`` (``step``, ``loss``, ``validation_loss``).
    """

    class Config(Run.Config):
        model: Decoder.Config = REQUIRED  # vocab_size is set from the tokenizer
        source: Source.Config = EmbeddedText.Config()
        tokenizer: Tokenizer.Config = ByteTokenizer.Config()
        optim: AdamW.Config = AdamW.Config()
        seq_len: int = REQUIRED  # tokens predicted per window
        batch_size: int = REQUIRED  # windows per step
        steps: int = REQUIRED
        seed: int = 0  # of the initial weights and of the order of the data
        clip: float = 1.0  # norm of the gradient
        log_every: int = 10
        validate_every: int = 50
        eval_windows: int = 64  # of the validation split and of the test split
        checkpoint_every: int = 100

    preload = "orchard.train.loop"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, to the last step, then score."""
        from orchard.train.loop import (
            LanguageModel,
            train_loop,
        )  # Lightning takes seconds to import: only when training
        from orchard.train.metrics import Monitor, ThroughputMeter

        cfg = self.cfg
        hardware = choose(work.device)
        work.log(str(hardware))
        work.notes["hardware"] = hardware.as_dict()
        tokenizer = cfg.tokenizer.build(source=cfg.source.build())
        train, validation, test = (
            Windows(tokens(cfg.source, cfg.tokenizer, split), cfg.seq_len) for split in ("train", "validation", "test")
        )
        seed_everything(cfg.seed)
        model = cfg.model.set(vocab_size=tokenizer.vocab_size).build()
        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer)
        loader = ResumableLoader(train, cfg.batch_size, cfg.seed)
        meter = ThroughputMeter(cfg.batch_size * cfg.seq_len, model.flops_per_token(cfg.seq_len), hardware)

        def validate() -> dict[str, float]:
            nats = score(model, validation, cfg.eval_windows, cfg.batch_size, hardware)["nll"]
            return {"validation_loss": nats.double().mean().item()}

        if hardware.compile and cfg.steps >= COMPILE_FROM:
            model.compile(dynamic=False)  # the decoder: Lightning calls training_step and not the module around it
        monitor = Monitor(cfg.log_every, cfg.validate_every, validate, meter)
        train_loop(module, loader, cfg, work, hardware, [meter, monitor])
        work.log(str(meter))
        work.notes["throughput"] = meter.read()

        validated = monitor.last[1] if monitor.last and monitor.last[0] == cfg.steps else validate()
        weights = {name: p.cpu().contiguous() for name, p in model.state_dict().items()}
        save_file(weights, work.folder / "model.safetensors")
        scores = score(model, test, cfg.eval_windows, cfg.batch_size, hardware)
        save_file(scores, work.folder / "eval.safetensors")
        nats = scores["nll"].double().sum().item()
        size = int(tokenizer.token_bytes(scores["tokens"][:, 1:].numpy()).sum())
        return {
            "loss": nats / scores["nll"].numel(),
            "bits_per_byte": nats / math.log(2) / size,
            **validated,
            "test_tokens": scores["nll"].numel(),
            "test_bytes": size,
            "tokens": cfg.steps * cfg.batch_size * cfg.seq_len,
            "parameters": model.num_parameters(),
            "parameters_without_embedding": model.num_parameters(embedding=False),
            "flops_per_token": model.flops_per_token(cfg.seq_len),
            "cache_bytes": model.cache_bytes(cfg.seq_len, 2),
        }


def fit(cfg: TrainLM.Config, store: Store | None = None, device: str = "auto") -> Finished:
    """Train the model that ``cfg`` describes, or find it finished in the store; a killed training goes on.

    Prints the hardware rules that apply.
    """
    print(describe(device), flush=True)
    return execute([cfg], store, device=device)[0]


def load_model(run: Finished, cfg: TrainLM.Config) -> Decoder:
    """The trained decoder of a finished run, on the CPU, ready for use.

    Args:
        run: the finished run of ``cfg``.
        cfg: the config it was made from.
    """
    tokenizer = cfg.tokenizer.build(source=cfg.source.build())
    model: Decoder = cfg.clone().model.set(vocab_size=tokenizer.vocab_size).build()
    model.load_state_dict(run.tensors("model"))
    return model.eval()


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
