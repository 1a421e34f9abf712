"""The tokens of the dual-encoder arm: a convolutional auto-encoder with FSQ, trained on pixels and told nothing by text.

    q = FSQ(P LayerNorm(E(x)))        x^ = D(q)        loss = mean (x^ - x)²

E makes one vector of every square of `square` pixels a side, D its mirror image. Without the LayerNorm all squares begin as one code.
The paper takes an internal MagViT-2 with FSQ, 64K codes and squares of 8 pixels; pictures of 128 instead of 256 pixels gave it better
generation. Ours has the quantiser of the hybrid tokenizer, so that the two differ in what their codes were trained on.

x and x^ [b, height, width, 3] in -1 ... 1, ids [b, n], squares row by row.
Source: Manzano, arXiv 2509.16197 (table 1, dual encoder); Yu et al. 2024, arXiv 2310.05737 (MagViT-2).
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.papers.manzano.method.fsq import FSQ


class Residual(nn.Module):
    """x + Conv(gelu(Conv(gelu(x)))), 3 x 3."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))
        self.layers = nn.Sequential(*(layer for convolution in convolutions for layer in (nn.GELU(), convolution)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


class AutoEncoder(nn.Module, Configurable):
    """Pictures to codes and back."""

    class Config(Configurable.Config):
        square: int = REQUIRED  # side of what one code stands for, pixels
        dim: int = REQUIRED  # channels
        quantizer: FSQ.Config = REQUIRED
        num_layers: int = 2  # residual layers on the grid of squares, on either side

    def __init__(self, cfg: AutoEncoder.Config) -> None:
        super().__init__()
        self.square, dim = cfg.square, cfg.dim
        self.quantizer: FSQ = cfg.quantizer.build()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, dim, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(dim, dim, cfg.square, stride=cfg.square),
            *(Residual(dim) for _ in range(cfg.num_layers)),
        )
        self.project = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self.quantizer.dim))
        self.decoder = nn.Sequential(
            nn.Conv2d(self.quantizer.dim, dim, 1),
            *(Residual(dim) for _ in range(cfg.num_layers)),
            nn.ConvTranspose2d(dim, dim, cfg.square, stride=cfg.square),
            nn.GELU(),
            nn.Conv2d(dim, 3, 3, padding=1),
        )

    def forward(
        self, pictures: Float[Tensor, "b height width 3"]
    ) -> tuple[Float[Tensor, "b height width 3"], Int[Tensor, "b n"]]:
        """Reconstructions and codes. Raises ValueError for a picture that squares do not fill."""
        height, width = pictures.shape[1:3]
        if height % self.square or width % self.square:
            raise ValueError(
                f"AutoEncoder got pictures of {height} x {width}, its squares are {self.square} pixels a side: resize to multiples"
            )
        x = self.encoder(rearrange(pictures, "b h w c -> b c h w"))
        values, ids = self.quantizer(self.project(rearrange(x, "b c h w -> b h w c")))
        made = rearrange(self.decoder(rearrange(values, "b h w k -> b k h w")), "b c h w -> b h w c")
        return made, ids.flatten(1)
