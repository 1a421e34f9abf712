"""Attention, causal by default: full, or over a sliding window; the caches that decoding needs.

    o_t = sum_{i visible to t} softmax_i(q_t . k_i / sqrt(head_dim)) v_i

**One window convention.** `window = w` is the number of tokens of left context; the current token is not counted.
Token t sees the tokens t-w .. t, which are w+1 of them. None sees everything before it, 0 only itself. Libraries that
count the token itself are converted by `window_including_self`, nowhere else. Attention that is not causal sees as
many tokens to the right.

Tensors are [batch, time, heads, head_dim]; `H` query heads share `Hk` key-value heads in groups (query head h reads
key-value head h // (H / Hk)). Sources: Vaswani et al. 2017, arXiv 1706.03762; Beltagy et al. 2020, arXiv 2004.05150
(window); Ainslie et al. 2023, arXiv 2305.13245 (grouped queries).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn.compilation import compiled
from orchard.nn.norm import RMSNorm
from orchard.nn.packed import Packed
from orchard.nn.projection import Projection, projection
from orchard.nn.rotary import Rotary

BACKENDS = ("auto", "naive", "sdpa", "banded", "flex")


def window_including_self(window: int) -> int:
    """The same window for a library that counts the token itself (`transformers`, fla, flash-attention)."""
    return window + 1


def visible_keys(length: int, window: int | None, causal: bool = True) -> int:
    """How many (query, key) pairs a layer scores in a sequence of `length` tokens; causal: sum_t min(t, w) + 1."""
    w = length if window is None else min(window, length)
    seen = w * (w + 1) // 2 + (length - w) * (w + 1)
    return seen if causal else 2 * seen - length


def window_mask(
    query_positions: Int[Tensor, " q"], key_positions: Int[Tensor, " k"], window: int | None, causal: bool = True
) -> Bool[Tensor, "q k"]:
    """True where a query may see a key: 0 <= query position - key position <= window; not causal: |...| <= window."""
    distance = query_positions[:, None] - key_positions[None, :]
    if not causal:
        return torch.ones_like(distance, dtype=torch.bool) if window is None else distance.abs() <= window
    return (distance >= 0) if window is None else (distance >= 0) & (distance <= window)


def attention(
    q: Float[Tensor, "batch queries heads head_dim"],
    k: Float[Tensor, "batch keys kv_heads head_dim"],
    v: Float[Tensor, "batch keys kv_heads value_dim"],
    window: int | None = None,
    query_offset: int = 0,
    backend: str = "auto",
    packed: Packed | None = None,
    causal: bool = True,
) -> Float[Tensor, "batch queries heads value_dim"]:
    """Attention of queries at positions query_offset, query_offset + 1, ... over keys at positions 0, 1, ...

    Backends: "naive" is the specification (every score, then the mask); "sdpa" gives PyTorch's fused kernel a mask;
    "banded" cuts the sequence into blocks, so that time and memory grow with length * window; "flex" is compiled
    FlexAttention, which skips the blocks outside the window (GPUs; no backward on the CPU); "auto" chooses.
    With `packed` documents (batch 1, no offset) no query sees a key of another document. Not `causal`: every key, or
    with a window those up to `window` away on either side.
    Raises ValueError for a negative window, heads that do not group, or a query without its own key.
    """
    if packed is not None:
        packed.check(q, k)
        if query_offset:
            raise ValueError(f"query_offset is {query_offset}: packed documents have no past, leave it at 0")
    _check(q, k, window, query_offset, backend)
    if backend == "auto":
        backend = _choose(q.device.type, q.shape[1], window, query_offset, packed is not None)
    if backend == "flex":
        return _flex(q, k, v, window, query_offset, packed, causal)
    if packed is not None:
        parts = zip(*(x.split(packed.lengths, dim=1) for x in (q, k, v)), strict=True)
        return torch.cat([attention(a, b, c, window, 0, backend, causal=causal) for a, b, c in parts], dim=1)
    if backend == "naive":
        return _naive(q, k, v, window, query_offset, causal)
    if backend == "banded" and window is not None and causal:  # bands of the causal mask alone
        return _banded(q, k, v, window, query_offset)
    return _sdpa(q, k, v, window, query_offset, causal)


def _check(q: Tensor, k: Tensor, window: int | None, query_offset: int, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    if window is not None and window < 0:
        raise ValueError(f"window is {window}: give the tokens of left context, 0 or more, or None for full attention")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads over {k.shape[2]} key-value heads: the first must be a multiple")
    if q.shape[1] == 0:
        raise ValueError("attention over an empty sequence: give at least one token")
    if query_offset < 0 or query_offset + q.shape[1] > k.shape[1]:
        raise ValueError(
            f"queries at {query_offset} .. {query_offset + q.shape[1] - 1}, keys at 0 .. {k.shape[1] - 1}: "
            "every query needs its own key"
        )


def _choose(device: str, queries: int, window: int | None, query_offset: int, packed: bool) -> str:
    # On a GPU full attention is the fused causal kernel. A window is FlexAttention, since a mask given to the fused
    # kernel costs every score; so are packed documents, since a loop over them launches kernels one by one. Taken from
    # what the kernels compute, to be confirmed by `orchard bench rattention` on a GPU. Not for the later pieces of a
    # prompt: every length and offset is a compilation.
    long = window is not None and query_offset == 0 and queries >= 128 and queries > window + 1
    if device == "cuda" and (packed or long):
        return "flex"
    # Measured forward with backward against "sdpa" on one CPU core (float32, head_dim 16 to 64, windows 0 to 768).
    # Two windows of tokens: 1.05 to 1.6 times as fast from 128 queries on, 0.85 to 1.04 at 96. Eight windows: 4 to 6.
    # Under 96 queries cutting mostly loses (0.4 to 0.95). At 1.5 windows it is 0.75 for a window of 80, 1.2 from 256
    # on; the rule leaves that out.
    return "banded" if window is not None and queries >= max(96, 2 * window) else "sdpa"


def _naive(q: Tensor, k: Tensor, v: Tensor, window: int | None, query_offset: int, causal: bool) -> Tensor:
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    queries = torch.arange(query_offset, query_offset + q.shape[1], device=q.device)
    mask = window_mask(queries, torch.arange(k.shape[1], device=q.device), window, causal)
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=wide).to(q.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask made while decoding may be saved for a backward pass later
def _mask(queries: int, keys: int, window: int | None, query_offset: int, device: torch.device, causal: bool) -> Tensor:
    positions = torch.arange(query_offset, query_offset + queries, device=device)
    return window_mask(positions, torch.arange(keys, device=device), window, causal)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, window: int | None, query_offset: int, causal: bool = True) -> Tensor:
    queries, keys = q.shape[1], k.shape[1]
    reach = query_offset + queries - 1 if causal else keys - 1
    unbounded = window is None or window >= reach
    if unbounded and (not causal or (queries == 1 and query_offset == keys - 1)):
        mask, triangle = None, False  # every query sees every key
    elif unbounded and query_offset == 0 and queries == keys:
        mask, triangle = None, True
    else:
        make = _mask if queries * keys <= 2**24 else _mask.__wrapped__  # at most 8 x 16 MiB are kept
        mask, triangle = make(queries, keys, window, query_offset, q.device, causal), False
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=triangle, enable_gqa=grouped)
    return out.transpose(1, 2)


def _banded(q: Tensor, k: Tensor, v: Tensor, window: int, query_offset: int) -> Tensor:
    """Blocks of `size` queries against their own block of keys and the `left` blocks before it.

    Blocks of half a window (3 blocks of keys) beat blocks of a whole one (2, but a third more scores) on the CPU.
    The first queries, whose left blocks would begin before the first key, are done densely.
    """
    queries = q.shape[1]
    size = max(16, -(-window // 2))
    left = -(-window // size)
    head = max(0, left * size - query_offset)
    if head >= queries:
        return _sdpa(q, k[:, : query_offset + queries], v[:, : query_offset + queries], window, query_offset)
    blocks = -(-(queries - head) // size)
    padding = blocks * size - (queries - head)
    start = query_offset + head - left * size

    def cut(x: Tensor) -> Tensor:  # [batch, blocks * size - padding, heads, dim] -> [batch, blocks, size, heads, dim]
        return F.pad(x, (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, size))

    def neighbours(x: Tensor) -> Tensor:  # keys or values -> [batch * blocks, (left + 1) * size, heads, dim]
        x = cut(x[:, start : query_offset + queries])
        return torch.cat([x[:, i : i + blocks] for i in range(left + 1)], dim=2).flatten(0, 1)

    # Inside a block, query r sits at key left * size + r: one mask for all blocks. Padded keys lie in the future.
    out = _sdpa(cut(q[:, head:]).flatten(0, 1), neighbours(k), neighbours(v), window, left * size)
    out = out.unflatten(0, (-1, blocks)).flatten(1, 2)[:, : queries - head]
    if head == 0:
        return out
    first = _sdpa(q[:, :head], k[:, : query_offset + head], v[:, : query_offset + head], window, query_offset)
    return torch.cat((first, out), dim=1)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # A function of its own: PyTorch counts graphs by function, and flex_attention is shared with everyone in the process.
    def flex(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        return flex_attention(q, k, v, **options)

    return compiled(flex, fullgraph=True)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _block_mask(
    queries: int, keys: int, window: int | None, query_offset: int, device: torch.device, causal: bool
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    reach = keys if window is None else window
    ahead = 0 if causal else reach
    return create_block_mask(
        lambda b, h, q, k: (q + query_offset - k >= -ahead) & (q + query_offset - k <= reach),
        None, None, queries, keys, device=str(device),
    )  # fmt: skip


def _flex(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, query_offset: int, packed: Packed | None, causal: bool
) -> Tensor:
    """FlexAttention with a block mask that is kept: per shape and window, or with the packed documents."""
    on_cpu = q.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError('backend "flex" has no backward on the CPU: use "auto", or torch.no_grad()')
    shape = (q.shape[1], k.shape[1], window, query_offset)
    mask = _block_mask(*shape, q.device, causal) if packed is None else packed.block_mask(window, causal)
    if on_cpu:  # the specification of the compiled kernel: compiling for the CPU takes longer than it saves
        from torch.nn.attention.flex_attention import flex_attention as flex
    else:
        flex = _compiled_flex()
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return flex(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


class Cache:
    """What a layer remembers between calls. `position` counts the tokens seen; every sequence of a batch has as many.

    Caches are for inference: no gradient flows through what they hold.
    """

    position: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new tokens; return the keys and values that attention of these tokens runs over."""
        raise NotImplementedError(f"{type(self).__name__} does not hold plain keys and values")

    def cut(self, position: int) -> None:
        """Forget every token from `position` on, as if it had never been given. Raises ValueError where that cannot be."""
        self.check_cut(position)
        self.position = position

    def check_cut(self, position: int) -> None:
        """Raise ValueError unless the cache can be cut back to `position`; a kind that can overrides this."""
        raise ValueError(
            f"a {type(self).__name__} cannot be cut back to {position}: what it holds is a sum over all tokens. Keep a "
            "copy.deepcopy() of it and go on from there"
        )

    def bytes(self) -> int:
        """Bytes of the tensors held, for the whole batch."""
        return sum(x.numel() * x.element_size() for x in vars(self).values() if isinstance(x, Tensor))


