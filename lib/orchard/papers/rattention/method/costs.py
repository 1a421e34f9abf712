"""What decoding costs: KV cache, RLA state, FLOPs and the paper's step-time formula, as closed forms.

    KV tokens per layer, mean    (T + (p-1) min(T, w+1 + s [T > w+1])) / p        p = 4: one global layer in four
    step time                    B KV / BW + max(2 B P / F, bytes(P) / BW)

T context, w left context (a window that the paper calls 512 is w = 511), s the state counted in tokens of KV cache,
B batch, P non-embedding parameters, BW memory bandwidth, F peak FLOP/s. Every number here is derived, none measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The shape of a model, of the paper's (its specification table) or of a profile's. The vocabulary is not published."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields above by name, as `arm` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(Shape)}

    @property
    def matmul_parameters(self) -> int:
        """Non-embedding parameters in matrices: q, k, v, output and the three of the gated feed-forward."""
        attention = 2 * self.dim * self.head_dim * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.dim * self.ffn_dim)

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of one token's key and value in one layer."""
        return 2 * self.num_kv_heads * self.head_dim


SHAPES = {
    "3B": Shape(2048, 56, 16, 4, 128, 6656),
    "12B": Shape(5120, 40, 40, 8, 128, 16384),
}


@dataclass(frozen=True)
class Hardware:
    """One accelerator: memory bandwidth (bytes/s) and dense bf16 peak (FLOP/s)."""

    bandwidth: float
    flops: float


# From the makers' data sheets; dense, SXM form, without sparsity.
HARDWARE = {
    "H100": Hardware(3.35e12, 989e12),
    "H200": Hardware(4.8e12, 989e12),
    "B200": Hardware(8.0e12, 2250e12),
    "A100": Hardware(2.04e12, 312e12),
}
DTYPES = {"fp32": 4, "bf16": 2, "fp8": 1}  # bytes per element


@dataclass(frozen=True)
class KVBudget:
    """Bytes that decoding holds for one sequence, by what holds them."""

    global_bytes: int
    window_bytes: int
    state_bytes: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.global_bytes + self.window_bytes + self.state_bytes


def kv_budget(
    context: int, window: int | None, ratio: int = 3, dtype: str = "bf16", shape: Shape = SHAPES["3B"],
    state: str | None = "fp32", per_query_head: bool = False,
) -> KVBudget:  # fmt: skip
    """What a model of `ratio` local layers per global one holds after `context` tokens.

    window: left context of the local layers; None for full attention in all layers, -1 for linear attention alone.
    state: type of the RLA states, None for sliding-window layers that have none. They are used once the window is full.
    Raises ValueError for a type that is not in `DTYPES`, a context below 1, a window below -1 or a ratio below 0.
    """
    for name in (dtype, *([state] if state else [])):
        if name not in DTYPES:
            raise ValueError(f"kv_budget: type {name!r} is not known: use one of {', '.join(DTYPES)}")
    if context < 1 or ratio < 0 or (window is not None and window < -1):
        raise ValueError(f"kv_budget(context={context}, window={window}, ratio={ratio}): start at 1, -1, 0")
    token = shape.kv_elements_per_token * DTYPES[dtype]
    if window is None:
        return KVBudget(shape.num_layers * context * token, 0, 0)
    global_layers = shape.num_layers // (ratio + 1)
    local_layers = shape.num_layers - global_layers
    heads = shape.num_heads if per_query_head else shape.num_kv_heads
    used = state is not None and context > window + 1
    states = heads * 2 * shape.head_dim**2 * DTYPES[state] if used and state else 0
    held = min(context, window + 1) * token
    return KVBudget(global_layers * context * token, local_layers * held, local_layers * states)


def state_tokens(shape: Shape, state_bytes: int = 2, kv_bytes: int = 2, per_query_head: bool = False) -> float:
    """The RLA state [2d, d] of a layer in tokens of KV cache: d at equal type, 2d in fp32 beside bf16, G times that per query head,
    as the official code stores it."""
    copies = shape.num_heads if per_query_head else shape.num_kv_heads
    return copies * 2 * shape.head_dim**2 * state_bytes / (shape.kv_elements_per_token * kv_bytes)


def kv_tokens(context: int, window: int | None, state: int | float = 0.0, period: int = 4) -> float:
    """Tokens of KV cache per layer, the mean over local and global layers; window None = full attention everywhere.

    A layer whose window and state would outweigh the whole context is counted as keeping the context.
    """
    if context < 1 or period < 1 or (window is not None and window < -1):
        raise ValueError(f"kv_tokens(context={context}, window={window}, period={period}): start at 1, -1, 1")
    if window is None:
        return float(context)
    held = window + 1
    local = min(context, held + (state if context > held else 0.0))
    return (context + (period - 1) * local) / period


def kv_saving(context: int, window: int, state: int | float = 0.0, baseline_window: int | None = 4095) -> float:
    """1 - KV cache / KV cache of sliding-window layers with `baseline_window` (None: of full attention), a fraction."""
    return 1 - kv_tokens(context, window, state) / kv_tokens(context, baseline_window)


def step_time_cut(
    shape: Shape, context: int, batch: int | float, window: int = 511, state: int | float | None = None,
    baseline_window: int = 4095, hardware: Hardware = HARDWARE["H100"], bytes_per_element: int = 2, period: int = 4,
) -> float:  # fmt: skip
    """1 - step time / step time of sliding-window layers with `baseline_window`, a fraction; by the formula above, with bf16 weights.

    `batch=math.inf` gives the limit: compute grows with the batch as traffic does, so the cut of the traffic is not
    reached. `state=None` is a bf16 state per kv head.
    """

    def seconds(window: int, state: int | float) -> float:
        """Of one sequence's share of a step: its KV traffic, then the slower of its compute and its share of the weights."""
        token = shape.num_layers * shape.kv_elements_per_token * bytes_per_element
        traffic = token * kv_tokens(context, window, state, period) / hardware.bandwidth
        parameters = shape.matmul_parameters
        return traffic + max(2 * parameters / hardware.flops, 2 * parameters / hardware.bandwidth / batch)

    return 1 - seconds(window, state_tokens(shape) if state is None else state) / seconds(baseline_window, 0.0)
