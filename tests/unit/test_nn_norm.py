"""RMSNorm: the equation, gains with more than one dimension, half precision, errors."""

from __future__ import annotations

import pytest
import torch

from orchard.nn import RMSNorm


def test_equation() -> None:
    x = torch.tensor([[3.0, 4.0]])
    norm = RMSNorm.Config(dim=2, eps=0.5).build()
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([1.0, 2.0]))
    root = (12.5 + 0.5) ** 0.5
    torch.testing.assert_close(norm(x), torch.tensor([[3.0 / root, 8.0 / root]]))


def test_gain_per_head_while_the_mean_runs_over_the_last_dimension() -> None:
    norm = RMSNorm.Config(dim=[3, 4]).build()
    torch.nn.init.uniform_(norm.gain, 0.5, 1.5)
    x = torch.randn(2, 5, 3, 4) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    y = norm(x)
    assert norm.gain.shape == (3, 4)
    for head in range(3):
        one = RMSNorm.Config(dim=4).build()
        with torch.no_grad():
            one.gain.copy_(norm.gain[head])
        torch.testing.assert_close(y[:, :, head], one(x[:, :, head]))


def test_half_precision_is_normalised_in_float32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # 300^2 overflows float16
    y = RMSNorm.Config(dim=4).build()(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones_like(x))


def test_gradient_matches_finite_differences() -> None:
    norm = RMSNorm.Config(dim=[2, 3]).build().double()
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


def test_zero_vector_gives_zero_and_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    y = RMSNorm.Config(dim=4).build()(x)
    y.sum().backward()
    assert x.grad is not None
    assert y.abs().max() == 0
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dim", [0, [], [3, 0]])
def test_bad_dim(dim: int | list[int]) -> None:
    with pytest.raises(ValueError, match=r"RMSNorm\.Config\.dim"):
        RMSNorm.Config(dim=dim).build()


def test_input_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(4,\)"):
        RMSNorm.Config(dim=4).build()(torch.randn(2, 5))
