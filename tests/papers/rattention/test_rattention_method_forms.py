"""Residual linear attention: the recurrence, the masked matrix, the chunks and the one-token step are one function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orchard.kernels.residual import naive as reference
from orchard.nn import window_mask
from orchard.papers.rattention.method.attention import (
    ResidualCache,
    default_chunk,
    feature_map,
    residual_linear_attention,
    residual_linear_attention_step,
)

TOLERANCE = 1e-5  # relative, fp32: claim C1


def draw(seed: int, batch: int, time: int, heads: int, kv_heads: int, dim: int, name: str = "softmax") -> list[Tensor]:
    """q, k, v and an initial state, all with gradients."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(batch, time, h, dim) for h in (heads, kv_heads, kv_heads)]
    shapes.append((batch, kv_heads, reference.feature_dim(name, dim), dim))
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


def evaluate(form, inputs: list[Tensor], window: int, name: str, with_state: bool, *extra) -> list[Tensor]:
    """Output, final state and the gradients of both with respect to every input."""
    q, k, v, start = inputs
    output, state = form(q, k, v, window, name, start if with_state else None, *extra)
    weight = torch.linspace(-1, 1, output.numel()).cos().view_as(output)
    total = (output * weight).sum() + state.square().sum()
    return [output, state, *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)]


def relative(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.detach().abs().max())
    return float((found - expected).detach().abs().max()) / (scale or 1.0)


def decode(q: Tensor, k: Tensor, v: Tensor, window: int, name: str, start: Tensor | None) -> tuple[Tensor, Tensor]:
    if start is None:
        start = torch.zeros(len(k), k.shape[2], reference.feature_dim(name, k.shape[3]), v.shape[3])
    cache = ResidualCache(start, window + 1, k.shape[3], name, dtype=torch.float32)
    steps = [
        residual_linear_attention_step(q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1], cache)
        for t in range(q.shape[1])
    ]
    return torch.cat(steps, dim=1), cache.state


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 40),
    window=st.integers(-1, 45),
    chunk=st.one_of(st.none(), st.integers(1, 50)),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    dim=st.sampled_from([1, 2, 5, 8]),
    name=st.sampled_from(sorted(reference.FEATURE_MAPS)),
    with_state=st.booleans(),
)
def test_all_forms_and_their_gradients_agree(time, window, chunk, kv_heads, groups, dim, name, with_state):
    inputs = draw(time * 100 + window, 2, time, kv_heads * groups, kv_heads, dim, name)
    expected = evaluate(reference.recurrent, inputs, window, name, with_state)
    for form, extra in ((reference.quadratic, ()), (residual_linear_attention, (chunk,))):
        found = evaluate(form, inputs, window, name, with_state, *extra)
        assert [x.shape for x in found] == [x.shape for x in expected]
        assert max(map(relative, found, expected)) <= TOLERANCE
    q, k, v, start = (x.detach() for x in inputs)
    output, state = decode(q, k, v, window, name, start if with_state else None)
    assert relative(output, expected[0]) <= TOLERANCE
    assert relative(state, expected[1]) <= TOLERANCE


@pytest.mark.parametrize("window", [-1, 0, 2, 9])
def test_gradients_are_those_of_finite_differences(window):
    inputs = [x.detach().double().requires_grad_() for x in draw(0, 1, 7, 2, 1, 3)]
    torch.autograd.gradcheck(lambda q, k, v, h: residual_linear_attention(q, k, v, window, "softmax", h, 3), inputs)


@pytest.mark.parametrize("window", [-1, 0, 3, 12])
def test_output_reads_exactly_what_the_window_cannot_see(window):
    time = 12
    q, k, v, _ = draw(0, 1, time, 2, 2, 4)
    output, _ = residual_linear_attention(q, k, v, window, chunk_size=5)
    reads = torch.zeros(time, time, dtype=torch.bool)
    for t in range(time):
        for x in torch.autograd.grad(output[0, t].square().sum(), (k, v), retain_graph=True):
            reads[t] |= x[0].flatten(1).abs().amax(-1) > 0
    assert torch.equal(reads, reference.residual_mask(time, window))


@pytest.mark.parametrize("time", [1, 2, 13])
@pytest.mark.parametrize("window", [0, 1, 5, 20])
def test_window_and_residual_part_cut_the_causal_past_in_two(time, window):
    positions = torch.arange(time)
    near, far = window_mask(positions, positions, window), reference.residual_mask(time, window)
    assert not (near & far).any()
    assert torch.equal(near | far, window_mask(positions, positions, None))


@pytest.mark.parametrize("window", [0, 3, 30])
def test_output_is_zero_until_a_token_has_left_the_window(window):
    q, k, v, _ = draw(1, 2, 20, 4, 2, 8)
    output, state = residual_linear_attention(q, k, v, window)
    assert not output[:, : window + 1].any()
    assert output[:, window + 1 :].abs().amin(dim=(0, 2, 3)).gt(0).all()
    assert state.any() == (window < 19)


def test_halves_of_phi_are_distributions():
    x = 3 * torch.randn(2, 5, 3, 16)
    features = feature_map(x, "softmax")
    torch.testing.assert_close(features[..., :16].sum(-1), torch.ones(2, 5, 3))
    torch.testing.assert_close(features[..., 16:].sum(-1), torch.ones(2, 5, 3))
    torch.testing.assert_close(features[..., :16], x.softmax(-1))
    torch.testing.assert_close(features[..., 16:], (-x).softmax(-1))
    assert torch.equal(feature_map(x, "relu"), torch.cat([x.relu(), (-x).relu()], -1))


@pytest.mark.parametrize("name", sorted(reference.FEATURE_MAPS))
def test_number_of_features(name):
    assert feature_map(torch.randn(3, 6), name).shape == (3, reference.feature_dim(name, 6))


def test_sums_stay_fp32_under_autocast():
    q, k, v, _ = (x.detach() for x in draw(2, 1, 50, 2, 1, 8))
    expected = residual_linear_attention(q, k, v, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = residual_linear_attention(q, k, v, 3)
        cache = ResidualCache(torch.zeros(1, 1, 16, 8), 1, 8, dtype=torch.bfloat16)
        half = [x[:, :1].bfloat16() for x in (q, k, v)]
        for _ in range(2):
            step = residual_linear_attention_step(*half, cache)
    assert torch.equal(output, expected[0])
    assert torch.equal(state, expected[1])
    assert step.dtype == torch.bfloat16
    assert cache.state.dtype == torch.float32


def test_a_state_for_all_sequences_broadcasts():
    q, k, v, start = (x.detach() for x in draw(4, 2, 9, 2, 2, 4))
    one = start[:1]
    found = residual_linear_attention(q, k, v, 2, "softmax", one)
    expected = reference.recurrent(q, k, v, 2, "softmax", one.expand(2, -1, -1, -1))
    assert max(map(relative, found, expected)) <= TOLERANCE


@pytest.mark.parametrize(("dim", "chunk"), [(1, 16), (16, 16), (32, 32), (64, 64), (128, 64)])
def test_default_chunk(dim, chunk):
    assert default_chunk(dim) == chunk


def test_an_unknown_map_names_those_that_exist():
    with pytest.raises(ValueError, match="feature_map='cosine' is not known: use one of softmax"):
        feature_map(torch.zeros(1, 4), "cosine")
