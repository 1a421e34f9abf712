"""SoftTopK against code that is not it: coordinate descent written here, scipy's solvers, finite differences, and its limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from orchard.papers.ifpruning.method.softtopk import hard_top_k, soft_top_k, soft_top_k_iterative

SHAPES = [(1, 1), (2, 1), (7, 7), (16, 5), (33, 32), (101, 26)]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def descent(z: list[float], k: int, epsilon: float, iterations: int = 20_000) -> list[float]:
    """Coordinate descent on the dual, in plain Python: the a that the sum wants, then the b that the upper bounds want.

    Until nothing moves: with one weight close to 1 it closes in by that weight a step, which takes thousands of steps."""
    bound, shift, before = [-value for value in z], math.inf, 0.0
    for _ in range(iterations):
        if abs(shift - before) < 1e-15:
            break
        before = shift
        scaled = [(value + b) / epsilon for value, b in zip(z, bound, strict=True)]
        top = max(scaled)
        shift = epsilon * (math.log(k) - top - math.log(sum(math.exp(value - top) for value in scaled)))
        bound = [min(0.0, -(value + shift)) for value in z]
    return [math.exp((value + shift + b) / epsilon) for value, b in zip(z, bound, strict=True)]


@pytest.mark.parametrize("epsilon", [0.3, 0.5, 2.0])
@pytest.mark.parametrize(("width", "k"), SHAPES)
def test_coordinate_descent(width: int, k: int, epsilon: float) -> None:
    z = draw(2, width)
    wanted = torch.tensor([descent(row, k, epsilon) for row in z.tolist()], dtype=torch.float64)
    torch.testing.assert_close(soft_top_k(z, k, epsilon), wanted, atol=1e-8, rtol=0)


@pytest.mark.parametrize("entropy", ["shannon", "bernoulli"])
@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_slsqp(epsilon: float, entropy: str) -> None:
    """The objective itself, maximised by a solver that knows nothing of the form of its solution."""
    z, k = draw(16, seed=3).numpy(), 5
    binary = entropy == "bernoulli"

    def negative(w: Any) -> Any:
        uncertain = -(w * np.log(w)).sum() - (binary and ((1 - w) * np.log1p(-w)).sum())
        return -(z @ w + epsilon * uncertain)

    def slope(w: Any) -> Any:
        return -(z - epsilon * (np.log(w) - np.log1p(-w) if binary else np.log(w) + 1))

    high = 1 - 1e-12 if binary else 1.0
    found = minimize(
        negative, np.full(16, k / 16), jac=slope, bounds=[(1e-12, high)] * 16, method="SLSQP",
        constraints={"type": "eq", "fun": lambda w: w.sum() - k}, options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    weights = soft_top_k(torch.from_numpy(z), k, epsilon, entropy).numpy()
    np.testing.assert_allclose(weights, found.x, atol=1e-6)


@pytest.mark.parametrize("entropy", ["shannon", "bernoulli"])
def test_small_epsilon_is_the_linear_programme(entropy: str) -> None:
    z, k = draw(3, 23), 9
    weights = soft_top_k(z, k, 1e-4, entropy)
    for row, wanted in zip(z, weights, strict=True):
        found = linprog(-row.numpy(), A_eq=np.ones((1, 23)), b_eq=[k], bounds=(0, 1), method="highs")
        np.testing.assert_allclose(wanted.numpy(), found.x, atol=1e-9)
    assert torch.equal(weights > 0.5, hard_top_k(z, k))


def test_large_epsilon_is_uniform() -> None:
    torch.testing.assert_close(soft_top_k(draw(3, 23), 9, 1e9), torch.full((3, 23), 9 / 23, dtype=torch.float64))


@pytest.mark.parametrize("entropy", ["shannon", "bernoulli"])
@pytest.mark.parametrize(("width", "k"), SHAPES)
@pytest.mark.parametrize("epsilon", [0.02, 0.3, 3.0])
def test_sum_range_and_order(width: int, k: int, epsilon: float, entropy: str) -> None:
    z = draw(2, 3, width, dtype=torch.float32)
    weights = soft_top_k(z, k, epsilon, entropy)
    assert weights.shape == z.shape
    assert weights.min() >= 0
    assert weights.max() <= 1
    torch.testing.assert_close(weights.sum(dim=-1), torch.full((2, 3), float(k)), atol=1e-4, rtol=0)
    ordered = weights.gather(-1, z.argsort(dim=-1))
    assert (ordered.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e7])
def test_any_spread_in_float32(scale: float) -> None:
    """From all alike to one above all others: the sum holds and float64 agrees."""
    z, k = draw(4, 301) * scale, 77
    single, double = soft_top_k(z.float(), k, 0.02), soft_top_k(z.float().double(), k, 0.02)
    torch.testing.assert_close(single.double(), double, atol=1e-6, rtol=0)
    assert (single.double().sum(dim=-1) - k).abs().max() < 1e-4


@pytest.mark.parametrize("entropy", ["shannon", "bernoulli"])
def test_a_constant_added_changes_nothing(entropy: str) -> None:
    z = draw(3, 41)
    torch.testing.assert_close(soft_top_k(z + 5, 11, 0.3, entropy), soft_top_k(z, 11, 0.3, entropy), atol=1e-12, rtol=0)


def test_equal_logits_share_equally() -> None:
    torch.testing.assert_close(soft_top_k(torch.zeros(2, 9), 3, 0.3), torch.full((2, 9), 1 / 3))
    tied = torch.tensor([[2.0, 0.0, 0.0, 0.0, -40.0]])
    torch.testing.assert_close(soft_top_k(tied, 2, 0.1), torch.tensor([[1.0, 1 / 3, 1 / 3, 1 / 3, 0.0]]))


def test_minus_infinity_leaves_a_channel_out() -> None:
    z = draw(3, 12)
    z[:, [2, 7]] = -math.inf
    weights = soft_top_k(z, 4, 0.3)
    rest = [i for i in range(12) if i not in (2, 7)]
    assert (weights[:, [2, 7]] == 0).all()
    torch.testing.assert_close(weights[:, rest], soft_top_k(z[:, rest], 4, 0.3))


@pytest.mark.parametrize(
    ("value", "where"), [(math.nan, slice(0, 1)), (math.inf, slice(0, 1)), (-math.inf, slice(3, 12))]
)
@pytest.mark.parametrize("function", [lambda z: soft_top_k(z, 4, 0.3), lambda z: hard_top_k(z, 4)])
def test_logits_without_weights_are_refused(value: float, where: slice, function: Callable[[Tensor], Tensor]) -> None:
    z = draw(3, 12)
    z[1, where] = value
    with pytest.raises(ValueError, match=r"row 1 of the logits has NaN, \+inf or fewer than k = 4"):
        function(z)


@pytest.mark.parametrize(
    ("k", "epsilon", "entropy", "message"),
    [
        (0, 0.3, "shannon", "k = 0 of 5 channels"),
        (6, 0.3, "shannon", "k = 6 of 5 channels: keep between 1 and all"),
        (2, 0.0, "shannon", "epsilon = 0.0: it must be > 0"),
        (2, math.nan, "shannon", "epsilon = nan"),
        (2, math.inf, "shannon", "epsilon = inf: it must be > 0 and finite"),
        (2, 0.3, "tsallis", "entropy 'tsallis': choose one of shannon, bernoulli"),
    ],
)
def test_bad_arguments(k: int, epsilon: float, entropy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_top_k(draw(2, 5), k, epsilon, entropy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(dtype: torch.dtype) -> None:
    z = draw(3, 64, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        weights = soft_top_k(z, 20, 0.3)
        weights.square().sum().backward()
    assert weights.dtype == torch.float32
    assert torch.equal(weights, soft_top_k(z.float(), 20, 0.3))
    wide = z.detach().float().requires_grad_()
    soft_top_k(wide, 20, 0.3).square().sum().backward()
    assert z.grad is not None
    assert wide.grad is not None
    assert z.grad.dtype == dtype
    assert torch.equal(z.grad, wide.grad.to(dtype))
    assert torch.equal(hard_top_k(z, 20), hard_top_k(z.float(), 20))


@pytest.mark.parametrize("entropy", ["shannon", "bernoulli"])
@pytest.mark.parametrize(("width", "k", "epsilon"), [(7, 1, 0.3), (7, 3, 0.3), (7, 6, 1.0), (12, 8, 0.05), (5, 5, 0.3)])
def test_gradient_against_finite_differences(width: int, k: int, epsilon: float, entropy: str) -> None:
    """With no entry saturated, some, and all of them (k = width, where the gradient is zero)."""
    z = draw(2, width, seed=k).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_top_k(z, k, epsilon, entropy), z, eps=1e-7, atol=1e-5)


def test_sets_of_the_gradient_check_are_saturated_as_meant() -> None:
    counts = [
        int((soft_top_k(draw(2, w, seed=k), k, e) == 1).sum()) for w, k, e in ((7, 1, 0.3), (12, 8, 0.05), (5, 5, 0.3))
    ]
    assert counts[0] == 0
    assert 0 < counts[1] < 16
    assert counts[2] == 10


def test_jacobian_formula() -> None:
    z, k, epsilon = draw(14), 5, 0.2
    weights = soft_top_k(z, k, epsilon)
    free = weights * (weights < 1)
    wanted = (torch.diag(free) - torch.outer(free, free) / free.sum()) / epsilon
    found = torch.autograd.functional.jacobian(lambda z: soft_top_k(z, k, epsilon), z)
    assert (weights == 1).any()
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.sum(dim=0), torch.zeros(14, dtype=torch.float64), atol=1e-12, rtol=0)
    by_descent = torch.autograd.functional.jacobian(lambda z: soft_top_k_iterative(z, k, epsilon, 400), z)
    torch.testing.assert_close(found, by_descent, atol=1e-9, rtol=0)


def test_iterative_form_misses_the_sum_where_epsilon_is_small() -> None:
    """The known violation: 20 iterations are enough at 0.3 and not at 0.03, hundreds are."""
    z, k = draw(32, 512), 128

    def miss(epsilon: float, iterations: int) -> float:
        return float((soft_top_k_iterative(z, k, epsilon, iterations).sum(dim=-1) - k).abs().mean())

    assert miss(0.3, 20) < 1
    assert miss(0.03, 20) > 10
    assert miss(0.03, 400) < 0.01
    torch.testing.assert_close(soft_top_k_iterative(z, k, 0.3, 400), soft_top_k(z, k, 0.3), atol=1e-12, rtol=0)


def test_hard_top_k_takes_the_first_of_equal_ones() -> None:
    assert hard_top_k(torch.zeros(2, 3, 5), 2).tolist() == [[[True, True, False, False, False]] * 3] * 2
    tied = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    assert hard_top_k(tied, 3).tolist() == [False, True, True, True, False, False]
    assert hard_top_k(tied, 6).all()


@pytest.mark.parametrize(("width", "k"), SHAPES)
def test_hard_top_k_against_a_stable_sort(width: int, k: int) -> None:
    z = draw(4, width).mul(3).round()  # many ties
    wanted = torch.zeros_like(z, dtype=torch.bool).scatter_(
        -1, z.argsort(dim=-1, descending=True, stable=True)[:, :k], True
    )
    assert torch.equal(hard_top_k(z, k), wanted)


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_path_of_other_devices(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch sorts, and nothing is refused: the same weights and gates, and NaN stays visible."""
    z, k = draw(3, 65, dtype=torch.float32), 13
    wanted, chosen = soft_top_k(z, k, epsilon), hard_top_k(z, k)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(soft_top_k(z, k, epsilon), wanted)
    assert torch.equal(hard_top_k(z, k), chosen)
    z[1, 4] = math.nan
    for entropy in ("shannon", "bernoulli"):
        found = soft_top_k(z, k, epsilon, entropy)
        assert found[1, 4].isnan()
        assert found[[0, 2]].isfinite().all()
