"""How long mixtures and the collector take beside their peers, and what the collector holds in memory.

    block        our mixture, grouped and as a loop, and the Mixtral block of `transformers` (grouped_mm, its default, and eager) with the
                 same weights, on `tokens` tokens: forward, and forward with the gradients of input and weights
    statistics   a forward pass of a decoder under the collector, beside the same pass alone; no gradients
    memory       peak of live bytes while the collector reads N and 4 N tokens

Measured as `orchard.timing` says; bf16 on a GPU, fp32 on a CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.nn import Decoder, MixtureOfExperts
from orchard.papers.moe_lottery.method.collect import Collector, collect
from orchard.papers.moe_lottery.method.dropping import mixture_layers
from orchard.papers.moe_lottery.method.models import Shape as ModelShape
from orchard.papers.moe_lottery.method.models import decoder
from orchard.papers.moe_lottery.runs.checks import mixtral_block
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed
from orchard.timing import Step, peak_bytes

VOCAB = 257
Shape = list[int]  # dim, experts, hidden_dim, top_k
MEMORY_BATCHES = (3, 12)  # N and 4 N tokens
Peers = dict[str, Step]


class Speed(Measurement):
    """Rows measurement, what, name, shape, round, seconds; ``memory``: rows shape, tokens, bytes, sums (bytes of the running sums)."""

    class Config(Measurement.Config):
        shapes: list[Shape] = REQUIRED
        batch: int = REQUIRED
        length: int = REQUIRED
        rounds: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Shapes one after the other; peers of one shape in turn."""
        device, rows, memory = self.begin(work), list[dict[str, Any]](), list[dict[str, Any]]()
        for shape in self.cfg.shapes:
            for (measurement, what), peers in self.peers(shape, device):
                about: dict[str, Any] = {"measurement": measurement, "what": what, "shape": label(shape)}
                rows += timed(peers, self.cfg.rounds, device, **about)
            memory += self.memory(shape, device)
            work.log(f"{label(shape)} done")
        return {"rows": rows, "memory": memory}

    def peers(self, shape: Shape, device: str) -> Iterator[tuple[tuple[str, str], Peers]]:
        """Groups of peers, made one after the other so that the memory of one is free for the next."""
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        x = torch.randn(self.cfg.batch, self.cfg.length, shape[0], device=device, dtype=dtype)
        blocks = _blocks(shape, device, dtype)
        with torch.no_grad():
            yield ("block", "forward"), {name: partial(block, x) for name, block in blocks.items()}
        yield ("block", "forward and backward"), {name: _backward(block, x) for name, block in blocks.items()}
        del blocks
        model, (tokens,) = _model(shape, device, dtype), self.batches(1, device)
        collector = Collector(mixture_layers(model), VOCAB)

        def watched() -> None:
            collector.tokens = tokens
            with collector.watching():
                model(tokens)

        with torch.no_grad():
            yield ("statistics", "pass"), {"plain": partial(model, tokens), "collector": watched}

    def memory(self, shape: Shape, device: str) -> list[dict[str, Any]]:
        """Peak while N and 4 N tokens pass, and the bytes of the running sums after them."""
        model, rows = _model(shape, device, torch.bfloat16 if device == "cuda" else torch.float32), []
        collect(model, self.batches(1, device), VOCAB)  # what is made once is not counted
        for count in MEMORY_BATCHES:
            batches = self.batches(count, device)
            peak, tokens = peak_bytes(partial(collect, model, batches, VOCAB), device), sum(map(torch.numel, batches))
            sums = sum(layer.bytes() for layer in collect(model, batches, VOCAB))
            rows.append({"shape": label(shape), "tokens": tokens, "bytes": peak, "sums": sums})
        return rows

    def batches(self, count: int, device: str) -> list[Tensor]:
        """So many batches of random token ids, each [batch, length]."""
        return list(torch.randint(0, VOCAB, (count, self.cfg.batch, self.cfg.length), device=device))


def label(shape: Shape) -> str:
    """A shape in words."""
    dim, experts, hidden, top_k = shape
    return f"d={dim} n={experts} f={hidden} k={top_k}"


def _model(shape: Shape, device: str, dtype: torch.dtype) -> Decoder:
    """A decoder of two layers with mixtures of this shape."""
    dim, experts, hidden, top_k = shape
    heads = max(1, dim // 64)
    cfg = decoder(ModelShape(experts, top_k, hidden), dim=dim, num_layers=2, num_heads=heads, num_kv_heads=heads)
    model: Decoder = cfg.build().to(device, dtype).eval()
    return model


def _blocks(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    dim, experts, hidden, top_k = shape
    cfg = MixtureOfExperts.Config(dim=dim, num_experts=experts, hidden_dim=hidden, top_k=top_k)
    ours: MixtureOfExperts = cfg.build()
    loop = cfg.clone().set(backend="loop").build()
    loop.load_state_dict(ours.state_dict())
    blocks: dict[str, nn.Module] = {"ours": ours, "loop": loop}
    if importlib.util.find_spec("transformers") is not None:
        blocks |= {f"transformers {kind}": mixtral_block(ours, kind) for kind in ("grouped_mm", "eager")}
    return {name: block.to(device, dtype).eval() for name, block in blocks.items()}


def _backward(block: nn.Module, x: Tensor) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    weight, sources = torch.randn_like(x), [x, *block.parameters()]
    return lambda: torch.autograd.grad(block(x), sources, weight)
