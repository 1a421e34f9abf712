"""RAttention: sliding-window attention plus residual linear attention over the tokens that the window has left behind.

    delta = w + 1                          the window sees t-w ... t, the residual part 0 ... t-delta: each token once
    S_t   = S_{t-1} + phi(k_t)^T v_t       o_rla[t] = phi(q_t) S_{t-delta}          raw q, k; sums in fp32
    y     = Wo (RMS_swa(o_swa) + RMS_rla(o_rla))                                    one set of q, k, v projections

Shapes: q [batch, time, heads, head_dim]; k, v [batch, time, kv_heads, head_dim]; the state S, one per kv head,
[batch, kv_heads, features, head_dim], features = 2 head_dim for the paper's phi. Section 3 of the paper (arXiv
2506.15545); `reference.py` holds the definition, this file what trains (chunks) and what decodes (constant memory).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orchard.nn import Attention, Block, RMSNorm, RollingCache, attention
from orchard.nn.attention import Cache
from orchard.papers.rattention.reference import accumulator, check, feature_dim, feature_map, no_autocast, phi

__all__ = [
    "RAttention",
    "ResidualCache",
    "default_chunk",
    "feature_map",
    "local_global",
    "residual_linear_attention",
    "residual_linear_attention_step",
]


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
            first = torch.zeros_like(early) if state is None else _read(early, state, feature_map)
            output = torch.cat([first.to(output.dtype), output], dim=1)
    return output.to(q.dtype), final


def _read(q: Tensor, state: Tensor, feature_map: str) -> Tensor:
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


class ResidualCache(RollingCache):
    """Constant memory: raw keys and values of the last w+1 tokens, and the fp32 state of all tokens before them.

    Keys are kept as they are folded: not rotated, not normalised. With window -1 there are no slots, only the state.
    """

    def __init__(
        self,
        batch: int,
        window: int,
        kv_heads: int,
        head_dim: int,
        feature_map: str = "softmax",
        initial_state: Float[Tensor, "#batch kv_heads features head_dim"] | None = None,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(batch, window, kv_heads, head_dim, device=device, dtype=dtype)
        self.feature_map = feature_map
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch, kv_heads, feature_dim(feature_map, head_dim), head_dim)
        self.state = torch.zeros(shape, device=device, dtype=wide)
        if initial_state is not None:
            self.state = self.state + initial_state.detach().to(self.state)


def residual_linear_attention_step(
    q: Float[Tensor, "batch 1 heads head_dim"],
    k: Float[Tensor, "batch 1 kv_heads head_dim"],
    v: Float[Tensor, "batch 1 kv_heads head_dim"],
    cache: ResidualCache,
    q_scale: Float[Tensor, " head_dim"] | None = None,
    k_scale: Float[Tensor, " head_dim"] | None = None,
) -> Float[Tensor, "batch 1 heads head_dim"]:
    """One token (section 3.6): the token that leaves the window is folded into the state, the new one takes its slot,
    then the state is read. Changes `cache`; the optional scales are those of `RAttention`, for phi alone."""
    check(q, k, cache.slots - 1, cache.feature_map)
    leaving_k, leaving_v = k, v
    if cache.slots:
        slot = cache.position % cache.slots
        leaving_k, leaving_v = cache.k[:, slot : slot + 1], cache.v[:, slot : slot + 1]
    with no_autocast(q):
        if cache.position >= cache.slots:
            key = phi(_scaled(leaving_k, k_scale), cache.feature_map)[:, 0]
            value = leaving_v[:, 0].to(cache.state.dtype)
            cache.state = (cache.state + key[..., :, None] * value[..., None, :]).detach()
        cache.write(k, v)
        return _read(_scaled(q, q_scale), cache.state, cache.feature_map).to(q.dtype)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


class RAttention(Attention):
    """The hybrid layer. Rotary, qk-norm and head_dim^-0.5 belong to the window branch; phi sees raw q and k.

    `window` is required: 0 or more tokens of left context, or -1 for linear attention alone (no window branch, so no
    rotary and no qk-norm either).
    """

    class Config(Attention.Config):
        feature_map: str = "softmax"
        output_norm: RMSNorm.Config | None = RMSNorm.Config(eps=1e-8)  # gain [heads, head_dim]; None = plain sum
        chunk_size: int | None = None  # None = default_chunk(head_dim)
        use_learned_init: bool = False  # state starts from `learned_tokens` keys and values instead of zero
        learned_tokens: int = 128
        use_qk_scale: bool = False  # learned gains per channel on the q and k that phi sees

    def __init__(self, cfg: RAttention.Config) -> None:
        window = cfg.window
        if window is None or window < -1:
            raise ValueError(
                f"RAttention.Config.window is {window}: give the tokens of left context, 0 or more, or -1 for linear "
                "attention alone; full attention leaves no residual, use Attention for it"
            )
        features = feature_dim(cfg.feature_map, 1)  # an unknown map fails here, not in the first step
        if window == -1:
            cfg.set(window=0, rotary=None, qk_norm=None)
        super().__init__(cfg)
        self.window: int = window
        self.feature_map, self.features = cfg.feature_map, features * self.head_dim
        self.chunk_size = default_chunk(self.head_dim) if cfg.chunk_size is None else cfg.chunk_size
        self.swa_norm = self.rla_norm = None
        if cfg.output_norm is not None:
            cfg.output_norm.set(dim=[self.num_heads, self.head_dim])
            self.rla_norm = cfg.output_norm.build()
            self.swa_norm = cfg.output_norm.build() if window >= 0 else None
        shape = (cfg.learned_tokens, self.num_kv_heads, self.head_dim)
        learned = cfg.use_learned_init  # unit variance, as raw k and v have; zeros would make the norm's slope 1e4
        self.init_k = nn.Parameter(torch.randn(shape)) if learned else None
        self.init_v = nn.Parameter(torch.randn(shape)) if learned else None
        self.q_scale = nn.Parameter(torch.ones(self.head_dim)) if cfg.use_qk_scale else None
        self.k_scale = nn.Parameter(torch.ones(self.head_dim)) if cfg.use_qk_scale else None

    def initial_state(self) -> Float[Tensor, "1 kv_heads features head_dim"] | None:
        """h0 = sum of phi(k)^T v over the learned tokens; None, which means zero, without them."""
        if self.init_k is None or self.init_v is None:
            return None
        with no_autocast(self.init_k):
            keys = phi(self.init_k, self.feature_map)
            return torch.einsum("nhf,nhd->hfd", keys, self.init_v.to(keys.dtype))[None]

    def attend(
        self,
        q: Float[Tensor, "batch time heads head_dim"],
        k: Float[Tensor, "batch time kv_heads head_dim"],
        v: Float[Tensor, "batch time kv_heads head_dim"],
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """RMS_swa(o_swa) + RMS_rla(o_rla). With a cache the tokens follow those it has seen."""
        if cache is not None and not isinstance(cache, ResidualCache):
            raise TypeError(f"RAttention got a {type(cache).__name__}: make the cache with its own new_cache()")
        positions, end = self.positions(q, cache)
        rla, k, v, keys = self._residual(q, k, v, positions, cache)
        if self.rla_norm is not None:
            rla = self.rla_norm(rla)
        if self.window < 0:
            return rla
        q, k = self.place(q, self.q_norm, positions, end), self.place(k, self.k_norm, keys, end)
        decoding = cache is not None and q.shape[1] == 1  # then every key is in the window, in the order of the slots
        swa = attention(q, k, v, None if decoding else self.window, k.shape[1] - q.shape[1], self.backend)
        return rla + (swa if self.swa_norm is None else self.swa_norm(swa))

    def _residual(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, cache: ResidualCache | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """o_rla of the new tokens; then the raw keys, the values and the positions that the window branch runs over."""
        if cache is None:
            state = self.initial_state()
            return self._parallel(q, k, v, self.window, state)[0], k, v, positions
        if q.shape[1] == 1:
            rla = residual_linear_attention_step(q, k, v, cache, self.q_scale, self.k_scale)
            held = min(cache.position, cache.slots)
            return rla, cache.k[:, :held].to(k.dtype), cache.v[:, :held].to(v.dtype), cache.positions[:held]
        past_k, past_v, past = cache.past(cache.slots)
        cache.write(k, v)
        k, v = torch.cat([past_k.to(k.dtype), k], dim=1), torch.cat([past_v.to(v.dtype), v], dim=1)
        # The tokens of the ring are the first to leave the window now, so the residual part lags by that many fewer.
        new, window = q.shape[1], self.window - len(past)
        rla, state = self._parallel(q, k[:, :new], v[:, :new], window, cache.state)
        cache.state = state.detach()
        return rla, k, v, torch.cat([past, positions])

    def _parallel(self, q: Tensor, k: Tensor, v: Tensor, window: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k = _scaled(q, self.q_scale), _scaled(k, self.k_scale)
        rla, final = residual_linear_attention(q, k, v, window, self.feature_map, state, self.chunk_size)
        return rla.to(v.dtype), final

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype
    ) -> ResidualCache:
        """An empty cache for `batch` sequences; its size does not depend on `max_length`."""
        if batch < 1 or max_length < 1:
            raise ValueError(f"new_cache(batch={batch}, max_length={max_length}): both must be at least 1")
        return ResidualCache(
            batch, self.window, self.num_kv_heads, self.head_dim, self.feature_map, self.initial_state(),
            device=device, dtype=dtype,
        )  # fmt: skip

    def cache_bytes(self, length: int, bytes_per_element: int) -> int:
        """Bytes per sequence after `length` tokens: the window's keys and values, and the state once it is not h0."""
        state = 4 * self.num_kv_heads * self.features * self.head_dim if length > self.window + 1 else 0
        return super().cache_bytes(length, bytes_per_element) + state

    def flops_per_token(self, length: int) -> float:
        """As Attention, plus 2H F d (read) + 2Hk F d (fold) + 2H C (F + d) (within a chunk of C) for each token beyond
        the window; F features. The chunked form computes whole C x C tiles, so they are counted whole (section 3.7)."""
        active = max(length - self.window - 1, 0)
        chunk = min(self.chunk_size, active)
        states = 2 * (self.num_heads + self.num_kv_heads) * self.features * self.head_dim
        tiles = 2 * self.num_heads * chunk * (self.features + self.head_dim)
        return super().flops_per_token(length) + (states + tiles) * active / length


def local_global(local: Block.Config, global_: Block.Config, num_layers: int, period: int = 4) -> list[Block.Config]:
    """One config per layer: layer l, counted from 1, is `global_` if l mod period = 0, else `local` (section 3.2)."""
    if num_layers < 1 or period < 1:
        raise ValueError(f"local_global(num_layers={num_layers}, period={period}): both must be at least 1")
    return [(local if layer % period else global_).clone() for layer in range(1, num_layers + 1)]
