"""What RAttention costs beside its peers: time forward and backward (claims C14, C15), latency and bytes of decoding, peak memory.

Peers get the same shapes in the same process, in turn and round by round, after a warm-up that also compiles; a ratio is the median
over the rounds of the ratio within a round, so that a slow moment of the machine hits both. Times are seconds per call.

Every measurement is a run: computed once, kept with the hardware it was made on.
"""

from __future__ import annotations

import importlib.util
import itertools
import runpy
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.kernels.residual import feature_map, residual_linear_attention
from orchard.kernels.residual.fused import fused
from orchard.kernels.residual.naive import quadratic
from orchard.nn import attention
from orchard.papers.rattention.method.models import arm
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed
from orchard.timing import Step, peak_bytes, seconds
from orchard.train import choose
from orchard.train.hardware import Hardware
from orchard.train.lm import token_losses


class LayerMeasurement(Measurement):
    """A measurement of one layer, or of decoders made of it."""

    class Config(Measurement.Config):
        dim: int = REQUIRED
        num_heads: int = REQUIRED
        num_kv_heads: int = REQUIRED
        head_dim: int = REQUIRED
        ffn_dim: int = REQUIRED
        rounds: int = REQUIRED

    def model(self, name: str, num_layers: int = 4) -> Any:
        """The decoder config of an arm at this shape, for bytes."""
        cfg = self.cfg
        return arm(
            name, dim=cfg.dim, num_layers=num_layers, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
            ffn_dim=cfg.ffn_dim, vocab_size=257,
        )  # fmt: skip

    def layer(self, name: str) -> nn.Module:
        """The local attention layer of an arm, projections included."""
        layer: nn.Module = self.model(name).layers[0].attention.set(dim=self.cfg.dim).build()
        return layer

    def inputs(self, batch: int, length: int, device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Random q, k and v of the shapes of this layer."""
        heads = (self.cfg.num_heads, self.cfg.num_kv_heads, self.cfg.num_kv_heads)
        return [torch.randn(batch, length, count, self.cfg.head_dim, device=device, dtype=dtype) for count in heads]


def missing(name: str, error: Exception, **about: Any) -> dict[str, Any]:
    """The row of what was not measured, with the reason."""
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return {**about, "name": name, "round": 0, "seconds": None, "reason": reason}


def forward_backward(function: Callable[..., Tensor], inputs: list[Tensor], parameters: Sequence[Tensor] = ()) -> Step:
    """One call: the function of `inputs`, and the gradients of its weighted sum in inputs and parameters."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    sources = [*inputs, *parameters]
    weight = torch.randn_like(function(*inputs))

    def step() -> object:
        return torch.autograd.grad(function(*inputs), sources, weight)

    return step


class Operations(LayerMeasurement):
    """Every operation at every length; rows name, length, batch, round, seconds, and a reason where there is no time."""

    class Config(LayerMeasurement.Config):
        lengths: list[int] = REQUIRED
        tokens: int = REQUIRED  # per call, at every length
        window: int = 512  # tokens of the window, the current one included

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Lengths one after the other; peers of one length in turn."""
        hardware = choose(self.begin(work))
        rows: list[dict[str, Any]] = []
        for length in self.cfg.lengths:
            batch = max(1, self.cfg.tokens // length)
            ready: dict[str, Step] = {}
            for name, make in self.peers(hardware, length, batch).items():
                try:
                    step = make()
                    step()
                except (ImportError, RuntimeError) as error:  # no such library, no such kernel here, out of memory
                    rows.append(missing(name, error, length=length, batch=batch))
                else:
                    ready[name] = step
            rows += timed(ready, self.cfg.rounds, hardware.device, length=length, batch=batch, reason="")
            work.log(f"length {length}: {', '.join(ready)}")
            _forget_graphs(hardware)
        return {"rows": rows}

    def peers(self, hardware: Hardware, length: int, batch: int) -> dict[str, Callable[[], Step]]:
        """What is timed, by name, each still to be prepared."""
        cfg, device = self.cfg, hardware.device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        q, k, v = self.inputs(batch, length, device, dtype)
        x = torch.randn(batch, length, cfg.dim, device=device, dtype=dtype)
        window = cfg.window - 1

        def layer(name: str) -> Step:
            built = self.layer(name).to(device)
            run = torch.compile(built, dynamic=False) if _compiles(hardware) else built
            return forward_backward(_autocast(run, hardware), [x], list(built.parameters()))

        def residual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return residual_linear_attention(q, k, v, window)[0]

        return {
            "full": lambda: forward_backward(_full(device), [q, k, v]),
            "window": lambda: forward_backward(lambda q, k, v: attention(q, k, v, window), [q, k, v]),
            "residual": lambda: forward_backward(residual, [q, k, v]),
            "fla": lambda: forward_backward(_fla(device, window), [q, k, v]),
            "fla kernel": lambda: forward_backward(_fla_kernel(device), _features(q, k, v, window)),
            "full layer": partial(layer, "full_rope"),
            "window layer": partial(layer, f"swa@{cfg.window}"),
            "rattn layer": partial(layer, f"rattn@{cfg.window}"),
        }


def _full(device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """PyTorch's fused attention; on a GPU FlashAttention and nothing else, so that the peer is what its name says."""
    if device != "cuda":
        return lambda q, k, v: attention(q, k, v)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return attention(q, k, v)

    return function


def _fla(device: str, window: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same function by fla's linear attention, with all that it needs for it."""
    linear_attention = _fla_kernel(device)
    return lambda q, k, v: linear_attention(*_features(q, k, v, window))


def _features(q: Tensor, k: Tensor, v: Tensor, window: int) -> list[Tensor]:
    """Features of q, of k shifted by w + 1, and v shifted, all per query head: fla has no feature map, no shift and no groups."""
    length, groups = q.shape[1], q.shape[2] // k.shape[2]
    late = max(length - window - 1, 0)
    keys, values = (
        nn.functional.pad(x, (0, 0, 0, 0, length - late, 0)).repeat_interleave(groups, dim=2)
        for x in (feature_map(k[:, :late]).to(k.dtype), v[:, :late])
    )
    return [feature_map(q).to(q.dtype), keys, values]


def _fla_kernel(device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """fla's chunked linear attention: its Triton kernels on a GPU, its plain form elsewhere. ImportError without fla."""
    if device == "cuda":
        from fla.ops.linear_attn import chunk_linear_attn

        return lambda q, k, v: chunk_linear_attn(q, k, v, scale=1.0, normalize=False)[0]
    package = importlib.util.find_spec("fla")
    if package is None or package.origin is None:
        raise ImportError("flash-linear-attention is not installed")
    # From its file: importing the package takes seconds and asks for a GPU.
    file = Path(package.origin).parent / "ops" / "linear_attn" / "naive.py"
    plain = runpy.run_path(str(file))["naive_chunk_linear_attn"]
    return lambda q, k, v: plain(q, k, v, scale=1.0)


def _compiles(hardware: Hardware) -> bool:
    """Whether what is timed is compiled first: on a CPU that takes a minute, for what a call takes milliseconds."""
    return hardware.compile and hardware.device != "cpu"


def _forget_graphs(hardware: Hardware) -> None:
    """Drop what was compiled for one length: torch.compile falls back to eager after a few shapes of the same code."""
    if _compiles(hardware):
        torch._dynamo.reset()


def _autocast(function: Callable[..., Tensor], hardware: Hardware) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(hardware.device, torch.bfloat16, enabled=hardware.device == "cuda"):
            return function(*inputs)

    return run


class Steps(LayerMeasurement):
    """Forward and backward of decoders with a loss, as in training: rows name, length, batch, round, seconds."""

    class Config(LayerMeasurement.Config):
        num_layers: int = REQUIRED
        lengths: list[int] = REQUIRED
        batch: int = 1

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Full attention, swa@T/2 and rattn@T/8 at every length."""
        hardware = choose(self.begin(work))
        rows: list[dict[str, Any]] = []
        for length in self.cfg.lengths:
            names = ("full_rope", f"swa@{length // 2}", f"rattn@{length // 8}")
            tokens = torch.randint(0, 257, (self.cfg.batch, length + 1), device=hardware.device)
            steps = {name: self._step(name, tokens, hardware) for name in names}
            rows += timed(steps, self.cfg.rounds, hardware.device, 3, length=length, batch=self.cfg.batch)
            del steps
            _forget_graphs(hardware)
        return {"rows": rows}

    def _step(self, name: str, tokens: Tensor, hardware: Hardware) -> Step:
        model = self.model(name, self.cfg.num_layers).build().to(hardware.device)
        parameters = [p for p in model.parameters() if p.requires_grad]
        run: Any = torch.compile(model, dynamic=False) if _compiles(hardware) else model
        losses = _autocast(lambda window: token_losses(run, window).mean(), hardware)
        return lambda: torch.autograd.grad(losses(tokens), parameters)


class Tiles(LayerMeasurement):
    """The Triton kernels for every C and m: rows name ("C x m"), length, batch, round, seconds, reason; then the pairs that
    decide claim C15: rows with the names of `best` and `base`, which are [C, m]."""

    class Config(LayerMeasurement.Config):
        length: int = REQUIRED
        batch: int = REQUIRED
        window: int = 512
        chunks: list[int] = [32, 64, 128]
        tiles_per_state: list[int] = [1, 2, 4, 8]
        pairs: int = 50

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Times every tile that fits, then the best against the largest C with m = 1, in pairs of their own."""
        cfg, device = self.cfg, self.begin(work)
        inputs = self.inputs(cfg.batch, cfg.length, device, torch.bfloat16)
        steps: dict[str, Step] = {}
        tiles = {f"{c} x {m}": (c, m) for c, m in itertools.product(cfg.chunks, cfg.tiles_per_state)}
        about, rows = {"length": cfg.length, "batch": cfg.batch}, list[dict[str, Any]]()
        for name, tile in tiles.items():
            try:
                step = self._step(tile, inputs)
                step()
            except Exception as error:  # Triton has an error of its own for a tile that does not fit into the chip
                if type(error).__name__ not in ("OutOfResources", "OutOfMemoryError", "PTXASError", "CompilationError"):
                    raise
                rows.append(missing(name, error, **about))
            else:
                steps[name] = step
        if not steps:
            raise BadInput(f"no tile of the kernels fits on this GPU: {rows[0]['reason']}")
        times = timed(steps, cfg.rounds, device, reason="", **about)
        best = str(pd.DataFrame(times).groupby("name")["seconds"].median().idxmin())
        base = max((name for name in steps if tiles[name][1] == 1), key=lambda name: tiles[name])
        pairs = timed({"best": steps[best], "base": steps[base]}, cfg.pairs, device, **about)
        return {"rows": rows + times, "pairs": pairs, "best": tiles[best], "base": tiles[base]}

    def _step(self, tile: tuple[int, int], inputs: list[Tensor]) -> Step:
        """The Triton kernels with tiles of C tokens and a saved state every m: `tile` = (C, m)."""
        window = self.cfg.window - 1
        return forward_backward(lambda q, k, v: fused(q, k, v, window, tile=tile)[0], inputs)


class Accuracy(LayerMeasurement):
    """Relative RMS error of the operation as it runs here against the definition in fp64: rows dtype, what, error."""

    class Config(LayerMeasurement.Config):
        rounds: int = 1
        length: int = REQUIRED
        window: int = REQUIRED
        batch: int = 1

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Output and the gradients in q, k and v; both forms get the same rounded inputs."""
        cfg, device = self.cfg, self.begin(work)
        rows: list[dict[str, Any]] = []
        for dtype in (torch.bfloat16, torch.float32):
            inputs = [x.to(dtype) for x in self.inputs(cfg.batch, cfg.length, device)]
            weight = torch.randn_like(inputs[0])
            exact = _values(quadratic, [x.double() for x in inputs], weight.double(), cfg.window - 1)
            found = _values(residual_linear_attention, inputs, weight, cfg.window - 1)
            for what, ours, truth in zip(("o", "dq", "dk", "dv"), found, exact, strict=True):
                error = float((ours.double() - truth).norm() / truth.norm())
                rows.append({"dtype": str(dtype).removeprefix("torch."), "what": what, "error": error})
        return {"rows": rows}


def _values(
    form: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor], weight: Tensor, window: int
) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = form(*inputs, window)[0]
    return [output.detach(), *torch.autograd.grad(output, inputs, weight)]


class Decode(LayerMeasurement):
    """Decoding one token after a prompt: rows arm, context, batch, cache_bytes (per sequence), ms (median over `rounds` tokens).

    The timed tokens are the last of `context`: caches have room for so many and no more, and the bytes of their tensors are
    counted, not computed from a formula. Every arm has the same batch. On a GPU bf16 weights and caches (the state stays fp32),
    elsewhere fp32, and processor time; not compiled, so that small models are bound by the calls of Python and not by memory.
    """

    class Config(LayerMeasurement.Config):
        num_layers: int = REQUIRED
        arms: list[str] = REQUIRED
        contexts: list[int] = REQUIRED
        batch: int = 1

    cfg: Config

    @torch.inference_mode()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """Contexts one after the other; the arms of one context in turn."""
        cfg, device = self.cfg, self.begin(work)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        models = {name: self.model(name, cfg.num_layers).build().to(device, dtype).eval() for name in cfg.arms}
        rows = []
        for context in cfg.contexts:
            if context < cfg.rounds + 2:
                raise BadInput(
                    f"{cfg.label}: a context of {context} has no room for a prompt and {cfg.rounds} + 1 tokens after it"
                )
            prompt = torch.randint(0, 257, (cfg.batch, context - cfg.rounds - 1), device=device)
            caches, taken = {}, dict[str, list[float]]()
            for name, model in models.items():
                caches[name] = model.new_cache(cfg.batch, context, device=device, dtype=dtype)
                model.features(prompt, caches[name])
                model(prompt[:, :1], caches[name])  # warm up
                taken[name] = []
            for turn in range(cfg.rounds):
                first = turn % len(cfg.arms)
                for name in cfg.arms[first:] + cfg.arms[:first]:
                    step = partial(models[name], prompt[:, :1], caches[name])
                    taken[name].append(seconds(step, 1, device))
            rows += [
                {"arm": name, "context": context, "batch": cfg.batch, "cache_bytes": caches[name].bytes() // cfg.batch,
                 "ms": 1e3 * statistics.median(taken[name])} for name in cfg.arms
            ]  # fmt: skip
            work.log(f"context {context} done")
        return {"rows": rows}


class Memory(LayerMeasurement):
    """Peak of live allocations above its inputs during one forward of a local layer on the CPU: rows arm, mode, length, bytes.

    Modes: "inference" keeps nothing, "training" keeps what the backward pass needs.
    """

    class Config(LayerMeasurement.Config):
        rounds: int = 1
        arms: list[str] = REQUIRED
        lengths: list[int] = REQUIRED
        batch: int = 1

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every arm, mode and length; always on the CPU, which has no allocator that hides a quadratic tensor."""
        self.begin(work, "cpu")
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
