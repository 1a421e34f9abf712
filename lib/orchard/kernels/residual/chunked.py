"""Residual linear attention in chunks: plain PyTorch, differentiable, on any device; time and memory linear in length.

    S_n = state + sum of the chunks before n;    O_n = phi(Q_n) S_n + tril(phi(Q_n) phi(K_n)^T) V_n

RAttention (arXiv 2506.15545), section 3; `naive.py` holds the definition. Sums and states are fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orchard.kernels.residual.naive import accumulator, check, feature_dim, no_autocast, phi


def default_chunk(head_dim: int) -> int:
    """Tokens per chunk. Forward and backward on one core, ms, C = 16 / 32 / 64 / 128 (B, T, H, Hk in brackets):
    head_dim 16: 5.9 / 6.4 / 13 / 19 (16, 256, 4, 2);  32: 4.0 / 3.3 / 4.5 / 6.5 (4, 256, 4, 2);
    64: 77 / 33 / 28 / 36 (2, 1024, 6, 2);  128: - / 30 / 22 / 25 (1, 1024, 4, 1)."""
    return min(max(head_dim, 16), 64)


def residual_linear_attention(
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
    window: int,
    feature_map: str = "softmax",
    initial_state: Float[Tensor, "#batch kv_heads features head_dim"] | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, "batch time heads head_dim"], Float[Tensor, "batch kv_heads features head_dim"]]:
    """phi(q_t) S_{t-w-1} for all tokens at once, and the state after the last folded token, T-w-2 (section 3.4).

    Ordinary linear attention between q from token w+1 on and k, v up to token T-w-2; the first w+1 queries read the
    initial state alone. `window = -1` folds the current token too: plain linear attention. Outputs have the type of q,
    sums and state are fp32. `chunk_size=None` takes `default_chunk`. Raises ValueError for a window below -1, query
    heads that do not share out, an unknown feature map, or a chunk size below 1.
    """
    check(q, k, window, feature_map)
    chunk = default_chunk(q.shape[-1]) if chunk_size is None else chunk_size
    if chunk < 1:
        raise ValueError(f"chunk_size={chunk_size}: a chunk holds at least one token, or None for default_chunk")
    lead = min(window + 1, q.shape[1])
    with no_autocast(q):
        state = None if initial_state is None else initial_state.to(accumulator(q)).expand(q.shape[0], -1, -1, -1)
        read = q.shape[1] - lead
        output, final = _inclusive(q[:, lead:], k[:, :read], v[:, :read], state, feature_map, chunk)
        if lead:
            early = q[:, :lead]
            first = torch.zeros_like(early) if state is None else read_state(early, state, feature_map)
            output = torch.cat([first.to(output.dtype), output], dim=1)
    return output.to(q.dtype), final


def read_state(q: Tensor, state: Tensor, feature_map: str) -> Tensor:
    """phi(q) S with one state for all tokens: [B, T, H, d], [B, Hk, F, d] -> [B, T, H, d]."""
    grouped = phi(q, feature_map).unflatten(2, (state.shape[1], -1))
    return torch.einsum("bthgf,bhfd->bthgd", grouped, state).flatten(2, 3)


def _inclusive(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, feature_map: str, chunk: int
) -> tuple[Tensor, Tensor]:
    """o_t = phi(q_t) (state + sum_{s <= t} phi(k_s)^T v_s), chunk by chunk:

        S_n = state + sum of the chunks before n;    O_n = phi(Q_n) S_n + tril(phi(Q_n) phi(K_n)^T) V_n

    The G query heads of a kv head are G*C rows of one matrix, so that every product is one batched matmul.
    """
    batch, time, heads, dim = q.shape
    kv_heads, groups = k.shape[2], heads // k.shape[2]
    chunk = max(1, min(chunk, time))
    chunks = -(-time // chunk)
    if missing := chunks * chunk - time:  # phi(0) is not zero, v = 0 is: the tokens added here leave the state alone
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v))

    rows, features = batch * kv_heads * chunks, feature_dim(feature_map, dim)
    q = q.unflatten(1, (chunks, chunk)).unflatten(3, (kv_heads, groups)).permute(0, 3, 1, 4, 2, 5)
    k, v = (x.unflatten(1, (chunks, chunk)).permute(0, 3, 1, 2, 4) for x in (k, v))
    fq = phi(q, feature_map).reshape(rows, groups * chunk, features)
    fk = phi(k, feature_map).reshape(rows, chunk, features)
    v = v.to(fk.dtype).reshape(rows, chunk, dim)

    folded = torch.bmm(fk.transpose(1, 2), v).view(batch, kv_heads, chunks, features, dim)
    if state is None:
        state = folded.new_zeros(batch, kv_heads, features, dim)
    states = torch.cat([state[:, :, None], folded], dim=2).cumsum(dim=2)
    before = states[:, :, :-1].reshape(rows, features, dim)

    seen = torch.ones(chunk, chunk, dtype=fk.dtype, device=fk.device).tril_()
    scores = torch.bmm(fq, fk.transpose(1, 2)).view(rows, groups, chunk, chunk).mul_(seen)
    output = torch.baddbmm(torch.bmm(fq, before), scores.view(rows, groups * chunk, chunk), v)
    output = output.view(batch, kv_heads, chunks, groups, chunk, dim).permute(0, 2, 4, 1, 3, 5)
    return output.reshape(batch, chunks * chunk, heads, dim)[:, :time], states[:, :, -1]
