"""Root-mean-square normalisation with a learned gain.

    y = x / sqrt(mean(x^2) + eps) * g        mean over the last dimension, in float32

Source: Zhang and Sennrich 2019, arXiv 1910.07467.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable


class RMSNorm(nn.Module, Configurable):
    """Normalises the last dimension, then multiplies by a gain that may have more dimensions.

    `dim=8` has a gain of shape [8]. `dim=[4, 8]` has a gain of shape [4, 8], one per head, while the mean still runs
    over the last dimension alone. Half-precision input is normalised in float32 and returned in its own type.
    """

    class Config(Configurable.Config):
        dim: int | list[int] = REQUIRED
        eps: float = 1e-6

    def __init__(self, cfg: RMSNorm.Config) -> None:
        super().__init__()
        shape = [cfg.dim] if isinstance(cfg.dim, int) else list(cfg.dim)
        if not shape or min(shape) < 1:
            raise ValueError(f"RMSNorm.Config.dim is {cfg.dim!r}: give a positive width, or a list of them")
        self.eps = cfg.eps
        self.gain = nn.Parameter(torch.ones(shape))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        if x.shape[x.ndim - self.gain.ndim :] != self.gain.shape:
            raise ValueError(
                f"RMSNorm got {tuple(x.shape)}, its gain is {tuple(self.gain.shape)}: the last dimensions must agree"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = torch.linalg.vecdot(wide, wide).unsqueeze(-1)  # half the passes of square().mean()
        y = wide * torch.rsqrt(square / wide.shape[-1] + self.eps)
        return (y * self.gain).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.gain.shape)}, eps={self.eps}"
