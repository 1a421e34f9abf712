"""What `orchard bench rattention` prints and draws: the operations beside their peers, the tiles of the kernels, accuracy, C14."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.rattention import efficiency, figures
from orchard.papers.rattention.efficiency import Tables


def bench(tables: Tables) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """Title, file name, table and figure of every part, in order."""
    times = tables("throughput")
    parts: list[tuple[str, str, pd.DataFrame, Figure | None]] = [
        (
            "forward and backward, ms (median), by sequence length; equal tokens per call",
            "throughput",
            efficiency.medians(times, "operation").reset_index(),
            figures.throughput(times),
        ),
        ("ratios, above 1 where ours is faster", "throughput_ratios", efficiency.ratios(times), None),
        (
            "training step, ms (median), by sequence length",
            "steps",
            efficiency.medians(times, "step").reset_index(),
            None,
        ),
        (
            "largest relative RMS error of output and gradients, against fp64",
            "accuracy",
            efficiency.worst_errors(tables("accuracy")),
            None,
        ),
    ]
    missing = times.loc[times["reason"] != "", ["name", "length", "reason"]]
    if len(missing):
        parts.append(("not measured", "throughput_missing", missing, None))
    if (times["measurement"] == "tile").any():
        parts.append(("tiles of the kernels, ms (median)", "tiles", efficiency.tiles(times), figures.tiles(times)))
    return parts
