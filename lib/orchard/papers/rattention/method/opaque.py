"""What torch.compile must not look into: draws of random numbers, kernels of flash-linear-attention.

A module of its own, imported where it is used: the decorator imports the compiler, which takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

from orchard.kernels.residual import no_autocast


@torch.compiler.disable
def draw_window(windows: Sequence[int]) -> int:
    """One of `windows`, a function of the seed that the batch was given; the global generator is not moved."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return windows[int(torch.randint(len(windows), (), generator=generator))]


@torch.compiler.disable
def fla_kernel(name: str, q: Tensor, k: Tensor, v: Tensor, start: Tensor, **gates: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and last state by the kernel `chunk_<name>` of `fla.ops.<name>`; `start` [batch, kv_heads, features, value_dim] is fp32.

    Their kernels want as many kv heads as query heads and no scale; of the equal states of a group one is kept.
    """
    groups = q.shape[2] // k.shape[2]
    per_head = {key: x.repeat_interleave(groups, dim=2).contiguous() for key, x in gates.items()}
    k, v = (x.to(v.dtype).repeat_interleave(groups, dim=2).contiguous() for x in (k, v))
    with no_autocast(q):
        output, final = getattr(importlib.import_module(f"fla.ops.{name}"), f"chunk_{name}")(
            q.to(v.dtype).contiguous(), k, v, **per_head, scale=1.0,
            initial_state=start.repeat_interleave(groups, dim=1).contiguous(), output_final_state=True,
        )  # fmt: skip
    return output, final[:, ::groups]
