"""Rotary position embedding: the angle between two channels grows with the position.

    [x1, x2] -> [x1 cos(p f) - x2 sin(p f),  x2 cos(p f) + x1 sin(p f)]     f_i = theta^(-2 i / head_dim)

x1 and x2 are the two halves of a head (the layout of `transformers`, so that Llama weights can be copied), p the
position. The dot product of a rotated query and a rotated key depends on the difference of their positions alone.
Source: Su et al. 2021, arXiv 2104.09864.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable

FARTHEST = 2**24  # float32 counts no further in ones: beyond, neighbouring tokens would get one position


class Rotary(nn.Module, Configurable):
    """Rotates queries or keys. Angles are computed where they are needed, so that nothing grows with the position."""

    class Config(Configurable.Config):
        dim: int = REQUIRED  # head_dim, pushed down by the attention layer
        theta: float = 10_000.0
        max_length: int | None = None  # positions from here on are refused; None = 2^24, what float32 tells apart

    def __init__(self, cfg: Rotary.Config) -> None:
        super().__init__()
        if cfg.dim < 2 or cfg.dim % 2:
            raise ValueError(f"Rotary.Config.dim is {cfg.dim}: rotary turns pairs of channels, so make head_dim even")
        if cfg.theta <= 0:
            raise ValueError(f"Rotary.Config.theta is {cfg.theta}: it must be positive, for example 10000.0")
        self.dim, self.theta = cfg.dim, cfg.theta
        self.max_length = FARTHEST if cfg.max_length is None else cfg.max_length
        if not 1 <= self.max_length <= FARTHEST:
            raise ValueError(f"Rotary.Config.max_length is {cfg.max_length}: give 1 to 2^24, or None for 2^24")
        # [dim / 2], float32 whatever the type of the model: no buffer, so no cast. Made here, not at the first call: a compiled
        # function would see them change, and be compiled again.
        self._frequencies = self._made("cpu")

    def forward(
        self,
        x: Float[Tensor, "batch time heads head_dim"],
        positions: Int[Tensor, "*rows time"],
        length: int | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """Rotate `x` to `positions` ([time], or [batch, time] when the rows differ).

        `length` is any number above every position. Who knows it should pass it: reading it off `positions`
        makes the host wait for the device. Raises ValueError if it is beyond `max_length`.
        """
        if length is None:
            length = 1 if positions.is_meta else max(1, int(positions.max()) + 1)
        self.check_length(length)
        angles = positions[..., None].float() * self._on(x.device)
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat((cos, cos), dim=-1).unsqueeze(-2), torch.cat((-sin, sin), dim=-1).unsqueeze(-2)
        return (x * cos + x.roll(self.dim // 2, dims=-1) * sin).to(x.dtype)

    def check_length(self, length: int) -> None:
        """Raise ValueError if a sequence of `length` tokens has positions beyond `max_length`."""
        if length > self.max_length:
            raise ValueError(
                f"rotary position {length - 1}, but Rotary.Config.max_length is {self.max_length}: give shorter text, "
                "or raise max_length (to at most 2^24: float32 tells no more positions apart)"
            )

    def _on(self, device: torch.device) -> Tensor:
        if self._frequencies.device != device:
            self._frequencies = self._made(device)
        return self._frequencies

    @torch.inference_mode(False)  # they outlive a call made in inference mode, and training may come next
    def _made(self, device: torch.device | str) -> Tensor:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        return 1.0 / self.theta**exponents

    def extra_repr(self) -> str:
        return f"{self.dim}, theta={self.theta:g}"
