"""Variants of the layer for the ablation (03_ablate): each changes one thing about RAttention, and decodes correctly.

    o_swa[t] = attention over t-w ... t         o_rla[t] = phi(q_t) S_{t-delta}         y = Wo combine(o_swa, o_rla)

`Variant` computes this with hooks: where the branch starts (delta), what it sees (`place_branch`), its recurrence
(`recur`), the window branch (`local`) and how both are joined (`combine`). The rest is a subclass each. Feature map,
norms, learned start and q/k scale are fields of RAttention itself. Shapes as in `attention.py`; what the branch alone
needs of a token (gates, keys of its own) stands in `extra` channels behind its key, put there by `project`.
RATTENTION (arXiv 2506.15545), its section on ablations and Table 4; other sources stand at the classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.kernels.residual import feature_map, no_autocast
from orchard.nn import Attention, Cache, Packed, RMSNorm, attention
from orchard.papers.rattention.method.attention import RAttention, ResidualCache
from orchard.papers.rattention.method.recurrences import residual

Branch = tuple[Tensor, Tensor]  # its outputs and its state


class VariantCache(ResidualCache):
    """The cache of a variant; no other layer takes it."""


class Variant(RAttention):
    """RAttention in pieces that a subclass can change; unchanged, it is RAttention with a delay of choice.

    `delay` is delta: the branch at token t reads tokens 0 ... t-delta. None = w+1, where the window ends; 0 also reads
    the current token (inclusive read-out), less than w+1 overlaps with the window, more leaves a gap that none reads.
    The branch sees raw queries and keys, or as the window branch does: rotated, normalised, or both.
    """

    class Config(RAttention.Config):
        delay: int | None = None
        branch_rotary: bool = False
        branch_qk_norm: bool = False

    cache_kind = VariantCache
    takes_packed = False  # the state is not reset between documents
    unused: tuple[str, ...] = ()  # fields of RAttention that this variant has no place for

    def __init__(self, cfg: Variant.Config) -> None:
        for name in self.unused:
            if getattr(cfg, name) != getattr(type(cfg)(), name):
                raise ValueError(
                    f"{type(self).__name__}.Config.{name} is {getattr(cfg, name)!r}, but has no effect here: drop it"
                )
        super().__init__(cfg)
        if self.window < 0:
            raise ValueError(f"{type(self).__name__}.Config.window is -1: use RAttention for linear attention alone")
        if cfg.delay is not None:
            self.delay = cfg.delay
        if self.delay < 0:
            raise ValueError(f"Variant.Config.delay is {cfg.delay}: 0 reads the current token, None starts at w + 1")
        self.branch_rotary, self.branch_qk_norm = cfg.branch_rotary, cfg.branch_qk_norm
        if (cfg.branch_rotary and self.rotary is None) or (cfg.branch_qk_norm and self.q_norm is None):
            raise ValueError(
                "Variant.Config: branch_rotary needs rotary and branch_qk_norm needs qk_norm; the branch shares them"
            )

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None = None, packed: Packed | None = None
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """Both branches, as RAttention; queries and keys may carry channels for the branch behind their own."""
        cache, dim = self.own_cache(cache, packed), self.head_dim
        window, delay = self.reach() if cache is None else (self.window, self.delay)
        positions, end = self.positions(q, cache)
        keys, state = positions, self.initial_state()
        if cache is not None:
            k, v, keys = cache.extend(k, v, positions)
            state = cache.state
        # Of the tokens in the ring the last `delay` are not folded yet: they are the first to leave, and the branch
        # lags by that many fewer.
        held = len(keys) - q.shape[1]
        late = min(held, delay)
        read = slice(held - late, held - late + q.shape[1])
        k, extra = k.split([dim, self.extra], dim=-1)
        rla, final = self.recur(
            self.place_branch(q[..., -dim:], self.q_norm, positions, end),
            self.place_branch(k[:, read], self.k_norm, keys[read], end),
            v[:, read],
            extra[:, read],
            delay - 1 - late,
            state,
        )
        if cache is not None:
            cache.state = final.detach()
        q, k = self.place(q[..., :dim], self.q_norm, positions, end), self.place(k, self.k_norm, keys, end)
        return self.combine(self.local(q, k, v, window), rla)

    def reach(self) -> tuple[int, int]:
        """Window and delay of a call without a cache."""
        return self.window, self.delay

    def place_branch(self, x: Tensor, norm: RMSNorm | None, positions: Int[Tensor, " time"], end: int) -> Tensor:
        """What phi sees of a query or key: the raw one, or rotated and then normalised as in the window branch."""
        if self.branch_rotary and self.rotary is not None:
            x = self.rotary(x, positions, end)
        return norm(x) if self.branch_qk_norm and norm is not None else x

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        """The branch, read `window` + 1 tokens late; outputs and state."""
        return self._parallel(q, k, v, window, state)

    def local(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """The window branch; keys may begin before the queries."""
        return attention(q, k, v, window, k.shape[1] - q.shape[1], self.backend)

    def flops_per_token(self, length: int) -> float:
        """As RAttention, with the matrices that the branch has for itself."""
        own = sum(2 * p.numel() for name, p in self.named_parameters() if name.startswith("branch_") and p.ndim == 2)
        return super().flops_per_token(length) + own


class OwnProjections(Variant):
    """The branch has its own query and key projections; values stay shared. The caller thins the feed-forward to match."""

    def __init__(self, cfg: OwnProjections.Config) -> None:
        super().__init__(cfg)
        self.extra = self.head_dim
        self.branch_q = nn.Linear(cfg.dim, self.num_heads * self.head_dim, bias=False)
        self.branch_k = nn.Linear(cfg.dim, self.num_kv_heads * self.head_dim, bias=False)
        for projection in (self.branch_q, self.branch_k):
            nn.init.normal_(projection.weight, std=cfg.dim**-0.5)

    def project(self, x: Float[Tensor, "batch time dim"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        own_q, own_k = (map_(x).unflatten(-1, (-1, self.head_dim)) for map_ in (self.branch_q, self.branch_k))
        return torch.cat([q, own_q], dim=-1), torch.cat([k, own_k], dim=-1), v

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        return super().recur(q, extra, v, extra, window, state)


class SharedNorm(Variant):
    """One norm over the sum of the branches: y = Wo RMS(o_swa + o_rla)."""

    def __init__(self, cfg: SharedNorm.Config) -> None:
        super().__init__(cfg)
        if self.rla_norm is None:
            raise ValueError("SharedNorm.Config.output_norm is None: the norm is what this variant is about")
        self.norm, self.swa_norm, self.rla_norm = self.rla_norm, None, None

    def combine(self, swa: Tensor, rla: Tensor) -> Tensor:
        return self.norm(swa + rla)


class JointDenominator(Variant):
    """One normalisation over all tokens, as in LoLCATs (Zhang et al. 2024, arXiv 2410.10254), and no output norm:

        o_t = (c sum_window e^{s_ti - m_t} v_i + (1-c) sum_rest phi(q_t).phi(k_i) v_i) / (the same with v = 1)

    s are the scores of the window, m_t their largest, c in (0, 1) learned per head.
    """

    unused: tuple[str, ...] = ("use_learned_init", "use_qk_scale")

    def __init__(self, cfg: JointDenominator.Config) -> None:
        if cfg.feature_map in ("identity", "relu"):
            raise ValueError(
                f"JointDenominator.Config.feature_map is {cfg.feature_map!r}: the denominator needs features above zero; use 'softmax'"
            )
        cfg.set(output_norm=None)
        super().__init__(cfg)
        self.value_dim = self.head_dim + 1  # the denominator is the sum for a value of one
        self.window_share = nn.Parameter(torch.zeros(self.num_heads))  # c = sigmoid of it

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        q, k = feature_map(q, self.feature_map), feature_map(k, self.feature_map)
        return residual(q, k, F.pad(v.to(q.dtype), (0, 1), value=1.0), window, state, chunk=self.tokens_per_chunk)

    def local(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        return exponential_window(q, k, v, window)

    def combine(self, swa: Tensor, rla: Tensor) -> Tensor:
        with no_autocast(swa):
            share = self.window_share.sigmoid()[:, None]
            both = share * swa.float() + (1 - share) * rla.float()
            return (both[..., :-1] / both[..., -1:]).to(self.o_proj.weight.dtype)


class Taylor(Variant):
    """phi(q).phi(k) = 1 + s + s^2 / 2 with s = q.k / sqrt(r): the exponential to second order (Based, arXiv 2402.18668).

    All d channels would make 1 + d + d(d+1)/2 features, 2145 at d = 64. The map reads the first r channels of each
    head, r the largest for which the state is no larger than the base's: 6 of 16, 14 of 64.
    """

    unused: tuple[str, ...] = ("feature_map", "use_learned_init", "use_qk_scale")

    def __init__(self, cfg: Taylor.Config) -> None:
        super().__init__(cfg)
        self.rank = taylor_rank(self.head_dim)
        self.features = taylor_dim(self.rank)

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        q, k = taylor_features(q[..., : self.rank]), taylor_features(k[..., : self.rank])
        return residual(q, k, v, window, state, chunk=self.tokens_per_chunk)


class ScalarDecay(Variant):
    """S_t = a_t S_{t-1} + phi(k_t)^T v_t with a_t = sigmoid(x_t w + b), one per kv head: the state forgets.

    b starts so that the heads remember 16 to 512 tokens (1 / (1 - a)).
    """

    gates = 1
    unused: tuple[str, ...] = ("use_qk_scale",)

    def __init__(self, cfg: ScalarDecay.Config) -> None:
        super().__init__(cfg)
        self.extra = self.gates
        self.branch_gate = nn.Linear(cfg.dim, self.gates * self.num_kv_heads)
        nn.init.normal_(self.branch_gate.weight, std=0.02)
        nn.init.zeros_(self.branch_gate.bias)
        with torch.no_grad():
            memory = torch.logspace(4, 9, self.num_kv_heads, base=2.0)
            self.branch_gate.bias.view(self.num_kv_heads, self.gates)[:, 0] = (memory - 1).log()

    def project(self, x: Float[Tensor, "batch time dim"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        gates = F.logsigmoid(self.branch_gate(x).unflatten(-1, (self.num_kv_heads, self.gates)))
        return q, torch.cat([k, gates.to(k.dtype)], dim=-1), v

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        q, k = feature_map(q, self.feature_map), feature_map(k, self.feature_map)
        return residual(q, k, v, window, state, extra[..., 0], chunk=self.tokens_per_chunk)


class GatedDelta(ScalarDecay):
    """The gated delta rule (Gated DeltaNet, Yang et al. 2024, arXiv 2412.06464): a new value replaces what its key reads.

    q and k of unit length and no phi, as there; b_t = sigmoid of a second gate. The state is [d, d], half the base's.
    """

    gates = 2
    unused: tuple[str, ...] = ("feature_map", "use_learned_init", "use_qk_scale")

    def __init__(self, cfg: GatedDelta.Config) -> None:
        super().__init__(cfg)
        self.features = self.head_dim

    def recur(self, q: Tensor, k: Tensor, v: Tensor, extra: Tensor, window: int, state: Tensor | None) -> Branch:
        with no_autocast(q):
            q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
        decay, beta = extra[..., 0], extra[..., 1].float().exp()
        return residual(q, k, v, window, state, decay, beta, chunk=self.tokens_per_chunk)


class RandomWindow(Variant):
    """While training, each batch draws its window from `windows` (SWAX, arXiv 2509.24552); evaluation uses `window`.

    All layers draw the same one, from the seed that the batch was given: a function of the run's seed and the batch's
    number, so a resumed training draws what an unbroken one does. The global generator is not moved.
    """

    class Config(Variant.Config):
        windows: list[int] = []  # left contexts, each as likely

    def __init__(self, cfg: RandomWindow.Config) -> None:
        super().__init__(cfg)
        if not cfg.windows or min(cfg.windows) < 0:
            raise ValueError(f"RandomWindow.Config.windows is {cfg.windows}: give left contexts of 0 or more tokens")
        if cfg.delay is not None:
            raise ValueError(
                "RandomWindow.Config.delay is set: the branch starts where the drawn window ends, leave it None"
            )
        self.windows = list(cfg.windows)

    def reach(self) -> tuple[int, int]:
        if not self.training:
            return self.window, self.delay
        from orchard.papers.rattention.method.opaque import draw_window

        window = draw_window(self.windows)
        return window, window + 1


class HeadSplit(Variant):
    """Half of the heads see the window, the other half linear attention over everything, each under its norm.

        o = [RMS(o_swa) of heads 0 ... H/2-1,  RMS(o_la) of the others]         o_la[t] = phi(q_t) S_t

    In the spirit of Hymba (Dong et al. 2024, arXiv 2411.13676); how the paper's "Hymba" row is built is not said.
    """

    unused: tuple[str, ...] = ("delay", "branch_rotary", "branch_qk_norm", "use_learned_init", "use_qk_scale")

    def __init__(self, cfg: HeadSplit.Config) -> None:
        super().__init__(cfg)
        if self.num_kv_heads % 2:
            raise ValueError(f"HeadSplit.Config.num_kv_heads is {self.num_kv_heads}: it must be even to be halved")
        self.delay, self.state_heads = 0, self.num_kv_heads // 2
        # The mean is per head, so one module with a gain per head serves both halves.
        self.output_norm, self.swa_norm, self.rla_norm = self.rla_norm, None, None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None = None, packed: Packed | None = None
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """[o_swa, o_la] along the heads."""
        cache = self.own_cache(cache, packed)
        (q, far_q), (k, far_k), (v, far_v) = (x.chunk(2, dim=2) for x in (q, k, v))
        la, final = self._parallel(far_q, far_k, far_v, -1, None if cache is None else cache.state)
        if cache is not None:
            cache.state = final.detach()
        both = torch.cat([Attention.attend(self, q, k, v, cache), la], dim=2)
        return both if self.output_norm is None else self.output_norm(both)

    def flops_per_token(self, length: int) -> float:
        """Projections, half of the window's scores, and linear attention for the other half of the heads."""
        projections = sum(map_.flops() for map_ in (self.q_proj, self.k_proj, self.v_proj, self.o_proj))
        return (projections + super().flops_per_token(length)) / 2


