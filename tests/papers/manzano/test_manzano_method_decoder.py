"""Image decoders: counts against formulas and published totals, what they see, classifier-free dropout, bad inputs."""

from __future__ import annotations

import pytest
import torch
from manzano_tiny import PICTURE, tiny_image_decoder

from orchard.papers.manzano.method.decoder import (
    BLOCKS,
    LEAST,
    ImageDecoder,
    RegressionDecoder,
    block_weights,
    blocks,
    centres,
    count_parameters,
)
from orchard.papers.manzano.method.models import DIT_AIR, Size, image_decoder, regression_decoder

FORMULAS = {  # weights over dim², of n layers: a n + b
    "MMDiT": (36, 0), "MMDiT, shared modulation": (24, 12), "PixArt-alpha": (16, 6), "DiT-Air": (12, 12),
    "DiT-Air Lite, attention shared": (8, 16), "DiT-Air Lite, all shared": (0, 24),
}  # fmt: skip
PUBLISHED = {  # arXiv 2503.10618, millions at size B, embedders and heads included
    "MMDiT": 902, "MMDiT, shared modulation": 631, "DiT-Air": 321, "DiT-Air Lite, attention shared": 230,
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_hold_what_the_formulas_say(kind: str) -> None:
    """S5."""
    for size in (DIT_AIR["S"], DIT_AIR["B"], Size(24, 3, 1)):
        with torch.device("meta"):
            held = count_parameters(blocks(kind, size.num_layers, size.dim))
        expected = (FORMULAS[kind][0] * size.num_layers + FORMULAS[kind][1]) * size.dim**2
        assert held == expected == block_weights(kind, size.num_layers, size.dim)
    if kind in PUBLISHED:
        size = DIT_AIR["B"]
        assert block_weights(kind, size.num_layers, size.dim) == pytest.approx(PUBLISHED[kind] * 1e6, rel=0.1)


@pytest.mark.parametrize(("name", "billions"), [("L", 0.708), ("XL", 1.371), ("XXL", 2.768)])
def test_the_decoder_that_runs_has_the_blocks_that_are_counted(name: str, billions: float) -> None:
    size = DIT_AIR[name]
    with torch.device("meta"):  # 256 pixels, a latent of 8 channels
        decoder = ImageDecoder.Config(
            height=32, width=32, patch=2, square=8, code_dim=6, channels=8,
            dim=size.dim, num_layers=size.num_layers, num_heads=size.num_heads,
        ).build()  # fmt: skip
    assert decoder.block_parameters() == block_weights("DiT-Air", size.num_layers, size.dim)
    assert decoder.block_parameters() / 1e9 == pytest.approx(billions, abs=5e-4)
    assert count_parameters(decoder) < 1.02 * decoder.block_parameters()


def test_a_new_decoder_predicts_grey_and_learns() -> None:
    decoder = image_decoder(PICTURE, Size(16, 2, 2), patch=6, code_dim=3).build()
    x, t, codes = torch.randn(2, 12, 24, 3), torch.tensor([0.5, 0.01]), torch.randn(2, 2, 3)
    torch.testing.assert_close(decoder(x, t, codes), x / torch.tensor([0.5, LEAST])[:, None, None, None])
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    for _ in range(3):  # zeros are left behind from the head down
        optimizer.zero_grad()
        (decoder(x, t, codes, torch.tensor([True, False])) - x).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in decoder.parameters())


@torch.no_grad()
def test_every_input_matters() -> None:
    decoder = tiny_image_decoder(reference=True)
    x, t, codes, seen = torch.randn(1, 12, 24, 3), torch.rand(1), torch.randn(1, 2, 3), torch.randn(1, 12, 24, 3)
    dropped = torch.tensor([True])
    made = [
        decoder(x, t, codes), decoder(x, t + 0.1, codes), decoder(x, t, codes.flip(1)), decoder(x.flip(2), t, codes),
        decoder(x, t, codes, dropped), decoder(x, t, codes, None, seen), decoder(x, t, codes, None, seen.flip(2)),
    ]  # fmt: skip
    for i, first in enumerate(made):
        assert all(not torch.allclose(first, second, atol=1e-3) for second in made[:i])
    assert torch.equal(decoder(x, t, codes, ~dropped), made[0])
    assert torch.equal(decoder(x, t, codes.flip(1), dropped), made[4])  # nothing is told of dropped codes
    rows = decoder(torch.cat((x, x)), torch.cat((t, t)), torch.cat((codes, codes)), torch.tensor([False, True]))
    torch.testing.assert_close(
        rows, torch.cat((made[0], made[4])), rtol=1e-4, atol=1e-4
    )  # a difference is divided by t


def test_low_precision_runs() -> None:
    decoder = tiny_image_decoder()
    with torch.autocast("cpu", torch.bfloat16):
        v = decoder(torch.randn(2, 12, 24, 3), torch.rand(2), torch.randn(2, 2, 3), torch.tensor([True, False]))
    assert v.isfinite().all()
    with torch.no_grad():
        low = decoder.bfloat16()(torch.randn(2, 12, 24, 3).bfloat16(), torch.rand(2), torch.randn(2, 2, 3).bfloat16())
    assert low.dtype == torch.bfloat16


def test_a_code_stands_among_the_patches_that_it_covers() -> None:
    nearest = (centres(36, 36, 12, 64) @ centres(36, 36, 4, 64).T).argmax(dim=1)
    assert nearest.tolist() == [9 * row + column for row in (1, 4, 7) for column in (1, 4, 7)]


def test_the_regression_decoder_draws_each_square() -> None:
    decoder = regression_decoder(PICTURE, Size(16, 2, 2), code_dim=3).build()
    drawn = decoder(torch.randn(2, 2, 3))
    assert drawn.shape == (2, 12, 24, 3)
    drawn.square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    bare = RegressionDecoder.Config(height=12, width=24, square=12, code_dim=16, dim=8, num_layers=0, num_heads=1)
    assert bare.build()(torch.randn(1, 2, 16)).shape == (1, 12, 24, 3)  # the head of a reconstruction loss
    with pytest.raises(ValueError, match="5 codes a picture: it draws 2 squares"):
        decoder(torch.randn(2, 5, 3))


def test_bad_inputs() -> None:
    wrong: list[tuple[dict[str, int], str]] = [
        ({"patch": 5}, "squares of side 5 on a picture of 12 x 24"),
        ({"square": 0}, "squares of side 0"),
        ({"dim": 18}, "make dim a multiple of 4"),
        ({"num_layers": 0}, "num_layers is 0: give at least 1"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            image_decoder(PICTURE, Size(16, 1, 2), patch=6, code_dim=3).set(**changes).build()
    decoder = tiny_image_decoder()
    x, t, codes = torch.randn(1, 12, 24, 3), torch.rand(1), torch.randn(1, 2, 3)
    for bad in ((x[:, :6], codes), (x, codes[:, :1])):
        with pytest.raises(ValueError, match=r"give \[b, 12, 24, 3\] and the FSQ values of 2 codes, \[b, 2, 3\]"):
            decoder(bad[0], t, bad[1])
    with pytest.raises(ValueError, match=r"set ImageDecoder\.Config\.reference"):
        decoder(x, t, codes, None, x)
    with pytest.raises(ValueError, match="blocks of 'UNet' are not known: choose one of MMDiT"):
        blocks("UNet", 2, 8)
