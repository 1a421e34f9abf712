"""Residual linear attention and the sliding window against the naive references of flash-linear-attention."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import Tensor

from orchard.kernels.residual.naive import recurrent
from orchard.nn import attention, window_including_self
from orchard.papers.rattention.method.attention import feature_map, residual_linear_attention

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="flash-linear-attention needs triton, which is Linux only"
)


@pytest.fixture(scope="module")
def linear():
    return importlib.import_module("fla.ops.linear_attn.naive")


@pytest.fixture(scope="module")
def softmax():
    return importlib.import_module("fla.ops.attn.naive")


def draw(batch: int, time: int, heads: int, kv_heads: int, dim: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(time)
    shapes = [(batch, time, h, dim) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


def shifted(x: Tensor, window: int) -> Tensor:
    """Token t-w-1 at place t, zeros where there is none."""
    delta = min(window + 1, x.shape[1])
    return torch.cat([torch.zeros_like(x[:, :delta]), x[:, : x.shape[1] - delta]], dim=1)


def operands(q: Tensor, k: Tensor, v: Tensor, window: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """What makes their inclusive linear attention residual: phi of q, shifted phi of k and v, one kv head per head."""
    groups = q.shape[2] // k.shape[2]
    keys = shifted(feature_map(k, name), window).repeat_interleave(groups, dim=2)
    return feature_map(q, name), keys, shifted(v, window).repeat_interleave(groups, dim=2)


def compare(found: Tensor, expected: Tensor, inputs: list[Tensor], atol: float) -> None:
    """Outputs, then the gradients of an uneven sum."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)
    weight = torch.linspace(0, 7, expected.numel()).cos().view_as(expected)
    grads = [
        torch.autograd.grad((x * weight).sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for x in (found, expected)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "relu"])
@pytest.mark.parametrize(
    ("time", "heads", "kv_heads", "window"), [(37, 4, 2, 5), (65, 2, 2, 0), (23, 3, 1, -1), (19, 2, 1, 30)]
)
def test_recurrent_linear_attention(linear, time, heads, kv_heads, window, name):
    inputs = draw(2, time, heads, kv_heads, 8)
    q, k, v = operands(*inputs, window, name)
    expected, state = linear.naive_recurrent_linear_attn(q, k, v, scale=1.0, output_final_state=True)
    for form in (residual_linear_attention, recurrent):
        output, final = form(*inputs, window, name)
        compare(output, expected, inputs, atol=1e-5)
        torch.testing.assert_close(
            final.repeat_interleave(heads // kv_heads, dim=1), state, atol=1e-5, rtol=1e-5, check_stride=False
        )


@pytest.mark.parametrize("window", [0, 31, 70])
def test_chunked_linear_attention(linear, window):
    inputs = draw(1, 128, 4, 2, 16)  # theirs takes multiples of 64 tokens
    expected = linear.naive_chunk_linear_attn(*operands(*inputs, window, "softmax"), scale=1.0)
    compare(residual_linear_attention(*inputs, window)[0], expected, inputs, atol=1e-5)


@pytest.mark.parametrize("initial", [True, False])
def test_initial_state(linear, initial):
    inputs = draw(2, 21, 2, 2, 8)
    start = torch.randn(2, 2, 16, 8) if initial else None
    q, k, v = operands(*inputs, 4, "softmax")
    expected, _ = linear.naive_recurrent_linear_attn(q, k, v, scale=1.0, initial_state=start)
    compare(residual_linear_attention(*inputs, 4, "softmax", start)[0], expected, inputs, atol=1e-5)


@pytest.mark.parametrize("backend", ["naive", "sdpa", "banded"])
@pytest.mark.parametrize(("time", "window"), [(37, 5), (33, 0), (17, 40)])
def test_sliding_window(softmax, time, window, backend):
    inputs = draw(2, time, 4, 2, 8)
    expected, _ = softmax.naive_parallel_attn(*inputs, window_size=window_including_self(window))
    compare(attention(*inputs, window, backend=backend), expected, inputs, atol=1e-5)


def test_the_two_branches_cover_the_past_once(linear, softmax):
    """With phi = identity and uniform scores both references count tokens: together they count every past token."""
    time, window = 29, 6
    q, k, v = torch.zeros(1, time, 1, 4), torch.zeros(1, time, 1, 4), torch.ones(1, time, 1, 4)
    ones = torch.full((1, time, 1, 4), 0.5)
    far = residual_linear_attention(ones, ones, v, window, "identity")[0]
    near = softmax.naive_parallel_attn(
        q, k, torch.arange(float(time))[None, :, None, None].expand(v.shape), window_size=7
    )[0]
    t = torch.arange(time)
    torch.testing.assert_close(far[0, :, 0, 0], (t - window).clamp(min=0).float())
    torch.testing.assert_close(near[0, :, 0, 0], (t + (t - window).clamp(min=0)) / 2)
