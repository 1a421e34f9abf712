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

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}


class FeedForward(nn.Module, Configurable):
    """Gated feed-forward of inner width `hidden_dim`, position by position."""

    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden_dim: int = REQUIRED
        activation: str = "silu"
        output_init_std: float | None = None  # pushed down by the decoder; None = 0.02 / sqrt(2), a single layer

    def __init__(self, cfg: FeedForward.Config) -> None:
        super().__init__()
        if cfg.activation not in ACTIVATIONS:
            raise ValueError(
                f"FeedForward.Config.activation is {cfg.activation!r}: choose one of {', '.join(ACTIVATIONS)}"
            )
        self.activation = cfg.activation
        self.gate_proj = nn.Linear(cfg.dim, cfg.hidden_dim, bias=False)
        self.up_proj = nn.Linear(cfg.dim, cfg.hidden_dim, bias=False)
        self.down_proj = nn.Linear(cfg.hidden_dim, cfg.dim, bias=False)
        nn.init.normal_(self.gate_proj.weight, std=cfg.dim**-0.5)
        nn.init.normal_(self.up_proj.weight, std=cfg.dim**-0.5)
        output_std = 0.02 / 2**0.5 if cfg.output_init_std is None else cfg.output_init_std
        nn.init.normal_(self.down_proj.weight, std=output_std)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token (the same at every `length`)."""
        return 2.0 * sum(projection.weight.numel() for projection in (self.gate_proj, self.up_proj, self.down_proj))
