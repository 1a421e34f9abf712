"""What `orchard bench ifpruning` prints.

SoftTopK beside the iterative form of the literature, at the size of the paper's 6B model; then the seconds of a request by part.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.ifpruning import latency_bench, softtopk_speed
from orchard.train import choose

Part = tuple[str, str, pd.DataFrame, Figure | None]  # title, file name, table, figure


def bench(tables: Callable[[str], pd.DataFrame]) -> list[Part]:
    """Title, file name, table and figure of every part, in order."""
    return [softtopk(), *latency_bench.parts(tables)]


def softtopk() -> Part:
    """Forward and backward of a batch of 8, measured now."""
    sizes, hardware = softtopk_speed.BENCH, choose("auto")
    table = softtopk_speed.ratios(pd.DataFrame(softtopk_speed.measured(sizes, hardware.device)))
    title = (
        f"SoftTopK forward and backward, D {sizes.width}, k {sizes.k}, {sizes.layers} layers, batch {sizes.batch} on "
        f"{hardware.device} (wanted: the iterative form at least 5 times slower)"
    )
    return title, "softtopk", table, None
