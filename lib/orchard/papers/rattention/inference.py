"""What a RATTENTION model costs when it reads and writes: decode latency, bytes of real caches, memory of a forward pass.

    decode    a prompt of `context` tokens is read, then tokens are written one by one; arms take turns, token by token
    memory    peak of live allocations during one forward of the local layer; exponent of bytes ~ length^a by least squares in log-log

Sections 3.6 and 3.7 of the specification; the paper measures neither.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.nn.transformer import DecoderCache
from orchard.papers.rattention.throughput import Measurement
from orchard.runs import Workspace
from orchard.timing import peak_bytes
from orchard.train.hardware import Hardware


class Decode(Measurement):
    """Decoding one token after a prompt: rows arm, context, batch, cache_bytes (per sequence), ms (median over `rounds` tokens).

    The timed tokens are the last of `context`: caches have room for so many and no more, and the bytes of their tensors are
    counted, not computed from a formula. Every arm has the same batch. On a GPU bf16 weights and caches (the state stays fp32),
    elsewhere fp32; not compiled, so that small models are bound by the calls of Python and not by memory.
    """

    class Config(Measurement.Config):
        num_layers: int = REQUIRED
        arms: list[str] = REQUIRED
        contexts: list[int] = REQUIRED
        batch: int = 1

    cfg: Config

    @torch.inference_mode()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """Contexts one after the other; the arms of one context in turn."""
        cfg, hardware = self.cfg, self.hardware(work)
        dtype = torch.bfloat16 if hardware.device == "cuda" else torch.float32
        models = {name: self.model(name, cfg.num_layers).build().to(hardware.device, dtype).eval() for name in cfg.arms}
        rows = []
        for context in cfg.contexts:
            if context < cfg.rounds + 2:
                raise BadInput(
                    f"{cfg.label}: a context of {context} has no room for a prompt and {cfg.rounds} + 1 tokens after it"
                )
            prompt = torch.randint(0, 257, (cfg.batch, context - cfg.rounds - 1), device=hardware.device)
            caches, seconds = {}, dict[str, list[float]]()
            for name, model in models.items():
                caches[name] = model.new_cache(cfg.batch, context, device=hardware.device, dtype=dtype)
                model.features(prompt, caches[name])
                model(prompt[:, :1], caches[name])  # warm up
                seconds[name] = []
            for turn in range(cfg.rounds):
                first = turn % len(cfg.arms)
                for name in cfg.arms[first:] + cfg.arms[:first]:
                    seconds[name].append(_one_token(models[name], prompt[:, :1], caches[name], hardware))
            rows += [
                {"arm": name, "context": context, "batch": cfg.batch, "cache_bytes": caches[name].bytes() // cfg.batch,
                 "ms": 1e3 * statistics.median(seconds[name])} for name in cfg.arms
            ]  # fmt: skip
            work.log(f"context {context} done")
        return {"rows": rows}


def _one_token(model: Decoder, token: Tensor, cache: DecoderCache, hardware: Hardware) -> float:
    """Seconds from one token to the logits of the next."""
    start = time.perf_counter()
    model(token, cache)
    if hardware.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Memory(Measurement):
    """Peak of live allocations above its inputs during one forward of a local layer on the CPU: rows arm, mode, length, bytes.

    Modes: "inference" keeps nothing, "training" keeps what the backward pass needs.
    """

    class Config(Measurement.Config):
        rounds: int = 1
        arms: list[str] = REQUIRED
        lengths: list[int] = REQUIRED
        batch: int = 1

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every arm, mode and length; always on the CPU, which has no allocator that hides a quadratic tensor."""
        self.hardware(work, "cpu")
        rows = []
        for name in self.cfg.arms:
            layer = self.layer(name)
            with torch.no_grad():  # masks are made once and stay
                layer(torch.randn(1, max(self.cfg.lengths), self.cfg.dim))
            for length in self.cfg.lengths:
                x = torch.randn(self.cfg.batch, length, self.cfg.dim)
                for mode in ("inference", "training"):
                    with torch.set_grad_enabled(mode == "training"):
                        peak = peak_bytes(partial(layer, x))
                    rows.append({"arm": name, "mode": mode, "length": length, "bytes": peak})
        return {"rows": rows}


def fitted_exponent(lengths: list[int], values: list[int]) -> float:
    """The a of bytes ~ length^a: slope of the least-squares line through the logarithms."""
    slope, _ = np.polyfit(np.log(lengths), np.log(values), 1)
    return float(slope)
