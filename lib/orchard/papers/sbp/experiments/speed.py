"""Time of sampling and of pairing, and memory of pairing: tables of `runs.speed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from orchard.papers.sbp.experiments import comparison
from orchard.papers.sbp.runs.speed import FAST, PairingSpeed, SamplingSpeed, measured
from orchard.runs import Runner, Setting

SAMPLING: dict[str, dict[str, int]] = {  # documents that each way samples in a call, and rounds of calls
    "smoke": {"batched": 512, "batched_no_cache": 16, "alone": 2, "alone_no_cache": 2, "rounds": 3},
    "gpu": {"batched": 8192, "batched_no_cache": 512, "alone": 8, "alone_no_cache": 4, "rounds": 5},
    "paper": {"batched": 8192, "batched_no_cache": 512, "alone": 8, "alone_no_cache": 4, "rounds": 5},
}
PAIRING: dict[str, dict[str, Any]] = {  # documents, by kind of vectors
    "smoke": {"clustered": [1_000, 2_000, 4_000], "uniform": [2_000]},
    "gpu": {"clustered": [5_000, 10_000, 30_000], "uniform": [10_000]},
    "paper": {"clustered": [5_000, 10_000, 30_000], "uniform": [10_000]},
}
# of `orchard bench sbp`
SCALE: dict[str, Any] = {"clustered": [10_000, 30_000, 100_000], "uniform": [10_000, 30_000], "threads": 2}
DIM = 256  # of the vectors that are paired


def sampling_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns way, documents, tokens, round, seconds, tokens_per_s, device, hardware; of the first cell's synthesizer."""
    _, chosen = comparison.studies(setting, run, "dep")[0]
    tuned = chosen.tune(chosen.pairs("sbp-nn-lm"), "sbp-nn-lm")
    cfg = SamplingSpeed.Config(tuned=tuned, label="speed of sampling", **SAMPLING[setting.profile])
    done = run([cfg])[0]
    machine = done.provenance["hardware"]
    table = pd.DataFrame(done.result["rows"])
    return table.assign(
        tokens_per_s=table["tokens"] / table["seconds"], device=machine["device"], hardware=machine["name"]
    )


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second of every way, and by how much `FAST` is faster, median over rounds: columns way, tokens_per_s, times_slower."""
    wide = times.pivot_table(index="round", columns="way", values="tokens_per_s", sort=False)
    slower = wide.rdiv(wide[FAST], axis=0).median()
    return pd.DataFrame({"tokens_per_s": wide.median(), "times_slower": slower}).rename_axis("way").reset_index()


def pairing_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`measured` at the sizes of the profile."""
    cfg = PairingSpeed.Config(**PAIRING[setting.profile], dim=DIM, label="time and memory of pairing")
    return pd.DataFrame(run([cfg])[0].result["rows"])


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """How each part grows from the fewest to the most documents: columns vectors, what, documents, times the documents, the processor
    seconds and the peak memory, and the exponent of the seconds in the number of documents."""
    rows = []
    for (kind, what), part in table.groupby(["vectors", "what"], sort=False):
        ordered = part.sort_values("documents")
        least, most = ordered.iloc[0], ordered.iloc[-1]
        if least["documents"] == most["documents"]:
            continue
        times = most["documents"] / least["documents"]
        seconds = most["processor_seconds"] / least["processor_seconds"]
        rows.append({
            "vectors": kind, "what": what, "from": least["documents"], "to": most["documents"], "times the documents": times,
            "times the processor seconds": seconds, "times the peak memory": most["peak"] / max(least["peak"], 1),
            "exponent": np.log(seconds) / np.log(times),
        })  # fmt: skip
    return pd.DataFrame(rows)


def scale() -> pd.DataFrame:
    """The rows of :func:`measured` at 10,000 to 100,000 documents, measured now."""
    return pd.DataFrame(measured(PairingSpeed.Config(**SCALE, dim=DIM)))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "sampling_speed": sampling_speed, "pairing_speed": pairing_speed,
}  # fmt: skip
