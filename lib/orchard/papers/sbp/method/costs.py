"""At how many repeats does synthesis pay? Formulas alone, nothing is trained.

FLOPs of a token: 6 P in training, 2 P in a forward pass. In passes over the U unique tokens of D, 6 P U each, synthesis costs

    x(r) = 1/3 embedding + tuning + (2/3) f r / kept sampling and reading seeds + r if the model that it starts from is charged

What tokens are worth, in fresh ones per unique one, after r passes (Muennighoff et al. 2023, arXiv 2305.16264; they fit R* = 15.4):

    repetition with as many FLOPs   e(r + x),  e(r) = 1 + R* (1 - exp(-(r - 1) / R*)) for r >= 1, else r
    synthesis, a share f of r       e((1 - f) r) + w f r

w is what a synthetic token is worth against a fresh real one. Nobody knows it beforehand: it is what the comparison measures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

HALF_LIFE = 15.4  # R*: after as many further passes a repeated token is worth 1/e of a fresh one
REPEATS = 64


def worth(passes: Float64[np.ndarray, "_"], half_life: float = HALF_LIFE) -> Float64[np.ndarray, "_"]:
    """Fresh tokens per unique token that as many passes are worth."""
    return np.where(passes < 1, passes, 1 + half_life * (1 - np.exp(-(np.maximum(passes, 1) - 1) / half_life)))


def extra_passes(
    repeats: Float64[np.ndarray, "_"], share: float, kept: float, tuning: float, charged: bool
) -> Float64[np.ndarray, "_"]:
    """x(r): what synthesis costs, in passes over D. ``kept``: share of sampled tokens that the rules keep; ``tuning``: passes."""
    return 1 / 3 + tuning + 2 / 3 * share * repeats / kept + (repeats if charged else 0.0)


def break_even(
    share: float = 0.375, synthetic_worth: float = 0.3, kept: float = 0.6, tuning: float = 2.0, charged: bool = False,
    half_life: float = HALF_LIFE,
) -> pd.DataFrame:  # fmt: skip
    """One row per number of repeats: repeats, extra (passes that synthesis costs), repetition, repetition_flops (given the same FLOPs),
    synthesis; the last three in fresh tokens per unique token."""
    repeats = np.arange(1.0, REPEATS + 1)
    extra = extra_passes(repeats, share, kept, tuning, charged)
    synthesis = worth((1 - share) * repeats, half_life) + synthetic_worth * share * repeats
    return pd.DataFrame({
        "repeats": repeats, "extra": extra, "repetition": worth(repeats, half_life),
        "repetition_flops": worth(repeats + extra, half_life), "synthesis": synthesis,
    })  # fmt: skip


def pays_from(table: pd.DataFrame, against: str = "repetition_flops") -> float:
    """The smallest number of repeats from which on synthesis is worth more, NaN if there is none up to ``REPEATS``."""
    behind = table.loc[table["synthesis"] <= table[against], "repeats"]
    first = 1.0 if behind.empty else float(behind.max()) + 1
    return first if first <= table["repeats"].max() else float("nan")
