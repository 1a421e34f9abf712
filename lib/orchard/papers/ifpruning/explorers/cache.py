"""The cache of sub-networks under sliders: hit rate and time to the first token of a stream of requests."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.ifpruning.experiments.serving import SLOTS, ZIPF, Masks, replayed, seconds_of
from orchard.papers.ifpruning.figures.serving import cache_curves


def cache_explorer(masks: Masks, times: pd.DataFrame) -> Callable[..., Figure]:
    """A figure of hit rate and time to the first token, of the cache size, of how uneven the domains are asked for (exponent s of Zipf's
    law, 0: all alike), and of how many times slower loads are than measured, as from a disk."""
    seconds = seconds_of(times)

    def draw(slots: int = 8, zipf: float = ZIPF, slower: int = 1) -> Figure:
        table = replayed(masks, SLOTS, seconds | {"load": slower * seconds["load"]}, zipf)
        return cache_curves(table.assign(seed=0), slots)

    return draw
