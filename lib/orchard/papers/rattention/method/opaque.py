"""What torch.compile must not look into: draws of random numbers.

A module of its own, imported where it is used: the decorator imports the compiler, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


@torch.compiler.disable
def draw_window(windows: Sequence[int]) -> int:
    """One of `windows`, a function of the seed that the batch was given; the global generator is not moved."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return windows[int(torch.randint(len(windows), (), generator=generator))]