def taylor_dim(rank: int) -> int:
    """Features of the second-order map of `rank` channels: 1 + r + r(r+1)/2, every product once."""
    return 1 + rank + rank * (rank + 1) // 2


def taylor_rank(head_dim: int) -> int:
    """The largest r with at most as many features as the paper's phi has, 2 head_dim."""
    return max(r for r in range(1, head_dim + 1) if taylor_dim(r) <= 2 * head_dim)


def taylor_features(x: Float[Tensor, "*rows rank"]) -> Float[Tensor, "*rows features"]:
    """[1, x r^-1/4, x_i^2 / sqrt(2r), x_i x_j / sqrt(r) for i < j] in fp32."""
    rank = x.shape[-1]
    with no_autocast(x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)) * rank**-0.25
        first, second = torch.triu_indices(rank, rank, 1, device=x.device)
        parts = [torch.ones_like(x[..., :1]), x, x.square() * 0.5**0.5, x[..., first] * x[..., second]]
        return torch.cat(parts, dim=-1)


def exponential_window(
    q: Float[Tensor, "batch queries heads head_dim"],
    k: Float[Tensor, "batch keys kv_heads head_dim"],
    v: Float[Tensor, "batch keys kv_heads value_dim"],
    window: int,
) -> Float[Tensor, "batch queries heads value_dim_and_one"]:
    """sum_{i in window} e^{s_ti - m_t} [v_i, 1], s = q.k / sqrt(d), m_t the largest of them; the queries are the last keys.

    In blocks of w + 1 queries over 2w + 1 keys, so that memory is linear in length.
    """
    queries, heads, dim = q.shape[1:]
    size, offset, groups = window + 1, k.shape[1] - queries, heads // k.shape[2]
    padding = -queries % size
    with no_autocast(q):
        q, k, v = q.float() * dim**-0.5, k.float(), F.pad(v.float(), (0, 1), value=1.0)
        k, v = (F.pad(x, (0, 0, 0, 0, max(window - offset, 0), padding)) for x in (k, v))
        k, v = (x[:, max(offset - window, 0) :].unfold(1, window + size, size) for x in (k, v))  # [b, n, h, dim, keys]
        q = rearrange(F.pad(q, (0, 0, 0, 0, 0, padding)), "b (n q) (h g) d -> b n q h g d", q=size, g=groups)
        scores = torch.einsum("bnqhgd,bnhdk->bnhgqk", q, k)
        place = torch.arange(window + size, device=q.device)
        distance = torch.arange(size, device=q.device)[:, None] + window - place
        block = torch.arange(k.shape[1], device=q.device)[:, None, None] * size + place  # key, counted from offset - w
        seen = (distance >= 0) & (distance <= window) & (block + offset - window >= 0)
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        out = torch.einsum("bnhgqk,bnhdk->bnqhgd", weights, v)
        return rearrange(out, "b n q h g d -> b (n q) (h g) d")[:, :queries]
