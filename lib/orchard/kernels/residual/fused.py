"""Residual linear attention as a `torch.library` operator: the Triton kernels behind autograd, torch.compile and meta.

`orchard::residual_forward` gives output, final state and the states saved before each supertile, which its gradient,
`orchard::residual_backward`, starts from. On a GPU both run the kernels. On the CPU they are their plain-PyTorch twins
(the chunked form), or the kernels in Triton's interpreter if TRITON_INTERPRET=1 was set before triton was imported.
RAttention (arXiv 2506.15545), section 3; the paper's feature map only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
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


def _run(launches: Sequence[Any], q: Tensor) -> None:
    """In order, on the device of q, which need not be the current one."""
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        for each in launches:
            each.run()


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


@torch.library.custom_op(
    "orchard::residual_forward",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, int window, Tensor? initial_state, Tensor? cu_seqlens, int chunk, "
    "int supertile) -> (Tensor, Tensor, Tensor)",
)
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
    _run(launches, q)
    return results


@torch.library.custom_op(
    "orchard::residual_backward",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor states, Tensor d_out, Tensor? d_final, int window, "
    "Tensor? cu_seqlens, int chunk, int supertile) -> (Tensor, Tensor, Tensor, Tensor)",
)
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
    _run(launches, q)
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
    for i, (a, b) in enumerate(pairwise(ends)):
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
    """The gradients of linear attention are linear attentions, two of them backwards in time (delta = window + 1):

    dphi(q)_t = sum_{s <= t - delta} (dO_t v_s^T) phi(k)_s + dO_t h0^T          h0: the first saved state
    dphi(k)_s = sum_{t >= s + delta} (v_s dO_t^T) phi(q)_t + v_s dS^T           dS: gradient of the final state
    dv_s      = sum_{t >= s + delta} (phi(k)_s phi(q)_t^T) dO_t + phi(k)_s dS,  0 for tokens that are never folded
    dh0       = sum_t phi(q)_t^T dO_t + dS
    """
    (heads, dim), kv_heads = q.shape[2:], k.shape[2]
    groups, wide, ends = heads // kv_heads, accumulator(q), _ends(k, cu_seqlens)
    reverse = None if cu_seqlens is None else q.shape[1] - cu_seqlens.flip(0)
    starts, index = [], 0
    for a, b in pairwise(ends):
        starts.append(states[index] if b > a else torch.zeros_like(states[0]))
        index += -(-(b - a) // (chunk * supertile))
    start = torch.stack(starts)
    end = torch.zeros_like(start) if d_final is None else d_final.unflatten(2, (2, dim)).to(wide)
    folded = torch.cat([torch.arange(b - a) < b - a - window - 1 for a, b in pairwise(ends)])
    folded = folded.view(*k.shape[:2], 1, 1)
    grad, value = d_out.to(wide), v.to(wide)

    def backwards(x: Tensor, y: Tensor, z: Tensor, state: Tensor) -> Tensor:
        """Every query head reads its share of the kv head's state; a group's reads are added up."""
        x, state = x.repeat_interleave(groups, 2).flip(1), state.repeat_interleave(groups, 1) / groups
        if reverse is not None:  # the sequences themselves come in the other order
            state = state.flip(0)
        out, _ = chunked(x, y.flip(1), z.flip(1), window, "identity", state, chunk, reverse)
        return out.flip(1).unflatten(2, (kv_heads, groups)).sum(3) * folded

    d_q, d_k, d_v = torch.zeros_like(grad), torch.zeros_like(value), torch.zeros_like(value)
    d_starts = []
    for half, sign in enumerate((1, -1)):
        phi_q, phi_k = ((sign * x.to(wide)).softmax(-1) for x in (q, k))
        h0, ds = start[:, :, half], end[:, :, half]
        d_phi, _ = chunked(grad, value, phi_k, window, "identity", h0.transpose(-1, -2), chunk, cu_seqlens)
        d_q += sign * _softmax_backward(phi_q, d_phi)
        d_k += sign * _softmax_backward(phi_k, backwards(value, grad, phi_q, ds.transpose(-1, -2)))
        d_v += backwards(phi_k, phi_q, grad, ds)
        outer = [
            torch.einsum(
                "thgf,thgd->hfd", *(x.flatten(0, 1)[a:b].unflatten(1, (kv_heads, groups)) for x in (phi_q, grad))
            )
            for a, b in pairwise(ends)
        ]
        d_starts.append(torch.stack(outer) + ds)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), torch.cat(d_starts, dim=2)


def _softmax_backward(y: Tensor, dy: Tensor) -> Tensor:
    return y * (dy - (y * dy).sum(-1, keepdim=True))
