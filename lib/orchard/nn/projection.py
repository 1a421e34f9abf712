"""The linear map of a block: queries, keys, values, output, gate, up, down, and the output matrix of a decoder.

    y = W x        W [out_dim, in_dim], no bias

Every such map has a config of its own, so that another kind of map (low-rank, quantised) is one line:
`replace(cfg, Projection, LowRank.Config(rank=8), where="layers.*")`.
"""

from __future__ import annotations

from torch import nn

from orchard.config import REQUIRED, Configurable


class Projection(nn.Linear, Configurable):
    """`nn.Linear` without bias. Another kind subclasses it, and overrides what it changes of the three methods."""

    class Config(Configurable.Config):
        in_dim: int = REQUIRED  # set by the layer
        out_dim: int = REQUIRED  # set by the layer

    def __init__(self, cfg: Projection.Config) -> None:
        super().__init__(cfg.in_dim, cfg.out_dim, bias=False)

    def initialise(self, std: float) -> None:
        """Draw the weights anew, normal with this standard deviation."""
        nn.init.normal_(self.weight, std=std)

    def flops(self) -> int:
        """Forward FLOPs for one vector; a multiply-add counts as two."""
        return 2 * self.in_features * self.out_features


def projection(cfg: Projection.Config, in_dim: int, out_dim: int) -> Projection:
    """The map that a layer asks for, by the config that was chosen for it."""
    return cfg.set(in_dim=in_dim, out_dim=out_dim).build()
