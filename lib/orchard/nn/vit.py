"""The vision transformer: patches of a picture are its tokens, and every token sees every other.

    x = W patches(pixels) + P;  every layer as in a decoder, without a causal mask;  y = Norm(x)

P are fixed sines and cosines of a patch's row and column. They hold no weights, so the weights of a model do not depend on the
size of its pictures: those that were trained on strips of text go on with whole scenes. Fixed ones also learn faster than
learned ones on short schedules (Beyer et al. 2022, arXiv 2205.01580).

**Order of channels.** A square of r x r vectors becomes one vector row by row, the channels of each vector together: (p q c). Patches
of pixels are the same rearrangement as space-to-channel of patches, `rearrange(x, "b (h p w q) c -> b (h w) (p q c)")`.

Pictures are [batch, height, width, channels], as they lie in files; tokens [batch, patches, channels], row by row.
Sources: Dosovitskiy et al. 2021, arXiv 2010.11929 (vision transformer); Manzano, arXiv 2509.16197, section 3.1 (space-to-channel).
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn.norm import RMSNorm
from orchard.nn.projection import Projection, projection
from orchard.nn.transformer import Block


def space_to_channel(
    x: Num[Tensor, "batch positions channels"], height: int, width: int, r: int
) -> Num[Tensor, "batch fewer more_channels"]:
    """Squares of r x r neighbours in a grid of `height` x `width` become one vector each: [b, h w, c] -> [b, h w / r², r² c].

    Raises ValueError for a grid that r does not divide, or that does not hold the positions of `x`.
    """
    if x.shape[1] != height * width:
        raise ValueError(
            f"space_to_channel got {x.shape[1]} positions for a grid of {height} x {width}: give the grid that they came from"
        )
    _check_divides("space_to_channel: the grid", height, width, "r", r)
    return rearrange(x, "b (h p w q) c -> b (h w) (p q c)", h=height // r, p=r, q=r)


def channel_to_space(
    x: Num[Tensor, "batch positions channels"], height: int, width: int, r: int
) -> Num[Tensor, "batch more fewer_channels"]:
    """The inverse: `height` x `width` is the grid that comes out, [b, h w / r², r² c] -> [b, h w, c]. Raises ValueError as well."""
    _check_divides("channel_to_space: the grid", height, width, "r", r)
    if x.shape[1] * r * r != height * width or x.shape[2] % (r * r):
        raise ValueError(
            f"channel_to_space got {x.shape[1]} vectors of {x.shape[2]} channels for a grid of {height} x {width} and r={r}: "
            f"it takes {height * width // r**2} vectors, their channels a multiple of {r * r}"
        )
    return rearrange(x, "b (h w) (p q c) -> b (h p w q) c", h=height // r, p=r, q=r)


def patches(x: Num[Tensor, "batch height width channels"], p: int) -> Num[Tensor, "batch patches patch_channels"]:
    """Pictures cut into patches of p x p pixels: [b, h, w, c] -> [b, h w / p², p² c]. Raises ValueError where p does not divide."""
    height, width = x.shape[1:3]
    _check_divides("patches: the picture", height, width, "the patch", p)
    return space_to_channel(x.flatten(1, 2), height, width, p)


def unpatches(
    x: Num[Tensor, "batch patches patch_channels"], p: int, h: int, w: int
) -> Num[Tensor, "batch height width channels"]:
    """The inverse: pictures of h x w pixels from their patches. Raises ValueError as `channel_to_space` does."""
    return channel_to_space(x, h, w, p).unflatten(1, (h, w))


def grid_positions(height: int, width: int, dim: int, theta: float = 10_000.0) -> Float[Tensor, "positions dim"]:
    """Sines and cosines of the row (first half of the channels) and of the column (second half), a grid read row by row.

        [sin(a f), cos(a f)] for a = row, then column        f_i = theta^(-4 i / dim), i < dim / 4

    Raises ValueError unless 4 divides `dim`. Source: Vaswani et al. 2017, arXiv 1706.03762, once for each axis.
    """
    if dim % 4:
        raise ValueError(
            f"positions of {dim} channels: rows and columns have sines and cosines, so make dim a multiple of 4"
        )
    frequencies = theta ** (-torch.arange(dim // 4, dtype=torch.float32) * 4 / dim)
    rows, columns = (torch.arange(length).float()[:, None] * frequencies for length in (height, width))
    rows, columns = (torch.cat((angles.sin(), angles.cos()), dim=1) for angles in (rows, columns))
    return torch.cat((rows.repeat_interleave(width, dim=0), columns.repeat(height, 1)), dim=1)


class VisionTransformer(nn.Module, Configurable):
    """Patch embedding, fixed positions, blocks that see both ways, final norm.

    Its layers are built with `Attention.Config(causal=False, rotary=None)`. Pixels are floats of about unit scale, for example
    `picture / 127.5 - 1` of a `uint8` picture.
    """

    class Config(Configurable.Config):
        height: int = REQUIRED  # of the picture, in pixels
        width: int = REQUIRED
        patch: int = REQUIRED  # side of a patch, in pixels
        dim: int = REQUIRED
        layers: list[Block.Config] = REQUIRED
        channels: int = 3
        embed: Projection.Config = Projection.Config()
        norm: RMSNorm.Config = RMSNorm.Config()

    def __init__(self, cfg: VisionTransformer.Config) -> None:
        super().__init__()
        if not cfg.layers:
            raise ValueError("VisionTransformer.Config.layers is empty: give one Block.Config per layer")
        _check_divides("VisionTransformer.Config: the picture", cfg.height, cfg.width, "patch", cfg.patch)
        for i, layer in enumerate(cfg.layers):
            for field, value in {"causal": False, "rotary": None, "window": None}.items():
                if (given := getattr(layer.attention, field)) != value:
                    raise ValueError(
                        f"VisionTransformer.Config.layers[{i}].attention.{field} is {given!r}: every patch sees every other and "
                        "has its place already, so use Attention.Config(causal=False, rotary=None) without a window"
                    )
            layer.set(dim=cfg.dim)
            if layer.output_init_std is None:
                layer.set(output_init_std=0.02 / (2 * len(cfg.layers)) ** 0.5)
        self.shape, self.patch = (cfg.height, cfg.width, cfg.channels), cfg.patch
        inputs = cfg.patch**2 * cfg.channels
        self.embed = projection(cfg.embed, inputs, cfg.dim)
        self.embed.initialise(inputs**-0.5)
        positions = grid_positions(cfg.height // cfg.patch, cfg.width // cfg.patch, cfg.dim)
        self.register_buffer("positions", positions, persistent=False)
        self.layers = nn.ModuleList(layer.build() for layer in cfg.layers)
        self.norm = cfg.norm.set(dim=cfg.dim).build()

    def forward(self, pixels: Num[Tensor, "batch height width channels"]) -> Float[Tensor, "batch patches dim"]:
        """One vector per patch, row by row. Raises ValueError for pictures of another size, or of whole numbers."""
        if pixels.shape[1:] != self.shape or not pixels.is_floating_point():
            height, width, channels = self.shape
            raise ValueError(
                f"VisionTransformer got {pixels.dtype} pixels [batch, {', '.join(map(str, pixels.shape[1:]))}]: give floats "
                f"[batch, {height}, {width}, {channels}] (height, width, channels), such as picture / 127.5 - 1"
            )
        x = self.embed(patches(pixels, self.patch)) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def _check_divides(place: str, height: int, width: int, name: str, size: int) -> None:
    if size < 1 or height < 1 or width < 1 or height % size or width % size:
        raise ValueError(
            f"{place} is {height} x {width}, {name} is {size}: both sides must be positive multiples of it; resize, or choose another"
        )
