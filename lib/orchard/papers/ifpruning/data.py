"""Ifpruning: the data its experiments use, from the text that DATA names."""

from __future__ import annotations

import random

from orchard.data import Source


def sample(source: Source, length: int, seed: int) -> bytes:
    """``length`` bytes (or all, if there are fewer) from a random place in the test split of ``source``."""
    text = "\n".join(document.text for document in source.documents("test")).encode()
    start = random.Random(seed).randrange(max(1, len(text) - length))
    return text[start : start + length]
