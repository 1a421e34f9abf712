"""Residual linear attention as a `torch.library` operator: the Triton kernels behind autograd, torch.compile and meta.

`orchard::residual_forward` gives output, final state and the states saved before each supertile, which its gradient,
`orchard::residual_backward`, starts from. On a GPU both run the kernels. On the CPU they are their plain-PyTorch twins
(the chunked form), or the kernels in Triton's interpreter if TRITON_INTERPRET=1 was set before triton was imported.
RAttention (arXiv 2506.15545), section 3; the paper's feature map only.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from orchard.kernels.residual.chunked import chunked
from orchard.kernels.residual.naive import accumulator, borders, feature_map
from orchard.kernels.residual.tiles import choose_tile, supertiles


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    tile: tuple[int, int | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The operator, differentiable. Arguments, shapes and results as in `residual_linear_attention`; `tile` = (C, m)
    replaces the table's tokens per tile and tiles per supertile. ValueError for a tile the kernels cannot take."""
    sizes = choose_tile(q, k, v, tile)
    if initial_state is not None:
        sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        initial_state = initial_state.float().expand(sequences, -1, -1, -1)
    output, final, _ = residual_forward(q, k, v, window, initial_state, cu_seqlens, sizes.chunk, sizes.supertile)
    return output, final


def _runs_triton(q: Tensor) -> bool:
    return q.is_cuda or interpreting()


def interpreting() -> bool:
    """TRITON_INTERPRET=1. RuntimeError if triton was imported before it was set: then kernels are half and half."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from orchard.kernels.residual.triton_kernels import INTERPRETED

    if not INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET=1 was set after triton was imported: set it before the process starts")
    return True


@torch.library.custom_op("orchard::residual_forward", mutates_args=())
def residual_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output [batch, time, heads, d], final state [sequences, kv_heads, 2d, d], saved states [.., kv_heads, 2, d, d]."""
    if not _runs_triton(q):
        output, final = chunked(q, k, v, window, "softmax", initial_state, chunk, cu_seqlens)
        saved = _saved_states(k, v, window, initial_state, cu_seqlens, chunk, supertile)
        return output.contiguous(), final.contiguous(), saved
    from orchard.kernels.residual import launch

    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    start = None if initial_state is None else initial_state.contiguous()
    results, launches = launch.forward(q, k, v, window, start, cu_seqlens, choose_tile(q, k, v, (chunk, supertile)))
    for each in launches:
        each.run()
    return results


@torch.library.custom_op("orchard::residual_backward", mutates_args=())
def residual_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    states: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    window: int,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, in their types, and of the initial state, fp32."""
    if not _runs_triton(q):
        return _backward_twin(q, k, v, states, d_out, d_final, window, cu_seqlens, chunk, supertile)
    from orchard.kernels.residual import launch

    q, k, v, d_out = q.contiguous(), k.contiguous(), v.contiguous(), d_out.contiguous()
    d_final = None if d_final is None else d_final.contiguous()
    tile = choose_tile(q, k, v, (chunk, supertile))
    (d_q, d_k, d_v, d_initial), launches = launch.backward(q, k, v, states, d_out, d_final, window, cu_seqlens, tile)
    for each in launches:
        each.run()
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_initial


@residual_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, kv_heads, dim = k.shape
    packed = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
    total = supertiles(batch, time, packed, chunk, supertile)
    wide = accumulator(q)
    return (
        q.new_empty(q.shape),
        q.new_empty(batch if packed is None else packed, kv_heads, 2 * dim, dim, dtype=wide),
        q.new_empty(total, kv_heads, 2, dim, dim, dtype=wide),
    )


@residual_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    states: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    window: int,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sequences, kv_heads, dim = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1, k.shape[2], k.shape[3]
    start = q.new_empty(sequences, kv_heads, 2 * dim, dim, dtype=accumulator(q))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), start


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, ctx.window, initial_state, cu_seqlens, ctx.chunk, ctx.supertile = inputs
    ctx.has_initial = initial_state is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, cu_seqlens, output[2])


def _gradient(ctx: Any, d_out: Tensor | None, d_final: Tensor | None, d_states: Tensor | None) -> tuple[Any, ...]:
    q, k, v, cu_seqlens, states = ctx.saved_tensors
    d_out = torch.zeros_like(q) if d_out is None else d_out
    d_q, d_k, d_v, d_initial = residual_backward(
        q, k, v, states, d_out, d_final, ctx.window, cu_seqlens, ctx.chunk, ctx.supertile
    )
    return d_q, d_k, d_v, None, d_initial if ctx.has_initial else None, None, None, None


residual_forward.register_autograd(_gradient, setup_context=_save)


def _ends(k: Tensor, cu_seqlens: Tensor | None) -> list[int]:
    """The borders of the sequences in rows laid end to end."""
    batch, time = k.shape[:2]
    return [i * time for i in range(batch + 1)] if cu_seqlens is None else borders(cu_seqlens, time)


def _saved_states(
    k: Tensor,
    v: Tensor,
    window: int,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> Tensor:
    """The state before each supertile as its definition: initial state + all keys folded by then."""
    (batch, time, kv_heads, dim), tokens, wide = k.shape, chunk * supertile, accumulator(k)
    packed = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
    states = torch.zeros(supertiles(batch, time, packed, chunk, supertile), kv_heads, 2, dim, dim, dtype=wide)
    folded = torch.einsum("thf,thd->thfd", feature_map(k.flatten(0, 1)), v.flatten(0, 1).to(wide))
    index, ends = 0, _ends(k, cu_seqlens)
    for i, (a, b) in enumerate(zip(ends, ends[1:], strict=False)):
        state = 0 if initial_state is None else initial_state[i]
        for first in range(0, b - a, tokens):
            before = folded[a : a + max(0, first - window - 1)].sum(0)
            states[index] = (before + state).view(kv_heads, 2, dim, dim)
            index += 1
    return states


def _backward_twin(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    states: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    window: int,
    cu_seqlens: Tensor | None,
    chunk: int,
    supertile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the chunked form; each sequence's initial state is its first saved one."""
    ends, starts, index = _ends(k, cu_seqlens), [], 0
    for a, b in zip(ends, ends[1:], strict=False):
        starts.append(states[index].flatten(1, 2) if b > a else states.new_zeros(k.shape[2], 2 * k.shape[3], k.shape[3]))
        index += -(-(b - a) // (chunk * supertile))
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v, torch.stack(starts))]
        results = chunked(*inputs[:3], window, "softmax", inputs[3], chunk, cu_seqlens)
        weights = (d_out, torch.zeros_like(results[1]) if d_final is None else d_final)
        found = torch.autograd.grad(results, inputs, weights, allow_unused=True, materialize_grads=True)
    d_q, d_k, d_v, d_initial = (x.contiguous() for x in found)
    return d_q, d_k, d_v, d_initial
