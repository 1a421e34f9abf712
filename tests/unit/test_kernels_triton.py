"""The Triton kernels of residual linear attention against the recurrence in fp64: on a GPU, or interpreted on the CPU.

Where there is no GPU, `test_interpreted` runs this very file in a process of its own with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from orchard.kernels.residual import residual_linear_attention
from orchard.kernels.residual.fused import fused, residual_forward
from residual_cases import assert_close, draw, evaluate, exact, poisoned, without_type_checks

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it is Linux only)")
kernels = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no GPU; test_interpreted runs it in the interpreter")
gpu = pytest.mark.skipif(not CUDA, reason="no GPU")


@pytest.mark.slow
@pytest.mark.skipif(CUDA or INTERPRETED, reason="the kernels are tested directly")
def test_interpreted():
    """All tests of this file in Triton's interpreter, which must be chosen before triton is first imported."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", "--tb=short", str(Path(__file__))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, f"in Triton's interpreter:\n{child.stdout}\n{child.stderr}"
    assert "passed" in child.stdout


def check(shape, window, tile, dtype=torch.float32, borders=None, with_state=True):
    """Output, final state and every gradient of the kernels, from memory full of NaN."""
    cu = None if borders is None else torch.tensor(borders)
    inputs = draw(shape, sequences=None if borders is None else len(borders) - 1, dtype=dtype, device=DEVICE)
    packed = None if cu is None else cu.to(DEVICE)
    with poisoned():
        found = evaluate(lambda q, k, v, h: fused(q, k, v, window, h, packed, tile), inputs, with_state)
    assert [x.dtype for x in found[2:5]] == [dtype] * 3
    assert_close(found, exact(inputs, window, with_state=with_state, cu_seqlens=cu), dtype)


@kernels
@pytest.mark.parametrize(
    ("shape", "window", "tile"),  # batch, time, heads, kv_heads, head_dim; tokens per tile, tiles per supertile
    [
        ((1, 37, 2, 1, 16), 7, (16, 2)),
        ((2, 21, 2, 2, 24), 0, (16, 1)),  # channels that are no power of two, several heads
        ((1, 50, 3, 1, 32), 20, (16, 3)),
        ((1, 35, 4, 1, 16), -1, (32, 1)),  # linear attention that reads the current token
        ((1, 19, 1, 1, 16), 40, (16, 2)),  # nothing leaves the window
        ((1, 1, 1, 1, 5), 0, (16, 1)),
    ],
)
def test_values_and_gradients(shape, window, tile):
    check(shape, window, tile)


@kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    check((1, 45, 2, 1, 32), 7, (16, 2), dtype)


@kernels
@pytest.mark.parametrize("borders", [[0, 1, 18, 18, 40]])
def test_packed_sequences(borders):
    check((1, 40, 2, 1, 16), 3, (16, 1), borders=borders)


@kernels
def test_without_an_initial_state():
    check((1, 20, 2, 1, 16), 4, None, with_state=False)


@kernels
def test_a_nan_stays_in_its_document():
    """Exactly: with NaN in every tensor of one document, the others' output, states and gradients do not change."""
    borders, window = [0, 18, 21, 40], 2
    cu = torch.tensor(borders, device=DEVICE)
    inputs = draw((1, 40, 1, 1, 16), sequences=3, device=DEVICE)
    form = lambda q, k, v, h: fused(q, k, v, window, h, cu, (16, 1))  # noqa: E731
    clean = evaluate(form, inputs)
    with torch.no_grad():
        for x in inputs[:3]:
            x[:, 18:21] = float("nan")
        inputs[3][1] = float("nan")
    with poisoned():
        spoilt = evaluate(form, inputs)
    for a, b in zip(clean, spoilt, strict=True):
        rows = [slice(0, 18), slice(21, 40)] if a.shape[0] == 1 else [slice(0, 1), slice(2, 3)]
        for part in rows:
            assert torch.equal(*((x[0, part] if a.shape[0] == 1 else x[part]) for x in (a, b)))


@kernels
def test_saved_states_are_those_of_the_twin(monkeypatch):
    """K1's states before each supertile, against the operator's plain-PyTorch implementation."""
    q, k, v, state = (x.detach() for x in draw((2, 40, 2, 1, 16), device=DEVICE))
    found = residual_forward(q, k, v, 5, state, None, 16, 1)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for a, b in zip(found, residual_forward(*(x.cpu() for x in (q, k, v)), 5, state.cpu(), None, 16, 1), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-5)


@kernels
def test_backend_triton_is_the_kernels():
    inputs = draw((1, 20, 2, 1, 16), device=DEVICE)
    found = residual_linear_attention(*inputs[:3], 3, initial_state=inputs[3], chunk_size=16, backend="triton")
    for a, b in zip(found, fused(*inputs[:3], 3, inputs[3], None, (16, None)), strict=True):
        assert torch.equal(a, b)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 64), (4, 1, 128), (2, 2, 80)])
@pytest.mark.parametrize("window", [0, 129, 2000])
def test_on_a_gpu(window, heads, kv_heads, dim, dtype):
    check((2, 1000, heads, kv_heads, dim), window, None, dtype)


@gpu
@pytest.mark.parametrize("tile", [(16, 4), (32, 1), (64, 2)])
def test_other_tiles_on_a_gpu(tile):
    check((1, 300, 2, 1, 64), 31, tile, torch.bfloat16)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_on_a_gpu(dtype):
    check((1, 1000, 4, 2, 64), 63, None, dtype, borders=[0, 1, 300, 300, 813, 1000])


@gpu
def test_the_same_numbers_twice_on_a_gpu():
    inputs = draw((2, 1000, 4, 1, 64), dtype=torch.bfloat16, device=DEVICE)
    first, second = (evaluate(lambda q, k, v, h: fused(q, k, v, 63, h), inputs) for _ in range(2))
    assert all(map(torch.equal, first, second))


@gpu
def test_auto_takes_the_kernels_on_a_gpu():
    inputs = draw((2, 500, 4, 2, 64), dtype=torch.bfloat16, device=DEVICE)
    found = evaluate(lambda q, k, v, h: residual_linear_attention(q, k, v, 63, "softmax", h), inputs)
    assert all(map(torch.equal, found, evaluate(lambda q, k, v, h: fused(q, k, v, 63, h), inputs)))


@gpu
def test_compiles_whole_on_a_gpu():
    without_type_checks("compile_whole('cuda')")
