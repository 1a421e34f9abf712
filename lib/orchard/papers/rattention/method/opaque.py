"""What torch.compile must not look into: packages that may be missing, kernels of others, draws of random numbers.

A module of its own, imported where it is used: the decorator imports the compiler, which takes seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from orchard.kernels.residual import no_autocast


@torch.compiler.disable
def draw_window(windows: Sequence[int]) -> int:
    """One of `windows`, a function of the seed that the batch was given; the global generator is not moved."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return windows[int(torch.randint(len(windows), (), generator=generator))]


@torch.compiler.disable
def fla_kernel(package: str, name: str, v: Tensor, backend: str) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The Triton kernel to use, or None for the form in plain PyTorch. "auto" takes it for half precision on a GPU,
    where the package is installed. Raises ModuleNotFoundError if it was asked for and is not, ValueError on a CPU."""
    fits = v.is_cuda and v.dtype in (torch.bfloat16, torch.float16)
    if backend == "auto" and not fits:
        return None
    if importlib.util.find_spec("fla") is None:
        if backend == "auto":
            return None
        raise ModuleNotFoundError(
            "recurrence backend 'fla' needs flash-linear-attention: pip install flash-linear-attention, or use 'torch'"
        )
    if not fits:
        raise ValueError(
            f"recurrence backend 'fla' needs half precision on a GPU, not {v.dtype} on {v.device}: use 'torch'"
        )
    kernel: Callable[..., tuple[Tensor, Tensor]] = getattr(importlib.import_module(f"fla.ops.{package}"), name)
    return kernel


@torch.compiler.disable
def expanded(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Tensor,
    log_decay: Tensor,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Their kernels want as many kv heads as query heads and no scale; of the equal states of a group one is kept.

    start: the state before the first token, fp32, [batch, kv_heads, features, value_dim].
    """
    groups = q.shape[2] // k.shape[2]

    def each(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).repeat_interleave(groups, dim=2).contiguous()

    gates = {"g": each(log_decay, torch.float32)}
    if beta is not None:
        gates["beta"] = each(beta, v.dtype)
    start = start.repeat_interleave(groups, dim=1).contiguous()
    with no_autocast(q):
        output, final = kernel(
            q.to(v.dtype).contiguous(), each(k, v.dtype), each(v, v.dtype), **gates, scale=1.0, initial_state=start,
            output_final_state=True,
        )  # fmt: skip
    return output, final[:, ::groups]