def _check_position(cache: Cache, position: int) -> None:
    if not 0 <= position <= cache.position:
        raise ValueError(
            f"cut({position}): the cache holds {cache.position} tokens, cut back to 0 ... {cache.position}"
        )


def _check_batch(new: Tensor, held: Tensor) -> None:
    if len(new) != len(held):  # assignment would broadcast a single sequence in silence
        raise ValueError(f"the cache was made for a batch of {len(held)}, but got {len(new)} sequences")


class FullCache(Cache):
    """Keys and values of every token, in slots 0 .. max_length - 1."""

    def __init__(
        self, batch: int, max_length: int, heads: int, head_dim: int, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.max_length = max_length
        self.k = torch.zeros(batch, max_length, heads, head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)

    def check_cut(self, position: int) -> None:
        _check_position(self, position)

    def append(
        self, k: Float[Tensor, "batch time heads head_dim"], v: Float[Tensor, "batch time heads head_dim"]
    ) -> tuple[Float[Tensor, "batch keys heads head_dim"], Float[Tensor, "batch keys heads head_dim"]]:
        """Store new tokens; return keys and values of all tokens so far, oldest first."""
        _check_batch(k, self.k)
        end = self.position + k.shape[1]
        if end > self.max_length:
            raise ValueError(
                f"the cache holds {self.position} tokens and {k.shape[1]} more were given, but max_length is "
                f"{self.max_length}: make it with new_cache(batch, max_length={end}) or more"
            )
        self.k[:, self.position : end] = k.detach()
        self.v[:, self.position : end] = v.detach()
        self.position = end
        return self.k[:, :end].to(k.dtype), self.v[:, :end].to(v.dtype)


class RollingCache(Cache):
    """Keys and values of the last window + 1 tokens, and of `spare` before them, by which it can be cut back.

    Token t lies in slot t mod (window + 1 + spare).
    """

    def __init__(
        self, batch: int, window: int, heads: int, head_dim: int, *, device: torch.device | str, dtype: torch.dtype,
        spare: int = 0,
    ) -> None:  # fmt: skip
        self.window, self.slots = window, window + 1 + spare
        self._written = 0  # the most tokens ever held at once: what is older than `slots` before that is lost
        self.k = torch.zeros(batch, self.slots, heads, head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)

    @property
    def positions(self) -> Int[Tensor, " slots"]:
        """Position of the token in each slot, -1 while it is empty."""
        if not self.slots:
            return torch.arange(0, device=self.k.device)
        last = self.position - 1
        held = last - (last - torch.arange(self.slots, device=self.k.device)) % self.slots
        return torch.where(held < self.oldest, -1, held)

    @property
    def oldest(self) -> int:
        """Position of the first token that is still held."""
        return max(0, self._written - self.slots)

    def check_cut(self, position: int) -> None:
        _check_position(self, position)
        needed = max(0, position - self.window)
        if needed < self.oldest:
            raise ValueError(
                f"cut({position}): tokens {needed} ... are needed then, and this rolling cache holds {self.oldest} ...: "
                f"make it with new_cache(..., spare={self._written - position - 1}) or more"
            )

    def past(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and positions of the last `count` tokens (fewer at the start), oldest first."""
        count = min(count, self.position, self.slots)
        positions = torch.arange(self.position - count, self.position, device=self.k.device)
        slots = positions % self.slots
        return self.k[:, slots], self.v[:, slots], positions

    def write(self, k: Tensor, v: Tensor) -> None:
        """Store new tokens, the oldest make room; `position` moves on by as many as were given."""
        _check_batch(k, self.k)
        end = self.position + k.shape[1]
        kept = min(k.shape[1], self.slots)
        slots: Tensor | int
        if kept == 1:  # decoding: a plain copy, no index to make
            slots = (end - 1) % self.slots
            new_k, new_v = k[:, -1], v[:, -1]
        else:
            slots = torch.arange(end - kept, end, device=self.k.device) % self.slots
            new_k, new_v = k[:, k.shape[1] - kept :], v[:, v.shape[1] - kept :]
        self.k[:, slots] = new_k.detach().to(self.k.dtype)
        self.v[:, slots] = new_v.detach().to(self.v.dtype)
        self.position = end
        self._written = max(self._written, end)

    def append(
        self, k: Float[Tensor, "batch time heads head_dim"], v: Float[Tensor, "batch time heads head_dim"]
    ) -> tuple[Float[Tensor, "batch keys heads head_dim"], Float[Tensor, "batch keys heads head_dim"]]:
        """Store new tokens; return keys and values that they may see: what the window reaches, then themselves.

        One new token sees all filled slots, and softmax does not mind their order: they are returned as they lie.
        """
        if k.shape[1] == 1 and self.slots == self.window + 1:
            self.write(k, v)
            filled = min(self.position, self.slots)
            return self.k[:, :filled].to(k.dtype), self.v[:, :filled].to(v.dtype)
        past_k, past_v, _ = self.past(self.window)
        self.write(k, v)
        return torch.cat((past_k.to(k.dtype), k), dim=1), torch.cat((past_v.to(v.dtype), v), dim=1)


class Attention(nn.Module, Configurable):
    """Projections, rotary, optional query-key norm, attention, output projection.

    A paper's layer overrides `attend` (and, where they change, `new_cache`, `cache_bytes`, `flops_per_token`).
    """

    only_causal = False  # a layer whose own `attend` knows no other order says True

    class Config(Configurable.Config):
        dim: int = REQUIRED
        num_heads: int = REQUIRED
        num_kv_heads: int | None = None  # None = num_heads
        head_dim: int | None = None  # None = dim / num_heads
        window: int | None = None  # tokens of left context; None = all of them
        causal: bool = True  # False: tokens to the right are seen as well, and there is no cache
        rotary: Rotary.Config | None = Rotary.Config()  # None = no position embedding
        qk_norm: RMSNorm.Config | None = None  # one gain of head_dim for queries, one for keys, after rotary
        backend: str = "auto"
        q_proj: Projection.Config = Projection.Config()
        k_proj: Projection.Config = Projection.Config()
        v_proj: Projection.Config = Projection.Config()
        o_proj: Projection.Config = Projection.Config()
        output_init_std: float | None = None  # pushed down by the decoder; None = 0.02 / sqrt(2), a single layer

    def __init__(self, cfg: Attention.Config) -> None:
        super().__init__()
        self.dim, self.num_heads, self.window, self.backend = cfg.dim, cfg.num_heads, cfg.window, cfg.backend
        self.causal = cfg.causal
        if self.only_causal and not cfg.causal:
            raise ValueError(
                f"{type(self).__name__}.Config.causal is False, but this layer is causal by its definition"
            )
        self.num_kv_heads = cfg.num_heads if cfg.num_kv_heads is None else cfg.num_kv_heads
        if cfg.num_heads < 1 or self.num_kv_heads < 1 or cfg.num_heads % self.num_kv_heads:
            raise ValueError(
                f"Attention.Config: num_heads is {cfg.num_heads}, num_kv_heads {self.num_kv_heads}: "
                "the first must be a positive multiple of the second"
            )
        if cfg.head_dim is None and cfg.dim % cfg.num_heads:
            raise ValueError(
                f"Attention.Config: dim {cfg.dim} does not divide into num_heads {cfg.num_heads}: set head_dim"
            )
        self.head_dim = cfg.dim // cfg.num_heads if cfg.head_dim is None else cfg.head_dim
        if cfg.window is not None and cfg.window < 0:
            raise ValueError(
                f"Attention.Config.window is {cfg.window}: give the tokens of left context, 0 or more, "
                "or None for full attention"
            )
        if cfg.backend not in BACKENDS:
            raise ValueError(f"Attention.Config.backend is {cfg.backend!r}: choose one of {', '.join(BACKENDS)}")

        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = projection(cfg.q_proj, cfg.dim, queries)
        self.k_proj = projection(cfg.k_proj, cfg.dim, keys)
        self.v_proj = projection(cfg.v_proj, cfg.dim, keys)
        self.o_proj = projection(cfg.o_proj, queries, cfg.dim)
        for map_ in (self.q_proj, self.k_proj, self.v_proj):
            map_.initialise(cfg.dim**-0.5)
        self.o_proj.initialise(0.02 / 2**0.5 if cfg.output_init_std is None else cfg.output_init_std)
        self.rotary = None if cfg.rotary is None else cfg.rotary.set(dim=self.head_dim).build()
        self.q_norm = None if cfg.qk_norm is None else cfg.qk_norm.set(dim=self.head_dim).build()
        self.k_norm = None if cfg.qk_norm is None else cfg.qk_norm.set(dim=self.head_dim).build()

    def forward(
        self, x: Float[Tensor, "batch time dim"], cache: Cache | None = None, packed: Packed | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Mix the tokens of `x`. With a cache, they follow the tokens it has seen; any number may be given at once.
        With `packed`, the one row of `x` holds several documents, and none sees another."""
        if x.shape[1] == 0:
            raise ValueError("attention over an empty sequence: give at least one token")
        if cache is not None and packed is not None:
            raise ValueError(
                "a cache and packed documents: decode documents as rows of a batch, or leave the cache out"
            )
        if cache is not None and not self.causal:
            raise ValueError(
                "a cache for attention that is not causal: what it holds would change with every new token, leave it out"
            )
        q, k, v = self.project(x)
        return self.o_proj(rearrange(self.attend(q, k, v, cache, packed), "b t h d -> b t (h d)"))

    def project(self, x: Float[Tensor, "batch time dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Raw queries [batch, time, heads, head_dim], keys and values [batch, time, kv_heads, head_dim] of tokens."""
        maps = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (rearrange(map_(x), "b t (h d) -> b t h d", d=self.head_dim) for map_ in maps)
        return q, k, v

    def attend(
        self,
        q: Float[Tensor, "batch time heads head_dim"],
        k: Float[Tensor, "batch time kv_heads head_dim"],
        v: Float[Tensor, "batch time kv_heads head_dim"],
        cache: Cache | None = None,
        packed: Packed | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """What happens between the projections. A cache keeps keys as they are scored: rotated and normalised."""
        positions, end = self.positions(q, cache, packed)
        q = self.place(q, self.q_norm, positions, end)
        k = self.place(k, self.k_norm, positions, end)
        if cache is not None:
            k, v = cache.append(k, v)
        return attention(q, k, v, self.window, k.shape[1] - q.shape[1], self.backend, packed, self.causal)

    def positions(
        self, q: Tensor, cache: Cache | None, packed: Packed | None = None
    ) -> tuple[Int[Tensor, " time"], int]:
        """Positions of the new tokens, and a number above all of them; packed documents begin at 0 each."""
        if packed is not None:
            return packed.positions, max(packed.lengths)
        start = 0 if cache is None else cache.position
        return torch.arange(start, start + q.shape[1], device=q.device), start + q.shape[1]

    def place(
        self,
        x: Float[Tensor, "batch time heads head_dim"],
        norm: RMSNorm | None,
        positions: Int[Tensor, "*rows time"],
        length: int | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """Rotary, then the query or key norm. `length`: a number above every position, where it is known."""
        if self.rotary is not None:
            x = self.rotary(x, positions, length)
        return x if norm is None else norm(x)

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype, spare: int = 0
    ) -> Cache:
        """An empty cache for `batch` sequences of up to `max_length` tokens.

        With a window it keeps the last window + 1 tokens (and has no limit), unless all max_length fit in that, and
        `spare` more, by which it can be cut back.
        """
        if not self.causal:
            raise ValueError("new_cache(): attention that is not causal has no cache, since new tokens change the old")
        if batch < 1 or max_length < 1:
            raise ValueError(f"new_cache(batch={batch}, max_length={max_length}): both must be at least 1")
        if self.window is None or max_length <= self.window:
            return FullCache(batch, max_length, self.num_kv_heads, self.head_dim, device=device, dtype=dtype)
        return RollingCache(
            batch, self.window, self.num_kv_heads, self.head_dim, device=device, dtype=dtype, spare=spare
        )

    def cache_bytes(self, length: int, bytes_per_element: int) -> int:
        """Bytes of keys and values held per sequence after `length` tokens."""
        tokens = length if self.window is None else min(length, self.window + 1)
        return 2 * tokens * self.num_kv_heads * self.head_dim * bytes_per_element

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token, the mean over a sequence of `length` tokens; a multiply-add counts as two.

        Projections, scores and weighted values, with every visible key counted; norms, rotary and softmax are not.
        """
        projections = sum(map_.flops() for map_ in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))
        visible = visible_keys(length, self.window, self.causal)
        return projections + 4 * self.num_heads * self.head_dim * visible / length
