"""Other linear recurrences for the residual branch: scalar decay and the gated delta rule, token by token and in chunks.

    decay         S_t = a_t S_{t-1} + k_t^T v_t                                  Mamba2, simple GLA: one a_t per head
    gated delta   S_t = a_t S_{t-1} + b_t k_t^T (v_t - k_t a_t S_{t-1})          Gated DeltaNet
    read-out      o_t = q_t S_t                                                  inclusive: `residual` makes it lag

q [batch, time, heads, features] and k [batch, time, kv_heads, features] are features already; v [batch, time, kv_heads,
value_dim]; log a and b [batch, time, kv_heads]; S [batch, kv_heads, features, value_dim]. Sums are fp32. With a = 1 the
first is plain linear attention. Sources: Dao and Gu 2024, arXiv 2405.21060; Yang et al. 2024, arXiv 2412.06464. The
paper's "Mamba2" row (its Table 4) does not say how its gates are made.

On a GPU half-precision inputs go to the Triton kernels of flash-linear-attention where that package is installed; the
forms below are what trains elsewhere.
"""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from orchard.kernels.residual import accumulator, no_autocast

HAS_FLA = importlib.util.find_spec("fla") is not None


def recurrent(
    q: Float[Tensor, "batch time heads features"],
    k: Float[Tensor, "batch time kv_heads features"],
    v: Float[Tensor, "batch time kv_heads value_dim"],
    log_decay: Float[Tensor, "batch time kv_heads"] | None = None,
    beta: Float[Tensor, "batch time kv_heads"] | None = None,
    state: Float[Tensor, "#batch kv_heads features value_dim"] | None = None,
) -> tuple[Float[Tensor, "batch time heads value_dim"], Float[Tensor, "batch kv_heads features value_dim"]]:
    """The definition, token by token; without `beta` nothing is erased. Returns the outputs and the last state."""
    wide = accumulator(q)
    now = _start_state(k, v, state, wide)
    outputs = []
    for t in range(q.shape[1]):
        if log_decay is not None:
            now = now * log_decay[:, t].to(wide).exp()[..., None, None]
        key, value = k[:, t].to(wide), v[:, t].to(wide)
        if beta is not None:
            value = beta[:, t].to(wide)[..., None] * (value - torch.einsum("bhf,bhfd->bhd", key, now))
        now = now + key[..., :, None] * value[..., None, :]
        grouped = q[:, t].to(wide).unflatten(1, (k.shape[2], -1))
        outputs.append(torch.einsum("bhgf,bhfd->bhgd", grouped, now).flatten(1, 2))
    return torch.stack(outputs, dim=1).to(v.dtype), now


def chunked(
    q: Float[Tensor, "batch time heads features"],
    k: Float[Tensor, "batch time kv_heads features"],
    v: Float[Tensor, "batch time kv_heads value_dim"],
    log_decay: Float[Tensor, "batch time kv_heads"] | None = None,
    beta: Float[Tensor, "batch time kv_heads"] | None = None,
    state: Float[Tensor, "#batch kv_heads features value_dim"] | None = None,
    chunk: int = 64,
) -> tuple[Float[Tensor, "batch time heads value_dim"], Float[Tensor, "batch kv_heads features value_dim"]]:
    """The same in chunks; `log_decay=None` is a = 1. With g the sum of log a within a chunk:

        O = e^g Q S_n + tril(Q K^T * e^(g_i - g_j)) V'         S_{n+1} = e^(g_C) S_n + (e^(g_C - g) K)^T V'

    Without `beta` V' = V. With it |k| must be at most 1, or the state grows; the corrections of later tokens by earlier
    ones are one triangular system (the WY form):

        (I + stril(b K K^T * e^(g_i - g_j))) [U W] = [b V, b e^g K]     V' = U - W S_n
    """
    if log_decay is not None and _fits_fla(v):
        gates = {} if beta is None else {"beta": beta.to(v.dtype)}
        name = "simple_gla" if beta is None else "gated_delta_rule"
        return _by_fla(name, q, k, v, state, g=log_decay.float(), **gates)
    with no_autocast(q):
        parts = _Chunks(q, k, v, log_decay, state, chunk)
        own, erased = parts.v, None
        if beta is not None:
            strength = parts.cut(beta)[..., None]
            system = strength * (parts.k @ parts.k.transpose(-1, -2)) * parts.between  # the diagonal is taken as one
            right = torch.cat([strength * parts.v, strength * parts.passed[..., None] * parts.k], dim=-1)
            solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
            own, erased = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        keys = (parts.k * parts.left[..., None]).transpose(-1, -2)
        now, before, values = parts.state, [], []
        for n in range(parts.count):
            before.append(now)
            values.append(own[:, :, n] if erased is None else own[:, :, n] - erased[:, :, n] @ now)
            now = now * parts.whole[:, :, n] + keys[:, :, n] @ values[-1]
        return parts.read(torch.stack(before, dim=2), torch.stack(values, dim=2)), now


