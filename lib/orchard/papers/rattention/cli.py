"""What `orchard bench rattention` prints and draws: the operations beside their peers, the tiles of the kernels, accuracy, C14."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.rattention.experiments import speed
from orchard.papers.rattention.experiments.speed import Tables
from orchard.papers.rattention.figures import efficiency as figures


def bench(tables: Tables) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """Title, file name, table and figure of every part, in order."""
    times = tables("throughput")
    parts: list[tuple[str, str, pd.DataFrame, Figure | None]] = [
        (
            "forward and backward, ms (median), by sequence length; equal tokens per call",
            "throughput",
            speed.medians(times, "operation").reset_index(),
            figures.throughput(times),
        ),
        ("ratios, above 1 where ours is faster", "throughput_ratios", speed.ratios(times), None),
        (
            "training step, ms (median), by sequence length",
            "steps",
            speed.medians(times, "step").reset_index(),
            None,
        ),
        (
            "largest relative RMS error of output and gradients, against fp64",
            "accuracy",
            speed.worst_errors(tables("accuracy")),
            None,
        ),
    ]
    missing = times.loc[times["reason"] != "", ["name", "length", "reason"]]
    if len(missing):
        parts.append(("not measured", "throughput_missing", missing, None))
    if (times["measurement"] == "tile").any():
        parts.append(("tiles of the kernels, ms (median)", "tiles", speed.tiles(times), figures.tiles(times)))
    return parts
