"""The gated feed-forward layer: three matrices.

    y = W_down (activation(W_gate x) * W_up x)        "silu" = SwiGLU, "gelu" = GeGLU

Source: Shazeer 2020, arXiv 2002.05202.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn.projection import Projection, projection

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}


class FeedForward(nn.Module, Configurable):
    """Gated feed-forward of inner width `hidden_dim`, position by position."""

    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden_dim: int = REQUIRED
        activation: str = "silu"
        gate_proj: Projection.Config = Projection.Config()
        up_proj: Projection.Config = Projection.Config()
        down_proj: Projection.Config = Projection.Config()
        output_init_std: float | None = None  # pushed down by the decoder; None = 0.02 / sqrt(2), a single layer

    def __init__(self, cfg: FeedForward.Config) -> None:
        super().__init__()
        if cfg.activation not in ACTIVATIONS:
            raise ValueError(
                f"FeedForward.Config.activation is {cfg.activation!r}: choose one of {', '.join(ACTIVATIONS)}"
            )
        self.activation = cfg.activation
        self.gate_proj = projection(cfg.gate_proj, cfg.dim, cfg.hidden_dim)
        self.up_proj = projection(cfg.up_proj, cfg.dim, cfg.hidden_dim)
        self.down_proj = projection(cfg.down_proj, cfg.hidden_dim, cfg.dim)
        self.gate_proj.initialise(cfg.dim**-0.5)
        self.up_proj.initialise(cfg.dim**-0.5)
        self.down_proj.initialise(0.02 / 2**0.5 if cfg.output_init_std is None else cfg.output_init_std)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token (the same at every `length`)."""
        return float(sum(map_.flops() for map_ in (self.gate_proj, self.up_proj, self.down_proj)))
