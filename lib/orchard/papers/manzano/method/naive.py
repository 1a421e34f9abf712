"""Space-to-channel, FSQ and the mixture of losses as loops over lists: the specification of the fast forms.

STC        every r x r square of a grid of vectors becomes one vector, row by row
FSQ        z -> round(tanh(z + s) h - o) / floor(L / 2), and the number of the code in mixed radix
loss       mean over text targets of -log p + weight * mean over image targets of -log p
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = list[float]


def space_to_channel(grid: list[list[Vector]], r: int) -> list[Vector]:
    """A grid (rows of vectors) to the vectors of its squares, row by row."""
    squares = []
    for top in range(0, len(grid), r):
        for left in range(0, len(grid[0]), r):
            square: Vector = []
            for row in range(top, top + r):
                for column in range(left, left + r):
                    square.extend(grid[row][column])
            squares.append(square)
    return squares


def fsq(z: Sequence[float], levels: Sequence[int]) -> tuple[Vector, int]:
    """The values of the code that z is rounded to, and its number."""
    values, number, place = [], 0, 1
    for channel, level in zip(z, levels, strict=True):
        reach = (level - 1) * 1.001 / 2
        offset = 0.5 if level % 2 == 0 else 0.0
        rounded = round(math.tanh(channel + math.atanh(offset / reach)) * reach - offset)
        values.append(rounded / (level // 2))
        number += (rounded + level // 2) * place
        place *= level
    return values, number


def mixture_loss(
    logits: list[list[Vector]], tokens: list[list[int]], kinds: list[list[str]], image_weight: float = 0.5
) -> float:
    """Of sequences whose positions are "read", "text" or "image"; logits[row][t] are those of tokens[row][t + 1]."""
    surprises: dict[str, list[float]] = {"text": [], "image": []}
    for row, sequence in enumerate(tokens):
        for t in range(1, len(sequence)):
            if kinds[row][t] in surprises:
                scores = logits[row][t - 1]
                total = math.log(sum(math.exp(score) for score in scores))
                surprises[kinds[row][t]].append(total - scores[sequence[t]])
    text, image = (sum(values) / max(1, len(values)) for values in surprises.values())
    return text + image_weight * image
