"""Patches, space-to-channel and the vision transformer: order of channels, inverses, what sees what, positions, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchard.nn import (
    Attention,
    Block,
    FeedForward,
    VisionTransformer,
    channel_to_space,
    patches,
    space_to_channel,
    unpatches,
)
from orchard.nn.vit import grid_positions


def config(height: int = 8, width: int = 12, **attention: Any) -> VisionTransformer.Config:
    both_ways: dict[str, Any] = {"num_heads": 2, "causal": False, "rotary": None}
    block = Block.Config(
        attention=Attention.Config(**(both_ways | attention)), feed_forward=FeedForward.Config(hidden_dim=12)
    )
    return VisionTransformer.Config(height=height, width=width, patch=4, dim=16, layers=[block] * 2)


@pytest.mark.parametrize(("height", "width", "r"), [(4, 6, 2), (9, 3, 3), (5, 7, 1), (2, 2, 2)])
def test_space_to_channel_by_loops_and_back(height: int, width: int, r: int) -> None:
    x = torch.randn(2, height * width, 5)
    out = space_to_channel(x, height, width, r)
    for row in range(height // r):
        for column in range(width // r):
            square = [x[:, (row * r + p) * width + column * r + q] for p in range(r) for q in range(r)]
            assert torch.equal(out[:, row * (width // r) + column], torch.cat(square, dim=1))
    assert torch.equal(channel_to_space(out, height, width, r), x)


def test_patches_and_back() -> None:
    pictures = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    cut = patches(pictures, 4)
    assert cut.shape == (2, 6, 48)
    assert torch.equal(cut[:, 4], pictures[:, 4:8, 4:8].flatten(1))
    assert torch.equal(unpatches(cut, 4, 8, 12), pictures)


def test_every_patch_sees_every_other() -> None:
    model = config().build()
    pixels = torch.randn(2, 8, 12, 3)
    out = model(pixels)
    assert out.shape == (2, 6, 16)
    for i in range(6):
        changed = patches(pixels, 4)
        changed[:, i] += 1
        assert (model(unpatches(changed, 4, 8, 12)) != out).any(dim=-1).all()


def test_patches_are_told_apart_by_their_place_alone() -> None:
    table = grid_positions(9, 5, 16)
    assert len(table.unique(dim=0)) == 45
    assert torch.equal(table[:5, :8], table[:1, :8].expand(5, -1))  # one row
    assert torch.equal(table[::5, 8:], table[:1, 8:].expand(9, -1))  # one column
    assert len(config().build()(torch.zeros(1, 8, 12, 3))[0].unique(dim=0)) == 6


def test_weights_do_not_depend_on_the_size_of_the_picture() -> None:
    strip, scene = config(4, 12).build(), config(12, 12).build()
    scene.load_state_dict(strip.state_dict())
    assert scene(torch.randn(1, 12, 12, 3)).shape == (1, 9, 16)


def test_initial_scale_and_a_backward_pass() -> None:
    model = config().build()
    assert model.layers[0].attention.o_proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.15)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 8, 12, 3)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 10}, r"the picture is 10 x 12, patch is 4: both sides must be positive multiples"),
        ({"patch": 0}, "patch is 0"),
        ({"layers": []}, "layers is empty: give one Block"),
        ({"dim": 18}, "18 channels: .*make dim a multiple of 4"),
    ],
)
def test_shapes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config().set(**changes).build()


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (
            Attention.Config(num_heads=2),
            r"layers\[1\]\.attention\.causal is True: .*use Attention\.Config\(causal=False",
        ),
        (Attention.Config(num_heads=2, causal=False), "attention.rotary is"),
        (Attention.Config(num_heads=2, causal=False, rotary=None, window=3), "attention.window is 3"),
    ],
)
def test_layers_that_see_less_are_refused(attention: Attention.Config, message: str) -> None:
    cfg = config()
    cfg.layers[1].set(attention=attention)
    with pytest.raises(ValueError, match=message):
        cfg.build()


@pytest.mark.parametrize("shape", [(1, 8, 12, 1), (1, 12, 8, 3), (1, 3, 8, 12)])
def test_pictures_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give floats \[batch, 8, 12, 3\] \(height, width, channels\)"):
        config().build()(torch.randn(shape))


def test_whole_numbers_are_no_pixels() -> None:
    with pytest.raises(ValueError, match=r"torch\.uint8 pixels .*such as picture / 127\.5 - 1"):
        config().build()(torch.zeros(1, 8, 12, 3, dtype=torch.uint8))


def test_grids_that_do_not_fit() -> None:
    x = torch.randn(1, 12, 4)
    with pytest.raises(ValueError, match="the grid is 3 x 4, r is 2"):
        space_to_channel(x, 3, 4, 2)
    with pytest.raises(ValueError, match="12 positions for a grid of 4 x 4"):
        space_to_channel(x, 4, 4, 2)
    with pytest.raises(ValueError, match="r is 0"):
        space_to_channel(x, 3, 4, 0)
    with pytest.raises(ValueError, match=r"12 vectors of 4 channels .*takes 4 vectors"):
        channel_to_space(x, 4, 4, 2)
    with pytest.raises(ValueError, match="channels a multiple of 9"):
        channel_to_space(x, 9, 12, 3)
    with pytest.raises(ValueError, match="the picture is 8 x 12, the patch is 5"):
        patches(torch.randn(1, 8, 12, 3), 5)
