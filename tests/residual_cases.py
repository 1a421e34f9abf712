"""What every form of residual linear attention is compared on: inputs, output, states, all gradients, one tolerance."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from orchard.kernels.residual.naive import feature_dim, quadratic, recurrent

# Relative root-mean-square error against the recurrence in fp64, the same on the CPU, interpreted and on a GPU.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}
NAMES = ("output", "final state", "dq", "dk", "dv", "d initial state")

Form = Callable[..., tuple[Tensor, Tensor]]


def draw(
    shape: tuple[int, int, int, int, int],
    *,
    sequences: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    name: str = "softmax",
) -> list[Tensor]:
    """q, k, v of type `dtype` and an initial state, for shape (batch, time, heads, kv_heads, head_dim)."""
    batch, time, heads, kv_heads, dim = shape
    random = torch.Generator().manual_seed(sum(shape))
    shapes = [(batch, time, h, dim) for h in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(x, generator=random).to(device, dtype) for x in shapes]
    state = torch.randn(sequences or batch, kv_heads, feature_dim(name, dim), dim, generator=random)
    return [x.requires_grad_() for x in (*drawn, state.to(device, torch.promote_types(dtype, torch.float32)))]


def evaluate(form: Form, inputs: list[Tensor], with_state: bool = True) -> list[Tensor]:
    """Output, final state, and the gradients of a sum over both that weighs every number differently.

    `form(q, k, v, initial_state)`; the weights are drawn in fp32, so they are the same for all types and devices."""
    q, k, v, state = inputs
    output, final = form(q, k, v, state if with_state else None)
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=random).to(x) for x in (output, final)]
    grads = torch.autograd.grad((output, final), inputs, weights, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (output, final, *grads)]


def exact(inputs: list[Tensor], window: int, *, with_state: bool = True, **options: object) -> list[Tensor]:
    """`evaluate` of the definition in fp64 on the CPU, as a matrix where the recurrence would be long. The output's
    gradient is rounded to the type of q, as it is in the form under test."""
    dtype = inputs[0].dtype
    copies = [x.detach().cpu().double().requires_grad_() for x in inputs]
    name = options.pop("name", "softmax")

    def form(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        definition = recurrent if q.shape[1] <= 64 else quadratic
        output, final = definition(q, k, v, window, name, state, **options)
        return _Rounded.apply(output, dtype), final

    return evaluate(form, copies, with_state)


class _Rounded(torch.autograd.Function):
    """The identity, whose gradient passes through another type."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.to(ctx.dtype).to(grad.dtype), None


def error(found: Tensor, expected: Tensor) -> float:
    """Relative root-mean-square error; the root mean square itself where zero is expected. NaN counts as infinite."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    size = expected.square().mean().sqrt()
    value = float((found - expected).square().mean().sqrt() / (size if size > 0 else 1.0))
    return value if value == value else float("inf")


def assert_close(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    assert [x.shape for x in found] == [x.shape for x in expected]
    errors = {name: error(a, b) for name, a, b in zip(NAMES, found, expected, strict=True)}
    beyond = {name: value for name, value in errors.items() if value > TOLERANCE[dtype]}
    assert not beyond, f"relative RMS error above {TOLERANCE[dtype]} ({dtype}): {beyond}; all: {errors}"


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that `torch.empty` and `torch.empty_like` hand out is full of NaN: what a kernel fails to write, shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(x: Tensor) -> Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() else x

    with (
        patch.object(torch, "empty", lambda *args, **kwargs: fill(empty(*args, **kwargs))),
        patch.object(torch, "empty_like", lambda *args, **kwargs: fill(empty_like(*args, **kwargs))),
    ):
        yield


def compile_whole(device: str) -> None:
    """The public call under torch.compile(fullgraph=True) is the public call, gradients included."""
    from orchard.kernels.residual import residual_linear_attention

    assert "triton" not in sys.modules, "importing the call imported triton"
    compiled = torch.compile(
        residual_linear_attention, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager"
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    inputs = draw((2, 100, 4, 2, 64), dtype=dtype, device=device)
    found, expected = (
        evaluate(lambda q, k, v, h, form=form: form(q, k, v, 5, "softmax", h), inputs)
        for form in (compiled, residual_linear_attention)
    )
    assert_close(found, expected, dtype)
    if find_spec("triton"):  # the way to the kernels is traced too: meta tensors have their shapes
        q, k, v, _ = (x.detach().to("meta") for x in inputs)
        output, _ = torch.compile(
            lambda q, k, v: residual_linear_attention(q, k, v, 5, backend="triton"), fullgraph=True, backend="aot_eager"
        )(q, k, v)
        assert output.shape == q.shape


def without_type_checks(call: str) -> None:
    """A call of this module in a process without the tests' checks of shapes at run time."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    child = subprocess.run(
        [sys.executable, "-c", f"import residual_cases; residual_cases.{call}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
