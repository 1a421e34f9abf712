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
    operations, steps = (speed.medians(times, kind).reset_index() for kind in ("operation", "step"))
    errors = speed.worst_errors(tables("accuracy"))
    drawn = figures.throughput(times)
    parts: list[tuple[str, str, pd.DataFrame, Figure | None]] = [
        (
            "forward and backward, ms (median), by sequence length; equal tokens per call",
            "throughput",
            operations,
            drawn,
        ),
        ("ratios, above 1 where ours is faster", "throughput_ratios", speed.ratios(times), None),
        ("training step, ms (median), by sequence length", "steps", steps, None),
        ("largest relative RMS error of output and gradients, against fp64", "accuracy", errors, None),
    ]
    missing = times.loc[times["reason"] != "", ["name", "length", "reason"]]
    if len(missing):
        parts.append(("not measured", "throughput_missing", missing, None))
    if (times["measurement"] == "tile").any():
        parts.append(("tiles of the kernels, ms (median)", "tiles", speed.tiles(times), figures.tiles(times)))
    return parts
