"""What `orchard bench moe_lottery` prints: what the collector costs in time and memory, and our mixture beside that of `transformers`."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.moe_lottery import speed


def bench(tables: Callable[[str], pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """Title, file name, table and figure of every part, in order."""
    times, memory = tables("speed"), tables("collector_memory")
    least = memory.groupby("shape")[["tokens", "bytes"]].transform("min")
    growth = memory.assign(
        **{"times the tokens": memory["tokens"] / least["tokens"], "times the bytes": memory["bytes"] / least["bytes"]}
    )
    ratios = speed.ratios
    parts = [
        ("milliseconds, median over rounds", "speed", speed.medians(times)),
        (
            "collector over a plain forward pass, no gradients (at most 1.5)",
            "collector",
            ratios(times, "statistics", "plain"),
        ),
        (
            "collector's pass with gradients over a plain training step",
            "gradients",
            ratios(times, "gradients", "plain"),
        ),
        ("peak memory of the collector, bytes (no growth with tokens)", "collector_memory", growth),
        ("time over ours, above 1 where ours is faster", "mixtures", ratios(times, "block", "ours")),
    ]
    return [(title, name, table, None) for title, name, table in parts]
