"""What `orchard bench sbp` prints and draws: sampling beside its naive peers, pairing of up to 100,000 documents with FAISS."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.sbp import figures, pairing_speed, sampling_speed

Part = tuple[str, str, pd.DataFrame, Figure | None]  # title, file name, table, figure


def bench(tables: Callable[[str], pd.DataFrame]) -> list[Part]:
    """Title, file name, table and figure of every part, in order."""
    times = tables("sampling_speed")
    sampling = f"sampling on {times['hardware'].iloc[0]}: tokens/s, times slower than batched with a cache (at least 10 for the last)"
    return [(sampling, "sampling", sampling_speed.ratios(times), figures.sampling_speed(times)), *pairing()]


def pairing() -> list[Part]:
    """Pairing at a scale that the profiles do not have, on the CPU, measured now."""
    table = pairing_speed.scale()
    threads = int(table["threads"].iloc[0])
    return [
        (
            f"pairing on {threads} CPU threads: time, memory beside the vectors, recall at 8",
            "pairing",
            table.assign(peak=table["peak"] / 2**20).rename(columns={"peak": "peak, MiB"}),
            figures.pairing_speed(table),
        ),
        ("how pairing grows with the number of documents", "pairing_growth", pairing_speed.growth(table), None),
    ]
