"""One line replaces every linear map of a model by another kind; the default is nn.Linear."""

from __future__ import annotations

import torch
from torch import nn

from orchard.config import REQUIRED, replace
from orchard.nn import Attention, Block, Decoder, FeedForward, Projection


class LowRank(Projection):
    """y = B (A x), of rank `rank`."""

    class Config(Projection.Config):
        rank: int = REQUIRED

    def __init__(self, cfg: LowRank.Config) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = cfg.in_dim, cfg.out_dim
        self.a = nn.Parameter(torch.zeros(cfg.rank, cfg.in_dim))
        self.b = nn.Parameter(torch.zeros(cfg.out_dim, cfg.rank))

    def initialise(self, std: float) -> None:
        nn.init.normal_(self.a, std=std)
        nn.init.normal_(self.b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a.T @ self.b.T

    def flops(self) -> int:
        return 2 * (self.a.numel() + self.b.numel())


def decoder(tie: bool = False) -> Decoder.Config:
    block = Block.Config(
        attention=Attention.Config(num_heads=2, num_kv_heads=1), feed_forward=FeedForward.Config(hidden_dim=12)
    )
    return Decoder.Config(vocab_size=11, dim=8, layers=[block, block.clone()], tie_embeddings=tie)


def test_the_default_is_a_linear_layer_with_the_weights_it_always_had() -> None:
    torch.manual_seed(0)
    made = Attention.Config(dim=8, num_heads=2, num_kv_heads=1).build()
    torch.manual_seed(0)
    plain = [nn.Linear(8, size, bias=False) for size in (8, 4, 4)]
    output = nn.Linear(8, 8, bias=False)
    for layer in plain:
        nn.init.normal_(layer.weight, std=8**-0.5)
    nn.init.normal_(output.weight, std=0.02 / 2**0.5)
    maps = (made.q_proj, made.k_proj, made.v_proj, made.o_proj)
    for ours, theirs in zip(maps, [*plain, output], strict=True):
        assert isinstance(ours, nn.Linear)
        assert ours.bias is None
        assert torch.equal(ours.weight, theirs.weight)


def test_replace_reaches_every_map_of_the_layers_and_the_output_matrix() -> None:
    cfg = decoder()
    changed = replace(cfg, Projection, LowRank.Config(rank=2), where="**")
    assert len(changed) == 2 * 7 + 1
    model = cfg.build()
    kinds = [module for module in model.modules() if isinstance(module, Projection)]
    assert len(kinds) == 15
    assert all(type(module) is LowRank for module in kinds)
    model(torch.randint(0, 11, (2, 5))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    per_layer = 2 * 2 * (16 + 12 + 12 + 16) + 2 * 2 * 3 * 20
    scores = 4 * 8 * (5 + 1) / 2
    assert model.flops_per_token(5) == 2 * (per_layer + scores) + 2 * 2 * 19


def test_replace_of_some_maps_leaves_the_others() -> None:
    cfg = decoder()
    replace(cfg, Projection, LowRank.Config(rank=2), where="layers.1.attention.q_proj")
    names = [name for name, module in cfg.build().named_modules() if isinstance(module, LowRank)]
    assert names == ["layers.1.attention.q_proj"]
