"""Counter-based randomness: the generators are seeded with a function of counters, so there is no state to store."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_everything(*counters: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (every device) with a mix of ``counters``."""
    mixed = int.from_bytes(hashlib.blake2b(repr(counters).encode(), digest_size=8).digest(), "little") >> 1
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  # the generator that other people's code draws from
    if torch.accelerator.is_available():
        torch.manual_seed(mixed)
    else:
        torch.default_generator.manual_seed(mixed)  # the other formats a stack trace for every device that is not there
