"""RAttention: sliding-window attention plus residual linear attention over the tokens that the window has left behind.

    delta = w + 1                          the window sees t-w ... t, the residual part 0 ... t-delta: each token once
    S_t   = S_{t-1} + phi(k_t)^T v_t       o_rla[t] = phi(q_t) S_{t-delta}          raw q, k; sums in fp32
    y     = Wo (RMS_swa(o_swa) + RMS_rla(o_rla))                                    one set of q, k, v projections

Shapes: q [batch, time, heads, head_dim]; k, v [batch, time, kv_heads, head_dim]; the state S, one per kv head,
[batch, kv_heads, features, head_dim], features = 2 head_dim for the paper's phi. Section 3 of the paper (arXiv
2506.15545); `orchard.kernels.residual` holds definition and fast forms, this file the layer and decoding in constant memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchard.kernels.residual import (
    check,
    default_chunk,
    feature_dim,
    feature_map,
    no_autocast,
    read_state,
    residual_linear_attention,
)
from orchard.nn import Attention, Block, Packed, RMSNorm, RollingCache, attention
from orchard.nn.attention import Cache


class ResidualCache(RollingCache):
    """Constant memory: raw keys and values of the last `slots` tokens, and the state of all tokens before them, in fp32.

    Keys are kept as they are folded: not rotated, not normalised. RAttention has w+1 slots; with window -1 there are
    none, only the state. `extra` channels stand behind each key where a layer keeps more of a token (the variants).
    """

    def __init__(
        self, state: Float[Tensor, "batch kv_heads features value_dim"], slots: int, head_dim: int,
        feature_map: str = "softmax", extra: int = 0, *, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        batch, kv_heads = state.shape[:2]
        super().__init__(batch, slots - 1, kv_heads, head_dim, device=state.device, dtype=dtype)
        self.k = self.k.new_zeros(batch, slots, kv_heads, head_dim + extra)
        self.state, self.feature_map = state, feature_map

    check_cut = Cache.check_cut  # what was folded into a state stays there

    def extend(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store new tokens; keys, values and positions of what was held before them, oldest first, and of themselves."""
        past_k, past_v, past = self.past(self.slots)
        self.write(k, v)
        k, v = torch.cat([past_k.to(k.dtype), k], dim=1), torch.cat([past_v.to(v.dtype), v], dim=1)
        return k, v, torch.cat([past, positions])


def residual_linear_attention_step(
    q: Float[Tensor, "batch 1 heads head_dim"],
    k: Float[Tensor, "batch 1 kv_heads head_dim"],
    v: Float[Tensor, "batch 1 kv_heads head_dim"],
    cache: ResidualCache,
    q_scale: Float[Tensor, " head_dim"] | None = None,
    k_scale: Float[Tensor, " head_dim"] | None = None,
) -> Float[Tensor, "batch 1 heads head_dim"]:
    """One token: the token that leaves the window is folded into the state, the new one takes its slot,
    then the state is read. Changes `cache`; the optional scales are those of `RAttention`, for phi alone."""
    check(q, k, cache.slots - 1, cache.feature_map)
    leaving_k, leaving_v = k, v
    if cache.slots:
        slot = cache.position % cache.slots
        leaving_k, leaving_v = cache.k[:, slot : slot + 1], cache.v[:, slot : slot + 1]
    with no_autocast(q):
        if cache.position >= cache.slots:
            key = feature_map(_scaled(leaving_k, k_scale), cache.feature_map)[:, 0]
            value = leaving_v[:, 0].to(cache.state.dtype)
            cache.state = (cache.state + key[..., :, None] * value[..., None, :]).detach()
        cache.write(k, v)
        return read_state(_scaled(q, q_scale), cache.state, cache.feature_map).to(q.dtype)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _normed(x: Tensor, norm: RMSNorm | None) -> Tensor:
    return x if norm is None else norm(x)


