"""Mixture of experts: a router sends every token to k of n gated feed-forward layers; no token is dropped.

    p = softmax(W_g x)          K = the k largest of p          g_e = p_e, or p_e / sum_{K} p      (`renormalise`)
    y = sum_{e in K} g_e E_e(x),    E_e(x) = W_down^e (silu(W_gate^e x) * W_up^e x)

Shapes: hidden [tokens, dim]; routing [tokens, k]; W_g [n, dim]; gate_up_proj [n, 2 hidden_dim, dim], gate above up;
down_proj [n, dim, hidden_dim]. Names and layout are those of the mixture models in `transformers` 5, so that what
reads or prunes experts works on both.

Token-expert pairs are sorted by expert and multiplied group by group (on a GPU by `torch.nn.functional.grouped_mm`); the
loop over experts is the definition. Auxiliary losses, with f_e the pairs of expert e per token and P_e the mean of p_e:

    load balance = n sum_e f_e P_e      (k when all experts are used alike)          z = mean (logsumexp W_g x)^2

Sources: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024, arXiv 2401.04088 (Mixtral); Fedus et al. 2021, arXiv
2101.03961 (load balance); Zoph et al. 2022, arXiv 2202.08906 (z); Gale et al. 2022, arXiv 2211.15841 (dropless).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn.feedforward import ACTIVATIONS

BACKENDS = ("grouped", "loop")


class Router(nn.Module, Configurable):
    """Chooses `top_k` of `num_experts` experts for every token, in float32."""

    class Config(Configurable.Config):
        dim: int = REQUIRED
        num_experts: int = REQUIRED
        top_k: int = REQUIRED
        renormalise: bool = True  # weights of the chosen experts sum to one (Mixtral); False keeps the softmax (OLMoE)

    def __init__(self, cfg: Router.Config) -> None:
        super().__init__()
        if not 1 <= cfg.top_k <= cfg.num_experts:
            raise ValueError(
                f"Router.Config.top_k is {cfg.top_k} of {cfg.num_experts} experts: choose between 1 and all of them"
            )
        self.num_experts, self.top_k, self.renormalise = cfg.num_experts, cfg.top_k, cfg.renormalise
        self.weight = nn.Parameter(torch.randn(cfg.num_experts, cfg.dim) * 0.02)

    def forward(
        self, hidden: Float[Tensor, "tokens dim"]
    ) -> tuple[Float[Tensor, "tokens experts"], Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """Logits, weights of the chosen experts, their numbers."""
        logits = F.linear(hidden, self.weight)
        weights, index = logits.float().softmax(dim=-1).topk(self.top_k, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, index


@dataclass(frozen=True)
class Dispatch:
    """Token-expert pairs sorted by expert: pair `order[i]` (token order[i] // k) stands at place i, place `inverse[p]`
    holds pair p, and the pairs of expert e are offsets[e - 1] ... offsets[e] - 1."""

    order: Int[Tensor, "pairs"]
    inverse: Int[Tensor, "pairs"]
    offsets: Int[Tensor, "experts"]
    experts: Int[Tensor, "pairs"]  # of the sorted pairs

    @classmethod
    def of(cls, index: Int[Tensor, "tokens k"], num_experts: int) -> Dispatch:
        """Sort the choices of a router."""
        experts, order = index.flatten().sort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        numbers = torch.arange(num_experts, device=index.device, dtype=experts.dtype)
        offsets = torch.searchsorted(experts, numbers, right=True).to(torch.int32)  # as bincount, without a host sync
        return cls(order, inverse, offsets, experts)


class _Rows(torch.autograd.Function):
    """rows[order // k], each row k times: its gradient gathers too, where that of indexing would scatter and sort."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return rows.index_select(0, order if k == 1 else order // k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        back = grad.index_select(0, inverse)
        return back if ctx.k == 1 else back.view(-1, ctx.k, back.shape[-1]).sum(dim=1), None, None, None


def expert_outputs(
    hidden: Float[Tensor, "tokens dim"],
    dispatch: Dispatch,
    gate_up: Float[Tensor, "experts two_hidden dim"],
    down: Float[Tensor, "experts dim hidden_dim"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "pairs dim"]:
    """E_e(x) of every pair, in sorted order, before the weights of the router."""
    top_k = len(dispatch.order) // len(hidden)
    rows = _Rows.apply(hidden, dispatch.order, dispatch.inverse, top_k)
    form = grouped_outputs if rows.is_cuda or torch.compiler.is_compiling() else outputs_by_group
    return form(rows, dispatch.offsets, gate_up, down, activation)


def grouped_linear(
    rows: Float[Tensor, "pairs inner"], weight: Float[Tensor, "experts outer inner"], offsets: Int[Tensor, "experts"]
) -> Float[Tensor, "pairs outer"]:
    """rows @ weight[e].T for the rows of each expert e, in the type of autocast where that is on.

    Where `grouped_mm` has no form for it, expert by expert: float64, rows that are no multiple of 16 bytes, and, while a graph
    is traced, everything but bf16.
    """
    device = rows.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    rows, weight = rows.to(dtype), weight.to(dtype)
    known = (torch.bfloat16,) if torch.compiler.is_compiling() else (torch.bfloat16, torch.float16, torch.float32)
    with torch.autocast(device, enabled=False):  # grouped_mm is not on autocast's list
        if dtype in known and all(size * weight.element_size() % 16 == 0 for size in weight.shape[1:]):
            return F.grouped_mm(rows, weight.transpose(-2, -1), offs=offsets)
        pairs = zip(rows.split(_sizes(offsets)), weight.unbind(), strict=True)
        return torch.cat([F.linear(part, matrix) for part, matrix in pairs])


def grouped_outputs(
    rows: Float[Tensor, "pairs dim"],
    offsets: Int[Tensor, "experts"],
    gate_up: Float[Tensor, "experts two_hidden dim"],
    down: Float[Tensor, "experts dim hidden_dim"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "pairs dim"]:
    """All groups in one product per matrix: for a GPU, and for graphs, which a loop would break."""
    gate, up = grouped_linear(rows, gate_up, offsets).chunk(2, dim=-1)
    return grouped_linear(activation(gate) * up, down, offsets)


def outputs_by_group(
    rows: Float[Tensor, "pairs dim"],
    offsets: Int[Tensor, "experts"],
    gate_up: Float[Tensor, "experts two_hidden dim"],
    down: Float[Tensor, "experts dim hidden_dim"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "pairs dim"]:
    """One group after the other: what a grouped product is on a CPU, with hidden units that stay in its cache."""
    outputs = []
    for part, gate_up_e, down_e in zip(rows.split(_sizes(offsets)), gate_up.unbind(), down.unbind(), strict=True):
        gate, up = F.linear(part, gate_up_e).chunk(2, dim=-1)
        outputs.append(F.linear(activation(gate) * up, down_e))
    return torch.cat(outputs)


def _sizes(offsets: Int[Tensor, "experts"]) -> list[int]:
    sizes: list[int] = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
    return sizes


def combine(
    outputs: Float[Tensor, "pairs dim"], dispatch: Dispatch, weights: Float[Tensor, "tokens k"]
) -> Float[Tensor, "tokens dim"]:
    """Sum over the experts of each token, with the weights of the router."""
    pairs = _Rows.apply(outputs, dispatch.inverse, dispatch.order, 1).view(*weights.shape, outputs.shape[-1])
    return (pairs * weights.to(outputs.dtype)[..., None]).sum(dim=1)


def experts_loop(
    hidden: Float[Tensor, "tokens dim"],
    index: Int[Tensor, "tokens k"],
    weights: Float[Tensor, "tokens k"],
    gate_up: Float[Tensor, "experts two_hidden dim"],
    down: Float[Tensor, "experts dim hidden_dim"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "tokens dim"]:
    """The definition: one expert after the other, on the tokens that chose it."""
    mixed = torch.zeros_like(hidden)
    for expert in range(len(gate_up)):
        token, choice = torch.where(index == expert)
        gate, up = F.linear(hidden[token], gate_up[expert]).chunk(2, dim=-1)
        output = F.linear(activation(gate) * up, down[expert])
        mixed = mixed.index_add(0, token, (output * weights[token, choice, None]).to(hidden.dtype))
    return mixed


class Experts(nn.Module, Configurable):
    """The n feed-forward layers, in two tensors. `backend`: "grouped", or "loop", its definition."""

    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden_dim: int = REQUIRED
        num_experts: int = REQUIRED
        activation: str = "silu"
        output_init_std: float | None = None  # as in FeedForward
        backend: str = "grouped"

    def __init__(self, cfg: Experts.Config) -> None:
        super().__init__()
        for name, value, known in (("activation", cfg.activation, ACTIVATIONS), ("backend", cfg.backend, BACKENDS)):
            if value not in known:
                raise ValueError(f"Experts.Config.{name} is {value!r}: choose one of {', '.join(known)}")
        self.num_experts, self.backend, self.act_fn = cfg.num_experts, cfg.backend, ACTIVATIONS[cfg.activation]
        output_std = 0.02 / 2**0.5 if cfg.output_init_std is None else cfg.output_init_std
        gate_up = torch.randn(cfg.num_experts, 2 * cfg.hidden_dim, cfg.dim) * cfg.dim**-0.5
        self.gate_up_proj = nn.Parameter(gate_up)
        self.down_proj = nn.Parameter(torch.randn(cfg.num_experts, cfg.dim, cfg.hidden_dim) * output_std)

    def forward(
        self,
        hidden: Float[Tensor, "tokens dim"],
        top_k_index: Int[Tensor, "tokens k"],
        top_k_weights: Float[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens dim"]:
        if self.backend == "loop":
            return experts_loop(hidden, top_k_index, top_k_weights, self.gate_up_proj, self.down_proj, self.act_fn)
        dispatch = Dispatch.of(top_k_index, self.num_experts)
        outputs = expert_outputs(hidden, dispatch, self.gate_up_proj, self.down_proj, self.act_fn)
        return combine(outputs, dispatch, top_k_weights).to(hidden.dtype)


class MixtureOfExperts(nn.Module, Configurable):
    """A feed-forward layer of `num_experts` experts of inner width `hidden_dim`, `top_k` of them per token.

    While it trains, `auxiliary_loss` holds the weighted losses of the last forward pass; `auxiliary_loss(model)` adds
    them up. Raises ValueError for top_k outside 1 ... num_experts, an unknown activation or backend.
    """

    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden_dim: int = REQUIRED
        num_experts: int = REQUIRED
        top_k: int = 2
        renormalise: bool = True
        activation: str = "silu"
        load_balance: float = 0.01  # factor of the load-balance loss
        z_loss: float = 0.0  # factor of the z-loss
        output_init_std: float | None = None  # pushed down by the decoder
        backend: str = "grouped"

    def __init__(self, cfg: MixtureOfExperts.Config) -> None:
        super().__init__()
        self.load_balance, self.z_loss = cfg.load_balance, cfg.z_loss
        self.auxiliary_loss: Tensor | None = None
        self.gate = Router.Config(
            dim=cfg.dim, num_experts=cfg.num_experts, top_k=cfg.top_k, renormalise=cfg.renormalise
        ).build()
        self.experts = Experts.Config(
            dim=cfg.dim, hidden_dim=cfg.hidden_dim, num_experts=cfg.num_experts, activation=cfg.activation,
            output_init_std=cfg.output_init_std, backend=cfg.backend,
        ).build()  # fmt: skip

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        hidden = x.flatten(0, 1)
        logits, weights, index = self.gate(hidden)
        if self.training and (self.load_balance or self.z_loss):
            self.auxiliary_loss = self.load_balance * load_balance_loss(logits, index) + self.z_loss * z_loss(logits)
        return self.experts(hidden, index, weights).view_as(x)

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token (the same at every `length`): the router and the chosen experts."""
        per_expert = self.experts.gate_up_proj[0].numel() + self.experts.down_proj[0].numel()
        return 2.0 * (self.gate.weight.numel() + self.gate.top_k * per_expert)


def load_balance_loss(logits: Float[Tensor, "tokens experts"], index: Int[Tensor, "tokens k"]) -> Float[Tensor, ""]:
    """n sum_e f_e P_e: k when all experts are chosen alike, up to n when one is. Fedus et al., equation 4, for k choices."""
    experts = logits.shape[-1]
    per_token = F.one_hot(index, experts).sum(dim=1).float().mean(dim=0)
    return experts * (per_token * logits.float().softmax(dim=-1).mean(dim=0)).sum()


def z_loss(logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, ""]:
    """Mean squared log-partition function of the router: keeps its logits small. Zoph et al., equation 5."""
    return logits.float().logsumexp(dim=-1).square().mean()


def auxiliary_loss(model: nn.Module) -> Tensor | float:
    """Sum of the weighted auxiliary losses of all mixtures in `model` since it was last asked, divided by their number."""
    mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    found = [module.auxiliary_loss for module in mixtures if module.auxiliary_loss is not None]
    for module in mixtures:
        module.auxiliary_loss = None
    return torch.stack(found).mean() if found else 0.0


def router_statistics(
    logits: Float[Tensor, "tokens experts"], weights: Float[Tensor, "tokens k"], index: Int[Tensor, "tokens k"]
) -> dict[str, Tensor]:
    """What a router did: `load` [n], share of the pairs of each expert; `probability` [n], its mean before the choice;
    `variation`, standard deviation of the load over its mean (0 when even); `entropy` of p in nats, mean over tokens;
    `mass`, mean sum of the weights of the chosen experts (1 where they are renormalised)."""
    probabilities = logits.float().softmax(dim=-1)
    load = index.flatten().bincount(minlength=logits.shape[-1]).double() / index.numel()
    return {
        "load": load,
        "probability": probabilities.double().mean(dim=0),
        "variation": load.std(correction=0) / load.mean(),
        "entropy": torch.special.entr(probabilities).sum(dim=-1).mean(),
        "mass": weights.sum(dim=-1).mean(),
    }
