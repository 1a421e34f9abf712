"""Copy-distance strata: which tokens could be predicted by copying, and from how far back.

For the token after position t, look for the most recent earlier place s whose last six tokens equal those at t. If there is none the
stratum is "none". If the token after s is another one, it is "mismatch". Otherwise copying predicts it, and the stratum is the
distance t - s, cut at T/16, T/8 and T/4. The strata are computed from the text alone, never from a model: "none" is the control in
which arms must not differ, far strata are where a window is too short.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Integer

CONTEXT = 6
NONE, MISMATCH = 0, -1


def copy_distance(tokens: Integer[np.ndarray, "windows time_and_one"]) -> Integer[np.ndarray, "windows time"]:
    """Distance t - s for the prediction made at each position t; ``NONE`` or ``MISMATCH`` where copying does not predict it."""
    found = np.zeros((len(tokens), tokens.shape[1] - 1), dtype=np.int64)
    for row, window in enumerate(np.asarray(tokens)):
        last: dict[bytes, int] = {}
        for t in range(CONTEXT - 1, len(window) - 1):
            key = window[t - CONTEXT + 1 : t + 1].tobytes()
            s = last.get(key)
            if s is not None:
                found[row, t] = t - s if window[s + 1] == window[t + 1] else MISMATCH
            last[key] = t
    return found


def strata(distance: Integer[np.ndarray, "windows time"], length: int) -> dict[str, np.ndarray]:
    """Masks of the strata, by name, for sequences of ``length`` tokens; they partition all positions."""
    edges = [0, length // 16, length // 8, length // 4, length]
    masks = {"none": distance == NONE, "mismatch": distance == MISMATCH}
    for low, high in pairwise(edges):
        masks[f"{low + 1}–{high}"] = (distance > low) & (distance <= high)
    return masks
