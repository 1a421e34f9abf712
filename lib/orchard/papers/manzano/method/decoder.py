"""The image decoder: a DiT-Air transformer that says in which direction a noisy picture moves, given the codes of its squares.

    tokens   = [W_c q + P_c  ;  (W_r patches(reference) + P_x + e_r)  ;  W_x patches(x_t) + P_x]        q: FSQ values of the codes
    m        = W_s silu(time(t))         six vectors (shift, scale, gate, twice), one W_s for conditions and one for noisy patches
    u        = u + gate_1 * Attention(LN(u) (1 + scale_1) + shift_1)         every token sees every other: one set of Q, K, V, O
    u        = u + gate_2 * MLP(LN(u) (1 + scale_2) + shift_2)               and one MLP for both kinds of tokens
    x̂        = unpatches(W_o (LN(u) (1 + scale) + shift))                    noisy patches alone
    v        = (x_t - x̂) / max(t, 0.05)

W_s, 12 d² weights, is shared by all layers and begins at zero, so a layer begins as the identity. A decoder knows of a picture its codes
alone, nothing of the language model, so that either can be exchanged. Editing may add the clean reference picture in context.
The picture is predicted, not its velocity: a patch has more numbers than the decoder is wide, and noise fills them all.
To be guided without a classifier, the codes of some samples are dropped: a learned vector stands for each of them.

Weights in blocks, N layers of width d, without biases and norms:

    MMDiT 36 N d²    with shared modulation (24 N + 12) d²    PixArt-alpha (16 N + 6) d²    DiT-Air (12 N + 12) d²
    DiT-Air Lite, attention shared (8 N + 16) d²              all shared 24 d²

x [b, height, width, c] pixels in -1 ... 1 or latents, t [b] in 0 ... 1, codes [b, n, k], squares and patches row by row.
Sources: Manzano, arXiv 2509.16197 (image decoder, editing); Chen et al. 2025, arXiv 2503.10618 (DiT-Air); Peebles and Xie 2023,
arXiv 2212.09748 (modulation that begins at zero); Li and He 2025, arXiv 2511.13720 (why the picture is predicted).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn import Attention, Block, FeedForward, Projection, RMSNorm, patches, unpatches
from orchard.nn.projection import projection
from orchard.nn.vit import grid_positions

FREQUENCIES = 256  # sines and cosines of the time
LEAST = 0.05  # of t, in the velocity towards a predicted picture


class ModulatedBlock(nn.Module):
    """A layer of 12 d² weights: attention without order or mask and an MLP of inner width 4 d, both modulated."""

    def __init__(self, dim: int, num_heads: int, output_init_std: float) -> None:
        super().__init__()
        self.attention: Attention = Attention.Config(
            dim=dim, num_heads=num_heads, causal=False, rotary=None, output_init_std=output_init_std
        ).build()
        self.up, self.down = mlp(dim, output_init_std)

    def forward(
        self, x: Float[Tensor, "b tokens dim"], modulation: tuple[Float[Tensor, "b tokens dim"], ...]
    ) -> Float[Tensor, "b tokens dim"]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x = x + gate * self.attention(modulated(x, shift, scale))
        return x + mlp_gate * self.down(F.gelu(self.up(modulated(x, mlp_shift, mlp_scale))))


def mlp(dim: int, output_init_std: float = 0.02) -> tuple[Projection, Projection]:
    """The two maps of an MLP of inner width 4 d, 8 d² weights."""
    up, down = projection(Projection.Config(), dim, 4 * dim), projection(Projection.Config(), 4 * dim, dim)
    up.initialise(dim**-0.5)
    down.initialise(output_init_std)
    return up, down


def modulated(
    x: Float[Tensor, "b tokens dim"], shift: Float[Tensor, "b #tokens dim"], scale: Float[Tensor, "b #tokens dim"]
) -> Float[Tensor, "b tokens dim"]:
    """Normalised, then scaled and shifted."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def time_features(t: Float[Tensor, "b"]) -> Float[Tensor, "b features"]:
    """Cosines and sines of 1000 t, from 1 to 1/10,000 radians: float32. Source: Peebles and Xie 2023."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = 1000 * t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def centres(height: int, width: int, side: int, dim: int) -> Float[Tensor, "squares dim"]:
    """The positions of the centres of squares, on the grid of pixels: a code and the patches that it covers are near. Raises ValueError
    where the side does not divide the picture, or 4 the width of the model."""
    if side < 1 or height % side or width % side:
        raise ValueError(
            f"squares of side {side} on a picture of {height} x {width}: both sides must be multiples, choose another patch or square"
        )
    positions = grid_positions(height, width, dim).view(height, width, dim)
    return positions[side // 2 :: side, side // 2 :: side].flatten(0, 1)


class ImageDecoder(nn.Module, Configurable):
    """The velocity of a noisy picture, given codes. `flow.py` trains it and draws with it."""

    class Config(Configurable.Config):
        height: int = REQUIRED  # of the picture (or of its latents)
        width: int = REQUIRED
        patch: int = REQUIRED  # side of a noisy token
        square: int = REQUIRED  # side of what one code stands for: patch r of the tokenizer
        code_dim: int = REQUIRED  # k
        dim: int = REQUIRED
        num_layers: int = REQUIRED
        num_heads: int = REQUIRED
        channels: int = 3
        reference: bool = False  # whether a reference picture may be given

    places: Tensor
    code_places: Tensor

    def __init__(self, cfg: ImageDecoder.Config) -> None:
        super().__init__()
        if cfg.num_layers < 1:
            raise ValueError(f"ImageDecoder.Config.num_layers is {cfg.num_layers}: give at least 1")
        self.shape, self.patch, dim = (cfg.height, cfg.width, cfg.channels), cfg.patch, cfg.dim
        pixels = cfg.patch**2 * cfg.channels
        self.register_buffer("places", centres(cfg.height, cfg.width, cfg.patch, dim), persistent=False)
        self.register_buffer("code_places", centres(cfg.height, cfg.width, cfg.square, dim), persistent=False)
        self.code_dim = cfg.code_dim
        self.condition = nn.Linear(cfg.code_dim, dim)
        self.dropped = nn.Parameter(torch.zeros(dim))
        self.noisy = nn.Linear(pixels, dim)
        self.reference = nn.Linear(pixels, dim) if cfg.reference else None  # its bias is e_r
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.modulation = modulations(dim, streams=2)
        std = 0.02 / (2 * cfg.num_layers) ** 0.5
        self.layers = nn.ModuleList(ModulatedBlock(dim, cfg.num_heads, std) for _ in range(cfg.num_layers))
        self.head_modulation, self.head = nn.Linear(dim, 2 * dim), nn.Linear(dim, pixels)
        for map_ in (self.head_modulation, self.head):
            nn.init.zeros_(map_.weight)
            nn.init.zeros_(map_.bias)

    def forward(
        self,
        x: Float[Tensor, "b height width c"],
        t: Float[Tensor, "b"],
        codes: Float[Tensor, "b n k"],
        dropped: Bool[Tensor, "b"] | None = None,
        reference: Float[Tensor, "b height width c"] | None = None,
    ) -> Float[Tensor, "b height width c"]:
        """The velocity at time t. `dropped`: samples whose codes are not told. Raises ValueError for other shapes, and for a reference
        that the config does not know."""
        self._check(x, codes, reference)
        told = self.condition(codes)
        if dropped is not None:
            told = torch.where(dropped[:, None, None], self.dropped, told)
        conditions = told + self.code_places
        if reference is not None and self.reference is not None:
            conditions = torch.cat((conditions, self.reference(patches(reference, self.patch)) + self.places), dim=1)
        noisy = self.noisy(patches(x, self.patch)) + self.places
        tokens, count = torch.cat((conditions, noisy), dim=1), conditions.shape[1]

        time = self.time(time_features(t).to(self.dropped.dtype))
        streams = zip(*(map_(time)[:, None].chunk(6, dim=-1) for map_ in self.modulation), strict=True)
        modulation = tuple(
            torch.cat((a.expand(-1, count, -1), b.expand(-1, noisy.shape[1], -1)), dim=1) for a, b in streams
        )
        for layer in self.layers:
            tokens = layer(tokens, modulation)
        shift, scale = self.head_modulation(time)[:, None].chunk(2, dim=-1)
        made = unpatches(self.head(modulated(tokens[:, count:], shift, scale)), self.patch, *self.shape[:2])
        return (x - made) / t.clamp(min=LEAST)[:, None, None, None].to(x)

    def _check(self, x: Tensor, codes: Tensor, reference: Tensor | None) -> None:
        n = len(self.code_places)
        if x.shape[1:] != self.shape or codes.shape[1:] != (n, self.code_dim):
            raise ValueError(
                f"ImageDecoder got pictures {list(x.shape)} and codes {list(codes.shape)}: give [b, "
                f"{', '.join(map(str, self.shape))}] and the FSQ values of {n} codes, [b, {n}, {self.code_dim}]"
            )
        if reference is not None and (self.reference is None or reference.shape != x.shape):
            raise ValueError(
                f"ImageDecoder got a reference {list(reference.shape)}: set ImageDecoder.Config.reference, and give it the shape of the "
                f"pictures, {list(x.shape)}"
            )

    def block_parameters(self) -> int:
        """Weights in layers and their modulation: (12 N + 12) d²."""
        return count_parameters(self.layers) + count_parameters(self.modulation)


class RegressionDecoder(nn.Module, Configurable):
    """Codes to pixels at once, by least squares: it draws the mean of all pictures that codes allow. For smoke runs, no paper's decoder.

    With `code_dim` the width of an adapter it is the head of a reconstruction loss for a tokenizer.
    """

    class Config(Configurable.Config):
        height: int = REQUIRED
        width: int = REQUIRED
        square: int = REQUIRED  # side of what one code stands for
        code_dim: int = REQUIRED
        dim: int = REQUIRED
        num_layers: int = REQUIRED
        num_heads: int = REQUIRED
        channels: int = 3

    places: Tensor

    def __init__(self, cfg: RegressionDecoder.Config) -> None:
        super().__init__()
        self.size, self.square = (cfg.height, cfg.width), cfg.square
        self.register_buffer("places", centres(*self.size, cfg.square, cfg.dim), persistent=False)
        self.condition = nn.Linear(cfg.code_dim, cfg.dim)
        block = Block.Config(
            dim=cfg.dim,
            attention=Attention.Config(num_heads=cfg.num_heads, causal=False, rotary=None),
            feed_forward=FeedForward.Config(hidden_dim=4 * cfg.dim, activation="gelu"),
        )
        self.layers = nn.Sequential(*(block.build() for _ in range(cfg.num_layers)))
        self.norm: RMSNorm = RMSNorm.Config(dim=cfg.dim).build()
        self.head = nn.Linear(cfg.dim, cfg.square**2 * cfg.channels)

    def forward(self, codes: Float[Tensor, "b n k"]) -> Float[Tensor, "b height width c"]:
        """Pictures; squares that do not fill the picture raise ValueError."""
        if codes.shape[1] != len(self.places):
            raise ValueError(
                f"RegressionDecoder got {codes.shape[1]} codes a picture: it draws {len(self.places)} squares"
            )
        x = self.layers(self.condition(codes) + self.places)
        return unpatches(self.head(self.norm(x)), self.square, *self.size)


def modulations(dim: int, streams: int) -> nn.ModuleList:
    """Six vectors for each stream of tokens, 6 d² weights each, from zero."""
    maps = [projection(Projection.Config(), dim, 6 * dim) for _ in range(streams)]
    for map_ in maps:
        nn.init.zeros_(map_.weight)
    return nn.ModuleList(maps)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


# What the blocks of published decoders hold: attentions, MLPs and modulated streams, in each of N layers and shared by all.
BLOCKS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "MMDiT": ((2, 2, 2), (0, 0, 0)),
    "MMDiT, shared modulation": ((2, 2, 0), (0, 0, 2)),
    "PixArt-alpha": ((2, 1, 0), (0, 0, 1)),  # attention among the tokens, and to the text
    "DiT-Air": ((1, 1, 0), (0, 0, 2)),
    "DiT-Air Lite, attention shared": ((0, 1, 0), (1, 0, 2)),
    "DiT-Air Lite, all shared": ((0, 0, 0), (1, 1, 2)),
}


def blocks(kind: str, num_layers: int, dim: int) -> nn.ModuleList:
    """The parts of a published decoder's blocks, to be counted; build them on the meta device. Raises ValueError."""
    if kind not in BLOCKS:
        raise ValueError(f"blocks of {kind!r} are not known: choose one of {', '.join(BLOCKS)}")
    each, shared = BLOCKS[kind]
    found = nn.ModuleList()
    for attentions, mlps, streams in (*[each] * num_layers, shared):
        attention = Attention.Config(dim=dim, num_heads=1, causal=False, rotary=None)
        found.extend(attention.build() for _ in range(attentions))
        found.extend(part for _ in range(mlps) for part in mlp(dim))
        found.extend(modulations(dim, streams))
    return found


def block_weights(kind: str, num_layers: int, dim: int) -> int:
    """The same count by formula: 4 d² an attention, 8 d² an MLP, 6 d² a stream."""
    each, shared = BLOCKS[kind]
    d2 = [sum(weight * count for weight, count in zip((4, 8, 6), part, strict=True)) for part in (each, shared)]
    return (num_layers * d2[0] + d2[1]) * dim**2
