"""The hybrid tokenizer: one vision transformer, and two adapters that make continuous vectors and discrete codes of the same squares.

    x = STC(ViT(picture))             STC: r x r neighbours become one vector; n = (h / patch / r)(w / patch / r) squares
    c = MLP_c(x)                      continuous adapter
    q = FSQ(P x),  d = MLP_d(q)       discrete adapter; P projects to the k channels of FSQ
    MLP(v) = LayerNorm(W_2 gelu(W_1 v)), both of the same inner width

Stage 0: a small language model reads one of the two, drawn anew for every sample, and the loss of its text trains everything. Without
the LayerNorm a small model did not learn to read pictures in 1,200 steps, with it in 400; depth, activation and norm are not published.

pictures [b, height, width, 3]; x [b, n, r² d_vit]; c and d [b, n, dim]; q [b, n, k]; ids [b, n], squares row by row.
Source: Manzano, arXiv 2509.16197 (hybrid tokenizer and its training).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn import VisionTransformer, space_to_channel
from orchard.papers.manzano.method.fsq import FSQ


def unit_pixels(pictures: Num[Tensor, "b height width c"]) -> Float[Tensor, "b height width c"]:
    """`uint8` pictures as floats in -1 ... 1, what every model here reads; floats stay as they are."""
    return pictures if pictures.is_floating_point() else pictures.float() / 127.5 - 1


def byte_pixels(pictures: Float[Tensor, "b height width c"]) -> UInt8[Tensor, "b height width c"]:
    """The inverse: floats in -1 ... 1 as `uint8`; what lies outside is clipped."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class MLP(nn.Module):
    """`LayerNorm(W_2 gelu(W_1 x))`. The width of the language model is that of `output` and `norm` alone."""

    def __init__(self, in_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.resize(dim)

    def resize(self, dim: int) -> None:
        """Make the last layer anew, for a language model of another width."""
        weight = self.hidden.weight
        self.output = nn.Linear(self.hidden.out_features, dim, device=weight.device, dtype=weight.dtype)
        self.norm = nn.LayerNorm(dim, device=weight.device, dtype=weight.dtype)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch dim"]:
        return self.norm(self.output(F.gelu(self.hidden(x))))


class DiscreteAdapter(nn.Module):
    """Project to k channels, round, and lift to the width of the language model. Not `rounded`: the k floats pass as they are."""

    def __init__(self, in_dim: int, hidden_dim: int, dim: int, quantizer: FSQ.Config, rounded: bool) -> None:
        super().__init__()
        self.rounded = rounded
        self.quantizer: FSQ = quantizer.build()
        self.project = nn.Linear(in_dim, self.quantizer.dim)
        self.mlp = MLP(self.quantizer.dim, hidden_dim, dim)

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b n dim"]:
        z = self._projected(x)
        values = self.quantizer(z)[0] if self.rounded else self.quantizer.bounded(z)
        return self.mlp(values.to(self.project.weight.dtype))

    def ids(self, x: Float[Tensor, "b n in_dim"]) -> Int[Tensor, "b n"]:
        """The code of every square."""
        return self.quantizer(self._projected(x))[1]

    def _projected(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a z in bfloat16 would be rounded before it is rounded
            return F.linear(x.float(), self.project.weight.float(), self.project.bias.float())


class HybridTokenizer(nn.Module, Configurable):
    """Pictures to continuous vectors and to codes."""

    class Config(Configurable.Config):
        vision: VisionTransformer.Config = REQUIRED
        quantizer: FSQ.Config = REQUIRED
        hidden_dim: int = REQUIRED  # inner width of both adapters
        dim: int = REQUIRED  # of the language model that reads them
        r: int = 3
        rounded: bool = True  # False: the k bounded floats pass, to tell the loss of rounding from that of width

    def __init__(self, cfg: HybridTokenizer.Config) -> None:
        super().__init__()
        vision = cfg.vision
        self.grid = (vision.height // vision.patch, vision.width // vision.patch)
        if cfg.r < 1 or self.grid[0] % cfg.r or self.grid[1] % cfg.r:
            raise ValueError(
                f"HybridTokenizer.Config.r is {cfg.r} for {self.grid[0]} x {self.grid[1]} patches: r must divide both sides, so "
                "change the picture's size, the patch or r"
            )
        self.r, self.n = cfg.r, self.grid[0] * self.grid[1] // cfg.r**2
        self.vision: VisionTransformer = vision.build()
        self._sizes = (cfg.r**2 * vision.dim, cfg.hidden_dim)
        self._quantizer = cfg.quantizer
        self.continuous = MLP(*self._sizes, cfg.dim)
        self.discrete = DiscreteAdapter(*self._sizes, cfg.dim, cfg.quantizer, cfg.rounded)

    @property
    def quantizer(self) -> FSQ:
        return self.discrete.quantizer

    def squares(self, pictures: Num[Tensor, "b height width 3"]) -> Float[Tensor, "b n in_dim"]:
        """What both adapters read. It can be computed once where the vision transformer is frozen. Raises ValueError as that does."""
        return space_to_channel(self.vision(unit_pixels(pictures)), *self.grid, self.r)

    def features(self, x: Float[Tensor, "b n in_dim"], discrete: Bool[Tensor, "b"]) -> Float[Tensor, "b n dim"]:
        """What the language model reads: of each picture the output of the discrete adapter, or of the continuous one."""
        return torch.where(discrete[:, None, None], self.discrete(x), self.continuous(x))

    def encode(self, pictures: Num[Tensor, "b height width 3"]) -> tuple[Float[Tensor, "b n dim"], Int[Tensor, "b n"]]:
        """Continuous vectors and codes."""
        x = self.squares(pictures)
        return self.continuous(x), self.discrete.ids(x)

    def freeze(self) -> HybridTokenizer:
        """Stages 1 to 4: vision transformer and discrete adapter no longer learn, so no code changes its meaning; the continuous adapter
        does. An arm whose language model reads the discrete adapter at a new width lets `discrete.mlp` learn."""
        self.vision.requires_grad_(False)
        self.discrete.requires_grad_(False)
        return self

    def for_width(self, dim: int) -> HybridTokenizer:
        """A copy for a language model of another width: both last layers are new, all else is the same."""
        new = copy.deepcopy(self)
        for mlp in (new.continuous, new.discrete.mlp):
            mlp.resize(dim)
        return new

    def posthoc(self, rounded: bool = True) -> HybridTokenizer:
        """A copy in which nothing learns but a new discrete adapter: codes fitted after the fact to a continuous tokenizer."""
        new = copy.deepcopy(self).requires_grad_(False)
        weight = self.continuous.output.weight
        new.discrete = DiscreteAdapter(*self._sizes, weight.shape[0], self._quantizer, rounded)
        new.discrete.to(device=weight.device, dtype=weight.dtype)
        return new


def draw_adapters(count: int, chance: float = 0.5, generator: torch.Generator | None = None) -> Bool[Tensor, "b"]:
    """For each sample whether its discrete adapter is read. The chance is not published. Raises ValueError outside 0 ... 1."""
    if not 0 <= chance <= 1:
        raise ValueError(f"the chance of the discrete adapter is {chance}: give a probability, 0 ... 1")
    return torch.rand(count, generator=generator) < chance
