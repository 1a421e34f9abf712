"""The hybrid tokenizer: both branches, the adapter of each sample, what is frozen, new widths, adapters fitted afterwards."""

from __future__ import annotations

import pytest
import torch
from manzano_tiny import PICTURE, pictures, quantizer, tiny_tokenizer

from orchard.nn import space_to_channel
from orchard.papers.manzano.method import Size, naive, tokenizer
from orchard.papers.manzano.method.tokenizer import HybridTokenizer, byte_pixels, draw_adapters, unit_pixels


def test_space_to_channel_is_the_specification() -> None:
    x = torch.randn(2, 6 * 9, 5)
    squares = space_to_channel(x, 6, 9, 3)
    grid = x[0].unflatten(0, (6, 9)).tolist()
    assert squares[0].tolist() == naive.space_to_channel(grid, 3)


def test_shapes_and_ids() -> None:
    tok = tiny_tokenizer(dim=10)
    shown = pictures(3)
    continuous, ids = tok.encode(shown)
    assert torch.equal(tok.encode(unit_pixels(shown))[0], continuous)
    assert unit_pixels(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist() == [[[[-1, 1]]]]
    assert torch.equal(byte_pixels(unit_pixels(shown)), shown)
    assert byte_pixels(torch.tensor([[[[-1.5, 9]]]])).tolist() == [[[[0, 255]]]]
    assert continuous.shape == (3, 2, 10)
    assert ids.shape == (3, 2) == (3, tok.n)
    assert torch.equal(ids, tok.quantizer.ids(tok.quantizer.values(ids)))
    assert tok.quantizer.size == 60
    assert tok.continuous.hidden.out_features == tok.discrete.mlp.hidden.out_features


def test_each_sample_is_read_through_its_own_adapter() -> None:
    tok, shown = tiny_tokenizer(), pictures(4)
    discrete = torch.tensor([True, False, False, True])
    x = tok.squares(shown)
    expected = torch.stack([(tok.discrete if d else tok.continuous)(x)[i] for i, d in enumerate(discrete)])
    features = tok.features(x, discrete)
    assert torch.equal(features, expected)
    features[0].square().sum().backward()
    assert tok.continuous.hidden.weight.grad is None or not tok.continuous.hidden.weight.grad.any()
    for parameter in (tok.discrete.project.weight, tok.vision.embed.weight):  # through the rounding
        assert parameter.grad is not None
        assert parameter.grad.any()


def test_adapters_are_drawn_with_their_chance() -> None:
    draws = draw_adapters(4000, 0.25, torch.Generator().manual_seed(0))
    assert draws.float().mean() == pytest.approx(0.25, abs=0.02)
    assert not draw_adapters(50, 0.0).any()
    with pytest.raises(ValueError, match=r"the chance of the discrete adapter is 1\.5"):
        draw_adapters(3, 1.5)


def test_without_rounding_the_bottleneck_passes_floats() -> None:
    rounded, smooth = tiny_tokenizer(), tiny_tokenizer(rounded=False)
    smooth.load_state_dict(rounded.state_dict())
    x = rounded.squares(pictures(3))
    assert torch.equal(smooth.discrete.ids(x), rounded.discrete.ids(x))
    z = smooth.discrete.project(x)
    assert torch.equal(smooth.discrete(x), smooth.discrete.mlp(quantizer().bounded(z)))
    assert not torch.allclose(smooth.discrete(x), rounded.discrete(x))


def test_ids_do_not_depend_on_autocast_after_the_squares() -> None:
    tok = tiny_tokenizer()
    x = torch.randn(50, 2, 72)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tok.discrete.ids(x), tok.discrete.ids(x.float()))
        assert tok.discrete(x).isfinite().all()
    low = tiny_tokenizer().bfloat16()
    assert low.features(low.squares(unit_pixels(pictures(2)).bfloat16()), torch.tensor([True, False])).dtype == torch.bfloat16  # fmt: skip


def trained(tok: HybridTokenizer) -> None:
    """Three steps with weight decay that use both adapters."""
    optimizer = torch.optim.AdamW([p for p in tok.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (tok.features(tok.squares(pictures(4)), torch.tensor([True, False, True, False])) - 1).square().mean().backward()  # fmt: skip
        optimizer.step()


def test_what_is_frozen_keeps_its_bytes_and_codes_their_meaning() -> None:
    """S3."""
    tok, shown = tiny_tokenizer().freeze(), pictures(5)
    before, (continuous, ids) = {k: v.clone() for k, v in tok.state_dict().items()}, tok.encode(shown)
    trained(tok)
    changed = {name for name, value in tok.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("continuous.")}
    assert torch.equal(tok.encode(shown)[1], ids)
    assert not torch.allclose(tok.encode(shown)[0], continuous)


def test_another_width_makes_the_last_layers_anew_and_leaves_all_else() -> None:
    tok, shown = tiny_tokenizer(dim=16), pictures(2)
    wide = tok.for_width(24)
    assert wide.features(wide.squares(shown), torch.tensor([True, False])).shape == (2, 2, 24)
    assert tok.encode(shown)[0].shape[2] == 16
    new = {name for name, value in wide.state_dict().items() if value.shape != tok.state_dict()[name].shape}
    assert {name.rsplit(".", 1)[0] for name in new} == {
        f"{mlp}.{layer}" for mlp in ("continuous", "discrete.mlp") for layer in ("output", "norm")
    }
    assert all(torch.equal(v, tok.state_dict()[k]) for k, v in wide.state_dict().items() if k not in new)
    assert torch.equal(wide.encode(shown)[1], tok.encode(shown)[1])


@pytest.mark.parametrize("rounded", [True, False])
def test_an_adapter_fitted_afterwards_learns_alone(rounded: bool) -> None:
    tok, shown = tiny_tokenizer(), pictures(3)
    later = tok.posthoc(rounded)
    assert later.discrete.rounded == rounded
    assert torch.equal(later.encode(shown)[0], tok.encode(shown)[0])
    assert not torch.equal(later.discrete.project.weight, tok.discrete.project.weight)
    before = {k: v.clone() for k, v in later.state_dict().items()}
    trained(later)
    changed = {name for name, value in later.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("discrete.")}


def test_a_grid_that_r_does_not_divide() -> None:
    with pytest.raises(ValueError, match="r is 3 for 4 x 6 patches"):
        tokenizer(type(PICTURE)(16, 24), Size(8, 1, 2, 8), [5], hidden_dim=4, dim=4).build()
