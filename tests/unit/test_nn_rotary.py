"""Rotary: the equation, relative positions, tables that grow and survive casts, the meta device."""

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


def test_tables_grow_on_demand_and_are_kept() -> None:
    rotary = Rotary.Config(dim=4).build()
    assert len(rotary.cos) == 0
    assert not rotary.state_dict()
    x = torch.randn(1, 3, 1, 4)
    rotary(x, torch.arange(3), length=3)
    table = rotary.cos
    rotary(x, torch.arange(3))
    assert rotary.cos is table
    far = torch.tensor([10_000, 10_001, 10_002])
    near = rotary(x, torch.arange(3))
    assert rotary(x, far).isfinite().all()
    torch.testing.assert_close(rotary(x, torch.arange(3)), near)


def test_empty_slots_at_position_minus_one_do_not_fail() -> None:
    x = torch.randn(1, 2, 1, 4)
    assert Rotary.Config(dim=4).build()(x, torch.tensor([-1, -1])).isfinite().all()


def test_casting_the_model_leaves_the_tables_in_float32() -> None:
    rotary = Rotary.Config(dim=64).build()
    x = torch.randn(1, 1, 1, 64)
    position = torch.tensor([3001])
    exact = rotary(x, position)
    rotary.to(torch.bfloat16)
    assert rotary(x, position).dtype == torch.float32
    torch.testing.assert_close(rotary(x, position), exact)
    assert rotary(x.bfloat16(), position).dtype == torch.bfloat16
    assert copy.deepcopy(rotary).cos.dtype == torch.float32


def test_meta_device_then_memory() -> None:
    with torch.device("meta"):
        rotary = Rotary.Config(dim=4).build()
        x = torch.empty(1, 3, 1, 4)
        assert rotary(x, torch.arange(3)).is_meta
        assert rotary(x, torch.arange(3), length=3).is_meta
    rotary.to_empty(device="cpu")  # gives the module uninitialised memory: the tables must not be taken from it
    x = torch.randn(1, 3, 1, 4)
    torch.testing.assert_close(rotary(x, torch.arange(3)), Rotary.Config(dim=4).build()(x, torch.arange(3)))


def test_tables_made_in_inference_mode_serve_training() -> None:
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