def residual(
    q: Float[Tensor, "batch time heads features"],
    k: Float[Tensor, "batch time kv_heads features"],
    v: Float[Tensor, "batch time kv_heads value_dim"],
    window: int,
    state: Float[Tensor, "#batch kv_heads features value_dim"] | None,
    log_decay: Float[Tensor, "batch time kv_heads"] | None = None,
    beta: Float[Tensor, "batch time kv_heads"] | None = None,
    chunk: int = 64,
) -> tuple[Float[Tensor, "batch time heads value_dim"], Float[Tensor, "batch kv_heads features value_dim"]]:
    """`chunked`, read `window` + 1 tokens late: o_t = q_t S_{t - window - 1}. Queries before that read `state` alone."""
    lead = min(window + 1, q.shape[1])
    read = q.shape[1] - lead
    with no_autocast(q):
        start = _start_state(k, v, state, accumulator(q))
        early = torch.einsum("bthgf,bhfd->bthgd", q[:, :lead].to(start).unflatten(2, (k.shape[2], -1)), start)
        early = early.flatten(2, 3).to(v.dtype)
        if not read:
            return early, start
        decay, strength = (None if gate is None else gate[:, :read] for gate in (log_decay, beta))
        late, final = chunked(q[:, lead:], k[:, :read], v[:, :read], decay, strength, start, chunk)
        return torch.cat([early, late], dim=1), final


def _fits_fla(v: Tensor) -> bool:
    """Whether fla's kernels are there and take these values: half precision on a GPU."""
    return HAS_FLA and v.is_cuda and v.dtype in (torch.bfloat16, torch.float16)


def _by_fla(name: str, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, **gates: Tensor) -> tuple[Tensor, Tensor]:
    from orchard.papers.rattention.method.opaque import fla_kernel

    return fla_kernel(name, q, k, v, _start_state(k, v, state, torch.float32), **gates)


def _start_state(k: Tensor, v: Tensor, state: Tensor | None, wide: torch.dtype) -> Tensor:
    shape = (len(k), k.shape[2], k.shape[3], v.shape[3])
    return torch.zeros(shape, dtype=wide, device=k.device) if state is None else state.to(wide).expand(shape)


class _Chunks:
    """Operands cut into chunks: [batch, kv_heads, chunks, tokens, dim], the G query heads of a kv head as G C rows.

    Tokens added at the end have k = v = 0 and a = 1, so they leave the state alone.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, state: Tensor | None, chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: a chunk holds at least one token")
        self.wide, self.dtype, self.time, self.size = accumulator(q), v.dtype, q.shape[1], min(chunk, q.shape[1])
        self.state = _start_state(k, v, state, self.wide)
        grouped = rearrange(q, "b t (h g) d -> b t h g d", h=k.shape[2])
        self.q = rearrange(self.cut(grouped), "b h n c g d -> b h n g c d")
        self.k, self.v = self.cut(k), self.cut(v)
        self.count = self.k.shape[2]
        steps = self.cut(torch.zeros(k.shape[:3], device=k.device) if decay is None else decay)
        total = steps.cumsum(-1)
        later = torch.ones(self.size, self.size, dtype=torch.bool, device=q.device).triu(1)
        self.passed = total.exp()  # from before the chunk to each token
        self.left = (total[..., -1:] - total).exp()  # from each token to the end
        self.whole = total[..., -1].exp()[..., None, None]
        gaps = total[..., :, None] - total[..., None, :]
        self.between = gaps.masked_fill(later, -torch.inf).exp()  # masked before exp: gaps of later tokens are positive

    def cut(self, x: Tensor) -> Tensor:
        """[batch, time, kv_heads, ...] -> [batch, kv_heads, chunks, tokens, ...]"""
        x = F.pad(x.to(self.wide), (0, 0) * (x.ndim - 2) + (0, -self.time % self.size))
        return rearrange(x, "b (n c) h ... -> b h n c ...", c=self.size)

    def read(self, before: Tensor, values: Tensor) -> Tensor:
        """Outputs from the state before each chunk and the values within it."""
        scores = self.q @ self.k[:, :, :, None].transpose(-1, -2) * self.between[:, :, :, None]
        out = (self.q * self.passed[:, :, :, None, :, None]) @ before[:, :, :, None] + scores @ values[:, :, :, None]
        return rearrange(out, "b h n g c d -> b (n c) (h g) d")[:, : self.time].to(self.dtype)
