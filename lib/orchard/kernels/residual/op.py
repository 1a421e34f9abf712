"""Residual linear attention: the one call. Triton kernels on a GPU, the chunked form everywhere else.

    o_t = phi(q_t) S_{t-w-1},   S_t = S_{t-1} + phi(k_t)^T v_t            RAttention (arXiv 2506.15545), section 3

`naive.py` is the definition that both are tested against.
"""

from __future__ import annotations

import importlib.util

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchard.kernels.residual.chunked import chunked
from orchard.kernels.residual.fused import fused, interpreting
from orchard.kernels.residual.naive import borders, check, check_shapes
from orchard.kernels.residual.tiles import DTYPES, MAX_HEAD_DIM, TILE_SIZES

HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "chunked", "triton")


def residual_linear_attention(
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
    window: int,
    feature_map: str = "softmax",
    initial_state: Float[Tensor, "#sequences kv_heads features head_dim"] | None = None,
    chunk_size: int | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "batch time heads head_dim"], Float[Tensor, "sequences kv_heads features head_dim"]]:
    """phi(q_t) S_{t-w-1} for all tokens at once, and the state after the last folded token, T-w-2 (section 3.4).

    The first w+1 queries read the initial state alone. `window = -1` folds the current token too: plain linear
    attention. Outputs have the type of q, sums and state are fp32. With `cu_seqlens` (borders 0 ... T) the one row of
    the batch holds N sequences, each with its own initial and final state; an empty one keeps its initial state.

    `backend`: "auto" takes the Triton kernels on a GPU for the paper's feature map where they can run, and the chunked
    form otherwise; "chunked" and "triton" insist. `chunk_size` None takes each form's own. The values of
    `cu_seqlens` are checked except under torch.compile; keep it on the CPU, or a GPU is waited for to read them.

    Raises ValueError for a window below -1, shapes that do not fit together, an empty row, an unknown feature map or
    backend, a chunk size the form cannot take, borders that do not rise from 0 to T, and "triton" where it cannot run.
    """
    check(q, k, window, feature_map)
    check_shapes(q, k, v, feature_map, initial_state, cu_seqlens)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known: use one of {', '.join(BACKENDS)}")
    obstacle = None if backend == "chunked" else _obstacle(q, k, v, feature_map, chunk_size)
    if backend == "triton" and obstacle:
        raise ValueError(f"backend='triton': {obstacle}; use backend='chunked', which runs everywhere")
    if backend == "triton" or (backend == "auto" and q.is_cuda and obstacle is None):
        if cu_seqlens is not None and not (torch.compiler.is_compiling() or cu_seqlens.is_meta):
            borders(cu_seqlens, q.shape[1])
        return fused(q, k, v, window, initial_state, cu_seqlens, None if chunk_size is None else (chunk_size, None))
    return chunked(q, k, v, window, feature_map, initial_state, chunk_size, cu_seqlens)


def _obstacle(q: Tensor, k: Tensor, v: Tensor, feature_map: str, chunk_size: int | None) -> str | None:
    """Why the Triton kernels cannot take this call, or None."""
    if not HAS_TRITON:
        return "triton is not installed (Linux: pip install triton)"
    if not (q.is_cuda or q.is_meta or interpreting()):
        return f"the tensors are on {q.device}, the kernels need a GPU, or TRITON_INTERPRET=1 to be interpreted"
    # Not asked while torch.compile traces: the call cannot be traced.
    if q.is_cuda and not torch.compiler.is_compiling() and torch.cuda.get_device_capability(q.device) < (8, 0):
        return "this GPU has compute capability below 8.0, the kernels need its bf16 and tf32 products"
    if feature_map != "softmax":
        return f"feature_map={feature_map!r}, the kernels hold 'softmax' alone"
    for x in (q, k, v):
        if x.dtype not in DTYPES:
            return f"inputs of {x.dtype}, the kernels take float32, bfloat16 and float16"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim={q.shape[-1]}, the kernels take at most {MAX_HEAD_DIM}"
    if chunk_size is not None and chunk_size not in TILE_SIZES:
        return f"chunk_size={chunk_size}, the kernels take tiles of {', '.join(map(str, TILE_SIZES))} tokens"
    return None
