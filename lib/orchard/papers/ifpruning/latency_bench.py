"""What `orchard bench ifpruning` prints of latency, and the ratios that the series asks for.

Apart from the measurement, so that a changed figure does not make anybody measure again.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.ifpruning import figures, latency
from orchard.papers.ifpruning import published as paper

RATIOS = {  # of `latency.repetitions`, with the bound of the series
    "overhead": "(select + load) / prefill of ifp, at most 0.5",
    "decode": "decode of ifp / dense_k, 0.9 to 1.1",
    "prefill": "prefill of ifp / dense_k",
    "masked": "prefill of ifp_masked / dense_D: masking alone saves nothing",
    "moe": "decode of moe / ifp",
    "copied": "load into a decoder built anew / into the ready one",
}


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles over the repetitions of every ratio: columns ratio, median, q1, q3, repetitions."""
    found = latency.repetitions(times)
    quartiles = found.quantile([0.5, 0.25, 0.75]).T.set_axis(["median", "q1", "q3"], axis=1)
    return quartiles.rename(index=RATIOS).rename_axis("ratio").reset_index().assign(repetitions=len(found))


def parts(tables: Callable[[str], pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """Title, file name, table and figure of what `orchard bench` prints of latency."""
    times = tables("latency")
    shown = latency.medians(times)
    where = times["hardware"].iloc[0]
    return [
        (f"seconds of a request by part, median, {where}", "latency", shown, figures.latency_bars(paper.latency(), shown)),
        ("ratios within a round, median over rounds", "latency_ratios", ratios(times), None),
    ]  # fmt: skip
