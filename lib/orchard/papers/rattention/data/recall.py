"""Multi-query associative recall: pairs, some of them asked for at once, a filler, then all others asked for in another order.

    k1 v1 k2 v2 ... kP vP   kP vP k(P-1) v(P-1)   f f f ... f   k3 v3 k1 v1 ...
    pairs                   near: the last two    filler        far: the rest, in random order

Only the values of the two parts that ask are trained and scored. Keys of a sequence differ, values are drawn one by one, so chance is
1 / values, and the best guess among the values present is right once in P. A near key stands at most 6 tokens before its question: in
any window of 8. A far one stands beyond a window as soon as the filler is longer. No key is asked for twice, so no answer can be read
off an earlier question. The standard task for what a recurrent state holds (Arora et al. 2023, arXiv 2312.04927).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from orchard.errors import BadInput
from orchard.papers.rattention.data.ruler_tokens import Examples, distinct

NEAR = 2  # pairs that are asked for at once
FILLERS = 16  # different tokens of the filler


def vocab_size(keys: int) -> int:
    """Keys, as many values, and the tokens of the filler."""
    return 2 * keys + FILLERS


def generate(random: Generator, batch: int, pairs: int, filler: int, keys: int) -> Examples:
    """``batch`` sequences; the first ``NEAR`` of the ``pairs`` answers are the near ones, ``needles`` are the places of the keys.

    Raises BadInput for more pairs than keys, or too few to have far ones.
    """
    if not NEAR < pairs <= keys:
        raise BadInput(f"recall with {pairs} pairs of {keys} keys: give {NEAR + 1} to {keys}")
    key, value = distinct(random, batch, pairs, keys), keys + random.integers(keys, size=(batch, pairs))
    near = np.broadcast_to(np.arange(pairs - 1, pairs - 1 - NEAR, -1), (batch, NEAR))
    asked = np.concatenate([near, distinct(random, batch, pairs - NEAR, pairs - NEAR)], axis=1)
    both = np.stack([key, value], axis=2)
    again = np.take_along_axis(both, asked[:, :, None], axis=1).reshape(batch, -1)
    between = 2 * keys + random.integers(FILLERS, size=(batch, filler))
    tokens = np.concatenate([both.reshape(batch, -1), again[:, : 2 * NEAR], between, again[:, 2 * NEAR :]], axis=1)
    places = 2 * pairs + 2 * np.arange(pairs) + 1
    places[NEAR:] += filler
    answers = np.broadcast_to(places, (batch, pairs)).copy()
    return Examples("recall", tokens, answers, 1, 1, 2 * asked, 2 * pairs)
