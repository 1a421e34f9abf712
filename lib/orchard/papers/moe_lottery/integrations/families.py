"""Families of mixtures in `transformers` 5: the names of their tensors on the disk, and their mixtures in memory as `method` sees them.

most          .gate beside .experts: gate_up_proj [n, 2f, d], gate above up, down_proj [n, d, f]
granitemoe    .router beside the same experts; on the disk input_linear, output_linear, router.layer
phimoe        .router beside the same experts, two of which sparsemixer chooses one after the other
gpt_oss       .router with a bias; experts with biases and a clamped activation: gate_up_proj [n, d, 2f], gate and up in turns,
              down_proj [n, f, d]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from orchard.nn.moe import Dispatch, combine
from orchard.papers.moe_lottery.method.collect import Collector, LayerStatistics, evaluating
from orchard.papers.moe_lottery.method.dropping import ExpertsError, MixtureLayer

BLOCK = r"(?P<block>model\.layers\.(?P<layer>\d+)\.(?:mlp|block_sparse_moe))"
EXPERT = re.compile(  # on the disk, where experts are stored one by one
    BLOCK + r"\.experts\.(?P<expert>\d+)\.(?P<matrix>w1|w2|w3|gate_proj|up_proj|down_proj)\.(?P<kind>weight)"
)
PER_EXPERT = re.compile(  # in the model: tensors whose first dimension is that of the experts
    BLOCK + r"\.(?:experts\.(?:gate_up|down)_proj(?:_bias)?|(?:gate|router)\.(?:weight|bias|e_score_correction_bias))"
)
HALVES = {"w1": 0, "gate_proj": 0, "w3": 1, "up_proj": 1}  # place in gate_up_proj


@dataclass(frozen=True)
class Family:
    """`count`: the key of config.json that holds the number of experts; `renamed`: parts of names, on the disk and in the model."""

    count: str
    renamed: tuple[tuple[str, str], ...] = ()

    def in_model(self, name: str) -> str:
        """The name in the model of a tensor on the disk."""
        if found := EXPERT.fullmatch(name):
            matrix = "gate_up_proj" if found["matrix"] in HALVES else "down_proj"
            name = f"{found['block']}.experts.{matrix}"
        for stored, own in self.renamed:
            name = name.replace(stored, own)
        return name


SPARSE = (".block_sparse_moe.", ".mlp.")
GRANITE = Family("num_local_experts", (
    ("_moe.input_linear.weight", "_moe.experts.gate_up_proj"),
    ("_moe.output_linear.weight", "_moe.experts.down_proj"),
    ("_moe.router.layer.", "_moe.router."),
))  # fmt: skip
FAMILIES = {  # by model type
    "mixtral": Family("num_local_experts", (SPARSE,)),
    "olmoe": Family("num_experts"),
    "qwen2_moe": Family("num_experts"),
    "qwen3_moe": Family("num_experts"),
    "deepseek_v2": Family("n_routed_experts"),
    "deepseek_v3": Family("n_routed_experts"),
    "gpt_oss": Family("num_local_experts"),
    "granitemoe": GRANITE,
    "granitemoeshared": GRANITE,
    "phimoe": Family("num_local_experts", (SPARSE, (".mlp.gate.", ".mlp.router."))),
}


class Mixture(MixtureLayer):
    """A mixture of any family."""

    @property
    def gate(self) -> Any:
        return self.block.gate if hasattr(self.block, "gate") else self.block.router

    @property
    def turned(self) -> bool:
        """Whether experts are those of gpt-oss."""
        return bool(getattr(self.experts, "is_transposed", False))

    @property
    def weights(self) -> tuple[Any, Any]:
        """The weights of all experts [n, 2f, d], gate above up, and [n, d, f]: of gpt-oss a copy and a view."""
        gate_up, down = super().weights
        if not self.turned:
            return gate_up, down
        return torch.cat([gate_up.mT[:, ::2], gate_up.mT[:, 1::2]], dim=1), down.mT


def mixtures(model: nn.Module) -> list[Mixture]:
    """The mixtures of a model of one of the families, in order. Raises ExpertsError for a dense model."""
    named = [(n, m) for n, m in model.named_modules() if isinstance(getattr(m, "experts", None), nn.Module)]
    if not named:
        raise ExpertsError(
            f"{type(model).__name__} has no mixture of experts: it is a dense model, and there is nothing to drop"
        )
    return [Mixture(place, name, block) for place, (name, block) in enumerate(named)]


def routers(model: nn.Module) -> nn.ModuleList:
    """The routers of a model of one of the families as `masked` takes them: beside experts of its layout, which hold nothing."""
    blocks = []
    for layer in mixtures(model):
        block, (n, d) = nn.Module(), layer.gate.weight.shape
        block.gate, block.experts = layer.gate, nn.Module()
        for name, shape in (("gate_up_proj", (n, 2, d)), ("down_proj", (n, d, 1))):
            setattr(block.experts, name, torch.empty(shape, device="meta"))
        blocks.append(block)
    return nn.ModuleList(blocks)


class Watcher(Collector):
    """A collector for every family: where experts have biases, their own forward pass gives the rows, of one pair of token and expert
    after the other."""

    def _watched(self, experts: Any, statistics: LayerStatistics) -> Any:
        if not getattr(experts, "has_bias", False):
            return super()._watched(experts, statistics)
        plain = experts.forward

        def forward(hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            assert self.tokens is not None
            dispatch = Dispatch.of(top_k_index, statistics.num_experts)
            rows, one = hidden[dispatch.order // top_k_index.shape[1]], dispatch.experts[:, None]
            outputs = plain(rows, one, torch.ones_like(one, dtype=hidden.dtype))
            statistics.add(outputs, dispatch, top_k_index, top_k_weights, self.tokens.flatten())
            return combine(outputs, dispatch, top_k_weights).to(hidden.dtype)

        return forward


@torch.no_grad()
def statistics_of(model: Any, batches: Iterable[Int[Tensor, "_ _"]], vocab_size: int) -> list[LayerStatistics]:
    """Statistics without gradients of a model in memory, of any family."""
    watcher = Watcher(mixtures(model), vocab_size)
    with watcher.watching(), evaluating(model):
        for watcher.tokens in batches:
            model(watcher.tokens)
    return watcher.statistics
