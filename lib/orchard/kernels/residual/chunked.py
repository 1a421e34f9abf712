"""Residual linear attention in chunks: plain PyTorch, differentiable, on any device; time and memory linear in length.

    S_n = state + sum of the chunks before n;    O_n = phi(Q_n) S_n + tril(phi(Q_n) phi(K_n)^T) V_n

RAttention (arXiv 2506.15545), section 3; `naive.py` holds the definition. Sums and states are fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from orchard.kernels.residual.naive import accumulator, borders, check, check_shapes, feature_dim, no_autocast, phi


def default_chunk(head_dim: int) -> int:
    """Tokens per chunk. Forward and backward on one core, ms, C = 16 / 32 / 64 / 128 (B, T, H, Hk in brackets):
    head_dim 16: 5.9 / 6.4 / 13 / 19 (16, 256, 4, 2);  32: 4.0 / 3.3 / 4.5 / 6.5 (4, 256, 4, 2);
    64: 77 / 33 / 28 / 36 (2, 1024, 6, 2);  128: - / 30 / 22 / 25 (1, 1024, 4, 1)."""
    return min(max(head_dim, 16), 64)


def chunked(
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
    window: int,
    feature_map: str = "softmax",
    initial_state: Float[Tensor, "#sequences kv_heads features head_dim"] | None = None,
    chunk_size: int | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch time heads head_dim"], Float[Tensor, "sequences kv_heads features head_dim"]]:
    """phi(q_t) S_{t-w-1} for all tokens at once, and the state after the last folded token, T-w-2 (section 3.4).

    Ordinary linear attention between q from token w+1 on and k, v up to token T-w-2; the first w+1 queries read the
    initial state alone. `window = -1` folds the current token too: plain linear attention. Outputs have the type of q,
    sums and state are fp32. `chunk_size=None` takes `default_chunk`. Packed sequences need the values of `cu_seqlens`,
    so they cannot be traced. Raises ValueError for a window below -1, shapes that do not fit together, an unknown
    feature map, a chunk size below 1, or borders that do not rise from 0 to T.
    """
    check(q, k, window, feature_map)
    check_shapes(q, k, v, feature_map, initial_state, cu_seqlens)
    chunk = default_chunk(q.shape[-1]) if chunk_size is None else chunk_size
    if chunk < 1:
        raise ValueError(f"chunk_size={chunk_size}: a chunk holds at least one token, or None for default_chunk")
    lead = min(window + 1, q.shape[1])
    sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    with no_autocast(q):
        state = None if initial_state is None else initial_state.to(accumulator(q)).expand(sequences, -1, -1, -1)
        if cu_seqlens is not None:
            output, final = _packed(q, k, v, lead, state, feature_map, chunk, borders(cu_seqlens, q.shape[1]))
            return output.to(q.dtype), final
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
    """o_t = phi(q_t) (state + sum_{s <= t} phi(k_s)^T v_s) for sequences of one length."""
    batch, time = q.shape[:2]
    chunk = max(1, min(chunk, time))
    chunks = -(-time // chunk)
    if missing := chunks * chunk - time:  # phi(0) is not zero, v = 0 is: the tokens added here leave the state alone
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v))

    def scan(folded: Tensor) -> tuple[Tensor, Tensor]:
        folded = folded.unflatten(0, (batch, chunks))
        start = folded.new_zeros(batch, *folded.shape[2:]) if state is None else state
        states = torch.cat([start[:, None], folded], dim=1).cumsum(dim=1)
        return states[:, :-1].flatten(0, 1), states[:, -1]

    q, k, v = (x.reshape(batch * chunks, chunk, *x.shape[2:]) for x in (q, k, v))
    output, final = _chunks(q, k, v, feature_map, scan)
    return output.reshape(batch, chunks * chunk, *output.shape[2:])[:, :time], final


def _packed(
    q: Tensor, k: Tensor, v: Tensor, lead: int, state: Tensor | None, feature_map: str, chunk: int, ends: list[int]
) -> tuple[Tensor, Tensor]:
    """Packed sequences: chunks that start with each sequence, queries beside the keys of `lead` tokens earlier.

    A chunk holds tokens of one sequence; missing tokens are zeros, also where a neighbour's would stand, so that not
    even a NaN travels. The sums run along each sequence alone.
    """
    lengths = [b - a for a, b in pairwise(ends)]
    counts = [-(-length // chunk) for length in lengths]
    device = q.device
    repeats = torch.tensor(counts, device=device)
    number = torch.cat([torch.arange(count, device=device) for count in counts])  # of the chunk in its sequence
    start, length = (torch.tensor(x, device=device).repeat_interleave(repeats)[:, None] for x in (ends[:-1], lengths))
    place = number[:, None] * chunk + torch.arange(chunk, device=device)  # [chunks, chunk] in the sequence

    def rows(x: Tensor, place: Tensor, tokens: Tensor) -> Tensor:
        inside = (place >= 0) & (place < tokens)
        found = x[0].index_select(0, (start + place.clamp(min=0)).clamp(max=x.shape[1] - 1).flatten())
        return found.unflatten(0, place.shape).masked_fill(~inside[..., None, None], 0)

    def scan(folded: Tensor) -> tuple[Tensor, Tensor]:
        starts = folded.new_zeros(len(counts), *folded.shape[1:]) if state is None else state
        sums = [
            torch.cat([first[None], part]).cumsum(dim=0)
            for first, part in zip(starts, folded.split(counts), strict=True)
        ]
        return torch.cat([x[:-1] for x in sums]), torch.stack([x[-1] for x in sums])

    keys, values = (rows(x, place - lead, length - lead) for x in (k, v))
    output, final = _chunks(rows(q, place, length), keys, values, feature_map, scan)
    return output[place < length][None], final


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, feature_map: str, scan: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """O_n = phi(Q_n) S_n + tril(phi(Q_n) phi(K_n)^T) V_n for q [n, C, H, d], k and v [n, C, Hk, d]. `scan` takes what
    each chunk folds, [n, Hk, F, d], to the states before each, of the same shape, and the final ones.

    The G query heads of a kv head are G*C rows of one matrix, so that every product is one batched matmul.
    """
    chunks, chunk, heads, dim = q.shape
    kv_heads, groups = k.shape[2], heads // k.shape[2]
    rows, features = chunks * kv_heads, feature_dim(feature_map, dim)
    fq = phi(q.unflatten(2, (kv_heads, groups)).permute(0, 2, 3, 1, 4), feature_map)
    fq = fq.reshape(rows, groups * chunk, features)
    fk = phi(k.transpose(1, 2), feature_map).reshape(rows, chunk, features)
    v = v.transpose(1, 2).to(fk.dtype).reshape(rows, chunk, dim)

    before, final = scan(torch.bmm(fk.transpose(1, 2), v).view(chunks, kv_heads, features, dim))

    seen = torch.ones(chunk, chunk, dtype=fk.dtype, device=fk.device).tril_()
    scores = torch.bmm(fq, fk.transpose(1, 2)).view(rows, groups, chunk, chunk).mul_(seen)
    output = torch.baddbmm(
        torch.bmm(fq, before.reshape(rows, features, dim)), scores.view(rows, groups * chunk, chunk), v
    )
    return output.view(chunks, kv_heads, groups, chunk, dim).permute(0, 3, 1, 2, 4).flatten(2, 3), final
