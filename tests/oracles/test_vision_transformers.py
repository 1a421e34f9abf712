"""The vision transformer against SigLIP of `transformers` with every weight copied; positions and space-to-channel against others' code.

SigLIP has layer norms, biases, a feed-forward without gate and a table of learned positions. The first three are parts put into our
configs here; its table is filled with our positions. Forward, and every gradient but that of the table, which we do not learn.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.omdet_turbo.modeling_omdet_turbo import OmDetTurboHybridEncoder

from orchard.nn import Attention, Block, FeedForward, Projection, RMSNorm, VisionTransformer, space_to_channel
from orchard.nn.vit import grid_positions

DIM, HEADS, HIDDEN, PATCH, SIDE = 24, 3, 40, 4, 12


class Biased(Projection):
    class Config(Projection.Config):
        pass

    def __init__(self, cfg: Biased.Config) -> None:
        nn.Linear.__init__(self, cfg.in_dim, cfg.out_dim)


class LayerNorm(RMSNorm):
    class Config(RMSNorm.Config):
        pass

    def __init__(self, cfg: LayerNorm.Config) -> None:
        super().__init__(cfg)
        self.bias = nn.Parameter(torch.zeros_like(self.gain))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)


class Ungated(FeedForward):
    class Config(FeedForward.Config):
        pass

    def __init__(self, cfg: Ungated.Config) -> None:
        super().__init__(cfg)
        del self.gate_proj

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


PARTS = {
    "embed.": "embeddings.patch_embedding.",
    "layers.": "encoder.layers.",
    "attention_norm.": "layer_norm1.",
    "feed_forward_norm.": "layer_norm2.",
    "feed_forward.up_proj.": "mlp.fc1.",
    "feed_forward.down_proj.": "mlp.fc2.",
    "attention.o_proj.": "self_attn.out_proj.",
    "attention.": "self_attn.",
    "gain": "weight",
}


def translated(name: str) -> str:
    """Our name of a parameter, as SigLIP calls it."""
    if name.startswith("norm."):
        name = f"post_layernorm.{name.removeprefix('norm.')}"
    for ours, theirs in PARTS.items():
        name = name.replace(ours, theirs)
    return name


def as_ours(name: str, theirs: Tensor) -> Tensor:
    """Their kernel of the patches [dim, channels, p, q] as the matrix that reads (p q c)."""
    return theirs.permute(0, 2, 3, 1).flatten(1) if name == "embed.weight" else theirs


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_siglip(implementation: str) -> None:
    theirs = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=3, num_attention_heads=HEADS, image_size=SIDE,
            patch_size=PATCH, layer_norm_eps=1e-5, vision_use_head=False, attn_implementation=implementation,
        )
    )  # fmt: skip
    maps = {f"{name}_proj": Biased.Config() for name in "qkvo"}
    layer = Block.Config(
        attention=Attention.Config(num_heads=HEADS, causal=False, rotary=None, **maps),
        feed_forward=Ungated.Config(hidden_dim=HIDDEN, up_proj=Biased.Config(), down_proj=Biased.Config()),
        norm=LayerNorm.Config(eps=1e-5),
    )
    ours = VisionTransformer.Config(
        height=SIDE, width=SIDE, patch=PATCH, dim=DIM, layers=[layer] * 3,
        embed=Biased.Config(), norm=LayerNorm.Config(eps=1e-5),
    ).build()  # fmt: skip

    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    table = other.pop("embeddings.position_embedding.weight")
    names = {name: translated(name) for name in mine}
    assert sorted(names.values()) == sorted(other)
    with torch.no_grad():
        table.copy_(ours.positions)
        for name, partner in names.items():
            other[partner].normal_(1.0 if "norm" in partner and partner.endswith("weight") else 0.0, 0.3)
            mine[name].copy_(as_ours(name, other[partner]))

    pixels = [torch.randn(2, SIDE, SIDE, 3).requires_grad_()]
    pixels.append(pixels[0].detach().permute(0, 3, 1, 2).requires_grad_())
    outputs = [ours(pixels[0]), theirs(pixels[1]).last_hidden_state]
    torch.testing.assert_close(*outputs, atol=2e-5, rtol=1e-4)
    cotangent = torch.randn_like(outputs[0])
    for out in outputs:
        out.backward(cotangent)
    torch.testing.assert_close(pixels[0].grad, pixels[1].grad.permute(0, 2, 3, 1), atol=5e-5, rtol=1e-4)
    scale = max(parameter.grad.abs().max().item() for parameter in other.values())
    for name, partner in names.items():
        a, b = mine[name].grad, as_ours(name, other[partner].grad)
        torch.testing.assert_close(a / scale, b / scale, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("time", "kv_heads"), [(1, 1), (7, 2), (9, 6)])
def test_attention_without_a_mask_is_the_fused_kernel(time: int, kv_heads: int) -> None:
    layer = Attention.Config(dim=DIM, num_heads=6, num_kv_heads=kv_heads, causal=False, rotary=None).build()
    x = torch.randn(2, time, DIM)
    q, k, v = (y.transpose(1, 2) for y in layer.project(x))
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=kv_heads < 6).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), layer.o_proj(expected))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 9), (9, 9)])
def test_positions(height: int, width: int) -> None:
    made = OmDetTurboHybridEncoder.build_2d_sincos_position_embedding  # what it is told first it counts slowest
    torch.testing.assert_close(grid_positions(height, width, 16), made(height, width, 16, 10_000.0)[0])


@pytest.mark.parametrize("r", [1, 2, 3])
def test_space_to_channel_is_pixel_unshuffle_with_its_channels_in_another_order(r: int) -> None:
    x = torch.randn(2, 6, 12, 5)
    out = space_to_channel(x.flatten(1, 2), 6, 12, r)
    unshuffled = F.pixel_unshuffle(x.permute(0, 3, 1, 2), r)
    assert torch.equal(out, rearrange(unshuffled, "b (c p q) h w -> b (h w) (p q c)", p=r, q=r))
    assert torch.equal(out, rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=r, q=r))
