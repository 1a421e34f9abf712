"""Scalar decay and the gated delta rule against the naive references of flash-linear-attention, and against their definition."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import Tensor

from orchard.papers.rattention.method import recurrences
from orchard.papers.rattention.method.recurrences import chunked, recurrent, residual

SHAPES = [
    (2, 37, 4, 2, 6, 5, 8),
    (1, 65, 3, 3, 8, 8, 16),
    (1, 9, 2, 1, 4, 3, 64),
    (2, 1, 2, 2, 4, 4, 4),
    (1, 24, 6, 2, 5, 7, 1),
]


def draw(batch: int, time: int, heads: int, kv_heads: int, features: int, value_dim: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(time)
    normal = {
        "q": (batch, time, heads, features), "k": (batch, time, kv_heads, features), "v": (batch, time, kv_heads, value_dim),
        "log_decay": (batch, time, kv_heads), "beta": (batch, time, kv_heads), "state": (batch, kv_heads, features, value_dim),
    }  # fmt: skip
    found = {name: torch.randn(shape, generator=random) for name, shape in normal.items()}
    found["k"] = torch.nn.functional.normalize(found["k"], dim=-1)
    found["log_decay"] = torch.nn.functional.logsigmoid(found["log_decay"])
    found["beta"] = found["beta"].sigmoid()
    return {name: x.requires_grad_() for name, x in found.items()}


def agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], inputs: dict[str, Tensor]) -> None:
    """Outputs, states, and the gradients in every input of an uneven sum of both."""
    grads = []
    for output, state in (found, expected):
        weight = torch.linspace(0, 7, output.numel()).cos().view_as(output)
        total = (output * weight).sum() + state.square().sum()
        grads.append(torch.autograd.grad(total, list(inputs.values()), allow_unused=True, materialize_grads=True))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, ours, theirs in zip(inputs, *grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("batch", "time", "heads", "kv_heads", "features", "value_dim", "chunk"), SHAPES)
def test_chunks_are_the_definition(batch, time, heads, kv_heads, features, value_dim, chunk):
    inputs = draw(batch, time, heads, kv_heads, features, value_dim)
    q, k, v, g, beta, state = inputs.values()
    agree(chunked(q, k, v, g, None, state, chunk), recurrent(q, k, v, g, None, state), inputs)
    agree(chunked(q, k, v, None, None, state, chunk), recurrent(q, k, v, None, None, state), inputs)
    agree(chunked(q, k, v, g, beta, state, chunk), recurrent(q, k, v, g, beta, state), inputs)


@pytest.mark.skipif(sys.platform != "linux", reason="flash-linear-attention needs triton, which is Linux only")
@pytest.mark.parametrize(("batch", "time", "heads", "kv_heads", "features", "value_dim", "chunk"), SHAPES)
def test_definition_is_that_of_fla(batch, time, heads, kv_heads, features, value_dim, chunk):
    inputs = draw(batch, time, heads, kv_heads, features, value_dim)
    q, k, v, g, beta, state = inputs.values()
    groups = heads // kv_heads
    wide = {
        name: x.repeat_interleave(groups, dim=1 if name == "state" else 2) for name, x in inputs.items() if name != "q"
    }
    gla = importlib.import_module("fla.ops.simple_gla.naive").naive_recurrent_simple_gla
    delta = importlib.import_module("fla.ops.gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    shared = {"scale": 1.0, "initial_state": wide["state"], "output_final_state": True}

    def one(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return found[0], found[1][:, ::groups]

    theirs = gla(q, wide["k"], wide["v"], wide["log_decay"], **shared)
    agree(chunked(q, k, v, g, None, state, chunk), one(theirs), inputs)
    theirs = delta(q, wide["k"], wide["v"], wide["beta"], wide["log_decay"], **shared)
    agree(chunked(q, k, v, g, beta, state, chunk), one(theirs), inputs)


@pytest.mark.parametrize("window", [-1, 0, 5, 40])
def test_residual_reads_late(window):
    inputs = draw(2, 23, 4, 2, 6, 5)
    q, k, v, g, beta, state = inputs.values()
    late = min(window + 1, 23)
    first = torch.einsum("bthgf,bhfd->bthgd", q.unflatten(2, (2, 2)), state).flatten(2, 3)
    expected, last = first[:, :late], state
    if late < 23:
        rest, last = recurrent(
            q[:, late:], k[:, : 23 - late], v[:, : 23 - late], g[:, : 23 - late], beta[:, : 23 - late], state
        )
        expected = torch.cat([expected, rest], dim=1)
    found = residual(q, k, v, window, state, g, beta, chunk=8)
    agree(found, (expected, last), inputs)


def test_sums_stay_fp32_under_autocast():
    q, k, v, g, beta, _ = (x.detach() for x in draw(1, 30, 2, 1, 8, 8).values())
    with torch.autocast("cpu", torch.bfloat16):
        output, state = chunked(q, k, v.bfloat16(), g, beta, chunk=8)
    assert (output.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(state, recurrent(q, k, v.bfloat16(), g, beta)[1], atol=1e-5, rtol=1e-5)


def test_strong_decay_neither_overflows_nor_poisons_gradients():
    inputs = draw(1, 40, 2, 2, 4, 4)
    q, k, v, g, beta, state = inputs.values()
    agree(chunked(q, k, v, 200 * g, None, state, 16), recurrent(q, k, v, 200 * g, None, state), inputs)
    agree(chunked(q, k, v, 200 * g, beta, state, 16), recurrent(q, k, v, 200 * g, beta, state), inputs)


def test_a_chunk_holds_a_token():
    q, k, v, g, *_ = draw(1, 5, 2, 1, 4, 4).values()
    with pytest.raises(ValueError, match=r"chunk=0: a chunk holds at least one token"):
        chunked(q, k, v, g, chunk=0)


@pytest.mark.skipif(not recurrences.HAS_FLA, reason="flash-linear-attention is not installed")
def test_a_gpu_gives_the_kernels_equal_heads_no_scale_and_an_fp32_state(monkeypatch):
    """The way of half precision on a GPU, with the naive twins in place of the Triton kernels, which need one."""
    gla = importlib.import_module("fla.ops.simple_gla.naive").naive_recurrent_simple_gla
    delta = importlib.import_module("fla.ops.gated_delta_rule.naive").naive_recurrent_gated_delta_rule
    given = []

    def kernel(twin):
        def call(q, k, v, **named):
            given.append((q.shape[2], k.shape[2], named["initial_state"].dtype, named["g"].dtype, q.dtype == v.dtype))
            return twin(q, k, v, **named)

        return call

    monkeypatch.setattr(importlib.import_module("fla.ops.simple_gla"), "chunk_simple_gla", kernel(gla))
    monkeypatch.setattr(importlib.import_module("fla.ops.gated_delta_rule"), "chunk_gated_delta_rule", kernel(delta))
    inputs = draw(2, 19, 4, 2, 6, 5)
    q, k, v, g, beta, state = inputs.values()
    chunked(q, k, v, g, beta, state)
    assert not given  # fp32 on a CPU
    monkeypatch.setattr(recurrences, "_fits_fla", lambda v: True)
    agree(chunked(q, k, v, g, None, state), recurrent(q, k, v, g, None, state), inputs)
    agree(chunked(q, k, v, g, beta, state), recurrent(q, k, v, g, beta, state), inputs)
    agree(chunked(q, k, v, g, beta), recurrent(q, k, v, g, beta), inputs)
    assert given == 3 * [(4, 4, torch.float32, torch.float32, True)]
    chunked(q, k, v, state=state)
    assert len(given) == 3  # without a decay there is nothing to give them


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(not recurrences.HAS_FLA, reason="flash-linear-attention is not installed")
def test_kernels_on_a_gpu_are_the_definition():
    q, k, v, g, beta, state = (x.detach().cuda() for x in draw(2, 130, 4, 2, 32, 64).values())
    half = v.bfloat16()
    assert recurrences._fits_fla(half)
    for found, expected in (
        (chunked(q, k, half, g, None, state), recurrent(q, k, v, g, None, state)),
        (chunked(q, k, half, g, beta, state), recurrent(q, k, v, g, beta, state)),
    ):
        for ours, exact in zip(found, expected, strict=True):
            assert (ours.float() - exact).norm() < 2e-2 * exact.norm()
