"""How long mixtures and the collector take beside their peers, and what the collector holds in memory.

    block        our mixture, grouped and as a loop, and the Mixtral block of `transformers` (grouped_mm, its default, and eager) with the
                 same weights, on `tokens` tokens: forward, and forward with the gradients of input and weights
    statistics   a forward pass of a decoder under the collector, beside the same pass alone; no gradients
    gradients    the collector's pass with gradients, of experts alone, beside forward and backward of all parameters
    memory       peak of live bytes while the collector reads N and 4 N tokens

Measured as `orchard.timing` says; bf16 on a GPU, fp32 on a CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, MixtureOfExperts
from orchard.papers.moe_lottery.method.collect import Collector, LayerStatistics, collect, collect_gradients
from orchard.papers.moe_lottery.method.dropping import logits_of, mixture_layers
from orchard.papers.moe_lottery.runs.checks import mixtral_block
from orchard.runs import Run, Workspace
from orchard.timing import Step, interleaved, peak_bytes
from orchard.train import choose

VOCAB = 257
Shape = list[int]  # dim, experts, hidden_dim, top_k
Peers = dict[str, Step]


class Speed(Run):
    """Rows measurement, what, name, shape, round, seconds; and for the memory rows shape, tokens, bytes, sums."""

    class Config(Run.Config):
        gpu: bool = False  # sizes that only a GPU can measure: refuses to run elsewhere
        shapes: list[Shape] = REQUIRED
        batch: int = REQUIRED
        length: int = REQUIRED
        rounds: int = REQUIRED
        memory_batches: int = REQUIRED
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Shapes one after the other; peers of one shape in turn."""
        cfg, hardware = self.cfg, choose(work.device if choose(work.device).device != "mps" else "cpu")
        if cfg.gpu and hardware.device != "cuda":
            raise BadInput(
                f"{cfg.label or 'Speed'} has sizes for a GPU and would run on {hardware.device}: use profile smoke, or compute it on "
                "a GPU and bring it here with `orchard runs export` and `orchard runs import`"
            )
        work.notes["hardware"] = hardware.as_dict()
        torch.manual_seed(cfg.seed)
        rows: list[dict[str, Any]] = []
        memory: list[dict[str, Any]] = []
        for shape in cfg.shapes:
            for (measurement, what), peers in self.peers(shape, hardware.device):
                for name, times in interleaved(peers, cfg.rounds, hardware.device).items():
                    about = {"measurement": measurement, "what": what, "name": name, "shape": label(shape)}
                    rows += [{**about, "round": turn, "seconds": seconds} for turn, seconds in enumerate(times)]
            memory += self.memory(shape, hardware.device)
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
        model = decoder(shape).to(device, dtype).eval()
        tokens = self.tokens(1, device)[0]
        layers = mixture_layers(model)
        collector = Collector(layers, VOCAB)

        def watched() -> None:
            collector.tokens = tokens
            with collector.watching():
                model(tokens)

        with torch.no_grad():
            yield ("statistics", "pass"), {"plain": partial(model, tokens), "collector": watched}
        gradients = partial(collect_gradients, model, layers, collector.statistics, [tokens])
        yield ("gradients", "pass"), {"plain": partial(_training_step, model, tokens), "collector": gradients}

    def memory(self, shape: Shape, device: str) -> list[dict[str, Any]]:
        """Peak while N and 4 N tokens pass, and the bytes of the running sums after them."""
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = decoder(shape).to(device, dtype).eval()
        rows = []
        for count in (self.cfg.memory_batches, 4 * self.cfg.memory_batches):
            batches = list(self.tokens(count, device))
            collect(model, batches[:1], VOCAB)
            found: list[LayerStatistics] = []

            def read(batches: list[Tensor] = batches, found: list[LayerStatistics] = found) -> None:
                found.extend(collect(model, batches, VOCAB))

            peak = peak_bytes(read, device)
            sums = sum(layer.bytes() for layer in found)
            rows.append({"shape": label(shape), "tokens": sum(map(torch.numel, batches)), "bytes": peak, "sums": sums})
        return rows

    def tokens(self, count: int, device: str) -> Tensor:
        """[count, batch, length] token ids."""
        return torch.randint(0, VOCAB, (count, self.cfg.batch, self.cfg.length), device=device)


def label(shape: Shape) -> str:
    """A shape in words."""
    dim, experts, hidden, top_k = shape
    return f"d={dim} n={experts} f={hidden} k={top_k}"


def decoder(shape: Shape) -> Decoder:
    """Two layers of a shape, for bytes."""
    dim, experts, hidden, top_k = shape
    attention = Attention.Config(num_heads=max(1, dim // 64), num_kv_heads=max(1, dim // 64), head_dim=min(dim, 64))
    mixture = MixtureOfExperts.Config(hidden_dim=hidden, num_experts=experts, top_k=top_k)
    layers = [Block.Config(attention=attention, feed_forward=mixture) for _ in range(2)]
    built: Decoder = Decoder.Config(vocab_size=VOCAB, dim=dim, layers=layers).build()
    return built


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


def _training_step(model: nn.Module, tokens: Tensor) -> None:
    logits = logits_of(model, tokens)[:, :-1]
    F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
    model.zero_grad()