class RAttention(Attention):
    """The hybrid layer. Rotary, qk-norm and head_dim^-0.5 belong to the window branch; phi sees raw q and k.

    `window` is required: 0 or more tokens of left context, or -1 for linear attention alone (no window branch, so no
    rotary and no qk-norm either).
    """

    only_causal = True
    cache_kind = ResidualCache
    takes_packed = True
    extra = 0  # channels per token and kv head that a variant's branch alone needs

    class Config(Attention.Config):
        feature_map: str = "softmax"
        output_norm: RMSNorm.Config | None = RMSNorm.Config(eps=1e-8)  # gain [heads, head_dim]; None = plain sum
        rla_gain: float = 1.0  # of the residual branch's norm at the start; the paper's is 1
        chunk_size: int | None = None  # None: what each form takes, default_chunk(head_dim) or a kernel's tile
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
        self.delay = window + 1  # the branch at t reads tokens 0 ... t-delay
        self.state_heads = self.num_kv_heads  # a state and a ring each
        self.feature_map, self.features, self.value_dim = cfg.feature_map, features * self.head_dim, self.head_dim
        self.chunk_size = cfg.chunk_size
        self.swa_norm = self.rla_norm = None
        if cfg.output_norm is None and cfg.rla_gain != 1:
            raise ValueError(
                f"RAttention.Config.rla_gain is {cfg.rla_gain} without output_norm: leave it at 1, or give the norm"
            )
        if cfg.output_norm is not None:
            cfg.output_norm.set(dim=[self.num_heads, self.head_dim])
            self.rla_norm = cfg.output_norm.build()
            nn.init.constant_(self.rla_norm.gain, cfg.rla_gain)
            self.swa_norm = cfg.output_norm.build() if window >= 0 else None
        shape = (cfg.learned_tokens, self.num_kv_heads, self.head_dim)
        learned = cfg.use_learned_init  # unit variance, as raw k and v have; zeros would make the norm's slope 1e4
        self.init_k = nn.Parameter(torch.randn(shape)) if learned else None
        self.init_v = nn.Parameter(torch.randn(shape)) if learned else None
        self.q_scale = nn.Parameter(torch.ones(self.head_dim)) if cfg.use_qk_scale else None
        self.k_scale = nn.Parameter(torch.ones(self.head_dim)) if cfg.use_qk_scale else None

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens per chunk of the plain PyTorch form."""
        return default_chunk(self.head_dim) if self.chunk_size is None else self.chunk_size

    def initial_state(self) -> Float[Tensor, "1 kv_heads features head_dim"] | None:
        """h0 = sum of phi(k)^T v over the learned tokens; None, which means zero, without them."""
        if self.init_k is None or self.init_v is None:
            return None
        with no_autocast(self.init_k):
            keys = feature_map(self.init_k, self.feature_map)
            return torch.einsum("nhf,nhd->hfd", keys, self.init_v.to(keys.dtype))[None]

    def attend(
        self,
        q: Float[Tensor, "batch time heads head_dim"],
        k: Float[Tensor, "batch time kv_heads head_dim"],
        v: Float[Tensor, "batch time kv_heads head_dim"],
        cache: Cache | None = None,
        packed: Packed | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """RMS_swa(o_swa) + RMS_rla(o_rla). With a cache the tokens follow those it has seen."""
        cache = self.own_cache(cache, packed)
        positions, end = self.positions(q, cache, packed)
        rla, k, v, keys = self._residual(q, k, v, positions, cache, packed)
        if self.window < 0:
            return _normed(rla, self.rla_norm)
        q, k = self.place(q, self.q_norm, positions, end), self.place(k, self.k_norm, keys, end)
        decoding = cache is not None and q.shape[1] == 1  # then every key is in the window, in the order of the slots
        swa = attention(q, k, v, None if decoding else self.window, k.shape[1] - q.shape[1], self.backend, packed)
        return self.combine(swa, rla)

    def combine(self, swa: Tensor, rla: Tensor) -> Tensor:
        """RMS_swa(o_swa) + RMS_rla(o_rla)"""
        return _normed(swa, self.swa_norm) + _normed(rla, self.rla_norm)

    def own_cache(self, cache: Cache | None, packed: Packed | None) -> ResidualCache | None:
        """The cache, if this kind of layer made it, else TypeError; ValueError for documents that it cannot keep apart."""
        kind = type(self).__name__
        if packed is not None and not self.takes_packed:
            raise ValueError(f"{kind} does not take packed documents: give one document per row, or use RAttention")
        if cache is not None and type(cache) is not self.cache_kind:
            raise TypeError(f"{kind} got a {type(cache).__name__}: make the cache with its own new_cache()")
        return cache

    def _residual(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, cache: ResidualCache | None, packed: Packed | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """o_rla of the new tokens; then the raw keys, the values and the positions that the window branch runs over."""
        if cache is None:
            state = self.initial_state()
            return self._parallel(q, k, v, self.window, state, packed)[0], k, v, positions
        if q.shape[1] == 1:
            rla = residual_linear_attention_step(q, k, v, cache, self.q_scale, self.k_scale)
            held = min(cache.position, cache.slots)
            return rla, cache.k[:, :held].to(k.dtype), cache.v[:, :held].to(v.dtype), cache.positions[:held]
        new = q.shape[1]
        k, v, keys = cache.extend(k, v, positions)
        # The tokens of the ring are the first to leave the window now, so the residual part lags by that many fewer.
        rla, state = self._parallel(q, k[:, :new], v[:, :new], self.window - (len(keys) - new), cache.state)
        cache.state = state.detach()
        return rla, k, v, keys

    def _parallel(
        self, q: Tensor, k: Tensor, v: Tensor, window: int, state: Tensor | None, packed: Packed | None = None
    ) -> tuple[Tensor, Tensor]:
        q, k = _scaled(q, self.q_scale), _scaled(k, self.k_scale)
        ends = None if packed is None else packed.cu_seqlens
        rla, final = residual_linear_attention(q, k, v, window, self.feature_map, state, self.chunk_size, ends)
        return rla.to(v.dtype), final

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype, spare: int = 0
    ) -> ResidualCache:
        """An empty cache for `batch` sequences; its size does not depend on `max_length`. Raises ValueError."""
        if batch < 1 or max_length < 1:
            raise ValueError(f"new_cache(batch={batch}, max_length={max_length}): both must be at least 1")
        if spare:
            raise ValueError(
                f"new_cache(spare={spare}): the layer keeps a state, which cannot be cut back: leave spare at 0"
            )
        wide = torch.promote_types(dtype, torch.float32)
        state = torch.zeros(batch, self.state_heads, self.features, self.value_dim, device=device, dtype=wide)
        if (start := self.initial_state()) is not None:
            state = state + start.detach().to(state)
        return self.cache_kind(state, self.slots, self.head_dim, self.feature_map, self.extra, dtype=dtype)

    @property
    def slots(self) -> int:
        """Tokens whose keys a cache keeps: those in the window, and those that the branch does not read yet."""
        return max(self.window + 1, self.delay)

    def cache_bytes(self, length: int, bytes_per_element: int) -> int:
        """Bytes per sequence after `length` tokens: keys and values of the ring, and the state once it is not h0."""
        channels = self.state_heads * (2 * self.head_dim + self.extra)
        state = 4 * self.state_heads * self.features * self.value_dim if length > self.delay else 0
        return min(length, self.slots) * channels * bytes_per_element + state

    def flops_per_token(self, length: int) -> float:
        """As Attention, plus 2H F d (read) + 2Hk F d (fold) + 2H C (F + d) (within a chunk of C) for each token that
        is read late; F features. The chunked form computes whole C x C tiles, so they are counted whole."""
        active = max(length - self.delay, 0)
        chunk = min(self.tokens_per_chunk, active)
        states = 2 * (self.num_heads + self.num_kv_heads) * self.features * self.value_dim
        tiles = 2 * self.num_heads * chunk * (self.features + self.value_dim)
        return super().flops_per_token(length) + (states + tiles) * active / length


def local_global(local: Block.Config, global_: Block.Config, num_layers: int, period: int = 4) -> list[Block.Config]:
    """One config per layer: layer l, counted from 1, is `global_` if l mod period = 0, else `local` as in the paper."""
    if num_layers < 1 or period < 1:
        raise ValueError(f"local_global(num_layers={num_layers}, period={period}): both must be at least 1")
    return [(local if layer % period else global_).clone() for layer in range(1, num_layers + 1)]
