"""Rotary: the equation, relative positions, constant memory, the range, casts, the meta device."""

from __future__ import annotations

import copy

import pytest
import torch

from orchard.nn import Rotary


def test_equation_by_complex_numbers() -> None:
    rotary = Rotary.Config(dim=6, theta=500.0).build()
    x = torch.randn(2, 5, 3, 6)
    positions = torch.tensor([0, 1, 7, 100, 3])
    frequencies = 500.0 ** (-torch.arange(3) / 3)
    turns = torch.polar(torch.ones(5, 3), positions[:, None] * frequencies)
    turned = torch.complex(x[..., :3], x[..., 3:]) * turns[None, :, None]
    torch.testing.assert_close(rotary(x, positions), torch.cat((turned.real, turned.imag), dim=-1))


def test_scores_depend_on_the_difference_of_positions() -> None:
    rotary = Rotary.Config(dim=8).build()
    q, k = torch.randn(1, 4, 1, 8), torch.randn(1, 4, 1, 8)
    positions = torch.tensor([0, 1, 5, 6])

    def scores(shift: int) -> torch.Tensor:
        at = positions + shift
        return torch.einsum("bqhd,bkhd->bhqk", rotary(q, at), rotary(k, at))

    torch.testing.assert_close(scores(0), scores(37), atol=1e-5, rtol=1e-4)


def test_positions_may_differ_by_row() -> None:
    rotary = Rotary.Config(dim=4).build()
    x = torch.randn(2, 3, 2, 4)
    rows = torch.tensor([[0, 1, 2], [0, 0, 1]])
    y = rotary(x, rows)
    for row in range(2):
        torch.testing.assert_close(y[row : row + 1], rotary(x[row : row + 1], rows[row]))


def test_nothing_grows_with_the_position() -> None:
    rotary = Rotary.Config(dim=4).build()
    x = torch.randn(1, 3, 1, 4)
    near = rotary(x, torch.arange(3))
    far = rotary(x, torch.tensor([10_000, 10_001, 2**24 - 1]), length=2**24)
    assert rotary._frequencies.shape == (2,)
    torch.testing.assert_close(far.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotary(x, torch.arange(3)), near)
    assert not rotary.state_dict()


def test_range() -> None:
    x = torch.randn(1, 3, 1, 4)
    short = Rotary.Config(dim=4, max_length=8).build()
    short(x, torch.tensor([5, 6, 7]))
    with pytest.raises(ValueError, match=r"rotary position 8, but Rotary\.Config\.max_length is 8: give shorter text"):
        short(x, torch.tensor([6, 7, 8]))
    with pytest.raises(ValueError, match=r"rotary position 16777216, but .* is 16777216"):  # float32(2^24 + 1) is 2^24
        Rotary.Config(dim=4).build()(x, torch.tensor([0, 1, 2**24]))
    for length in (0, 2**24 + 1):
        with pytest.raises(ValueError, match=rf"max_length is {length}: give 1 to 2\^24"):
            Rotary.Config(dim=4, max_length=length).build()


def test_empty_slots_at_position_minus_one_do_not_fail() -> None:
    x = torch.randn(1, 2, 1, 4)
    assert Rotary.Config(dim=4).build()(x, torch.tensor([-1, -1])).isfinite().all()


def test_casting_the_model_leaves_the_angles_in_float32() -> None:
    rotary = Rotary.Config(dim=64).build()
    x = torch.randn(1, 1, 1, 64)
    position = torch.tensor([3001])
    exact = rotary(x, position)
    rotary.to(torch.bfloat16)
    assert rotary(x, position).dtype == torch.float32
    torch.testing.assert_close(rotary(x, position), exact)
    assert rotary(x.bfloat16(), position).dtype == torch.bfloat16
    assert copy.deepcopy(rotary)(x, position).dtype == torch.float32


def test_meta_device_then_memory() -> None:
    with torch.device("meta"):
        rotary = Rotary.Config(dim=4).build()
        x = torch.empty(1, 3, 1, 4)
        assert rotary(x, torch.arange(3)).is_meta
        assert rotary(x, torch.arange(3), length=3).is_meta
    rotary.to_empty(device="cpu")  # gives the module uninitialised memory: the frequencies must not be taken from it
    x = torch.randn(1, 3, 1, 4)
    torch.testing.assert_close(rotary(x, torch.arange(3)), Rotary.Config(dim=4).build()(x, torch.arange(3)))


def test_frequencies_made_in_inference_mode_serve_training() -> None:
    rotary = Rotary.Config(dim=4).build()
    x = torch.randn(1, 3, 1, 4, requires_grad=True)
    with torch.inference_mode():
        rotary(x, torch.arange(3))
    rotary(x, torch.arange(3)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("dim", "theta", "message"), [(5, 1e4, "even"), (0, 1e4, "even"), (4, 0.0, "positive")])
def test_errors(dim: int, theta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rotary.Config(dim=dim, theta=theta).build()
