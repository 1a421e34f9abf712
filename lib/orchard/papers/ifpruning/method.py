"""Ifpruning: the paper's idea, from its equations.

This file starts with an example to be replaced, the entropy of single bytes (Shannon 1948, section 6),

    H = - sum_b p_b log2 p_b    bits per byte,

where p_b is the share of byte b in a text.
"""

from __future__ import annotations

import math
from collections import Counter


def byte_entropy(text: bytes) -> float:
    """Entropy of the bytes of ``text`` in bits per byte, from 0 to 8. ValueError for an empty text."""
    if not text:
        raise ValueError("an empty text has no entropy: give at least one byte")
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
