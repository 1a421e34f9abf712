"""Rotary position embedding: the angle between two channels grows with the position.

    [x1, x2] -> [x1 cos(p f) - x2 sin(p f),  x2 cos(p f) + x1 sin(p f)]     f_i = theta^(-2 i / head_dim)

x1 and x2 are the two halves of a head (the layout of `transformers`, so that Llama weights can be copied), p the
position. The dot product of a rotated query and a rotated key depends on the difference of their positions alone.
Source: Su et al. 2021, arXiv 2104.09864.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable


class Rotary(nn.Module, Configurable):
    """Rotates queries or keys; works at any length, for the tables of cosines and sines grow on demand."""

    class Config(Configurable.Config):
        dim: int = REQUIRED  # head_dim, pushed down by the attention layer
        theta: float = 10_000.0
        max_length: int | None = None  # positions from here on are refused; None: the tables grow with the text

    cos: Tensor  # [length, dim / 2], float32 whatever the type of the model
    sin: Tensor

    def __init__(self, cfg: Rotary.Config) -> None:
        super().__init__()
        if cfg.dim < 2 or cfg.dim % 2:
            raise ValueError(f"Rotary.Config.dim is {cfg.dim}: rotary turns pairs of channels, so make head_dim even")
        if cfg.theta <= 0:
            raise ValueError(f"Rotary.Config.theta is {cfg.theta}: it must be positive, for example 10000.0")
        if cfg.max_length is not None and cfg.max_length < 1:
            raise ValueError(f"Rotary.Config.max_length is {cfg.max_length}: give at least 1, or None for no limit")
        self.dim, self.theta, self.max_length = cfg.dim, cfg.theta, cfg.max_length
        self._forget()

    def forward(
        self,
        x: Float[Tensor, "batch time heads head_dim"],
        positions: Int[Tensor, "*rows time"],
        length: int | None = None,
    ) -> Float[Tensor, "batch time heads head_dim"]:
        """Rotate `x` to `positions` ([time], or [batch, time] when the rows differ).

        `length` is any number above every position. Who knows it should pass it: reading it off `positions`
        makes the host wait for the device.
        """
        if length is None:
            length = 1 if positions.is_meta else max(1, int(positions.max()) + 1)
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"rotary position {length - 1}, but Rotary.Config.max_length is {self.max_length}: give shorter text, "
                "or raise max_length (None for no limit)"
            )
        if length > len(self.cos) or self.cos.device != x.device:
            self._grow(length, x.device)
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x.dtype)

    @torch.inference_mode(False)  # the tables outlive a call made in inference mode, and training may come next
    def _grow(self, length: int, device: torch.device) -> None:
        length = 1 << (length - 1).bit_length()  # powers of two: decoding token by token rebuilds rarely
        positions = torch.arange(length, dtype=torch.float32, device=device)
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        angles = torch.outer(positions, 1.0 / self.theta**exponents)
        self.cos, self.sin = angles.cos(), angles.sin()

    def _forget(self) -> None:
        self.register_buffer("cos", torch.empty(0, self.dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(0, self.dim // 2), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # A cast would leave the tables in half precision, to_empty() with garbage: drop them, the next call rebuilds.
        self._forget()
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self.dim}, theta={self.theta:g}"
