"""Time of sampling, of the first cell's synthesizer; and of pairing at sizes that the profiles do not have, for `orchard bench sbp`."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.papers.sbp.experiments.comparison import studies
from orchard.papers.sbp.experiments.profiles import PROFILES
from orchard.papers.sbp.runs.speed import FAST, SamplingSpeed, pairing_times
from orchard.runs import Runner, Setting

PAIRED = {"clustered": (10_000, 30_000, 100_000), "uniform": (10_000, 30_000)}  # documents, by kind of vectors


def sampling_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns way, documents, tokens, round, seconds, tokens_per_s, device, hardware."""
    _, chosen = studies(setting, run, "dep")[0]
    tuned = chosen.tune(chosen.pairs("sbp-nn-lm"), "sbp-nn-lm")
    cfg = SamplingSpeed.Config(tuned=tuned, label="speed of sampling", **PROFILES[setting.profile].sampling)
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


def pairing_speed() -> pd.DataFrame:
    """The rows of :func:`runs.speed.pairing_times`, measured now."""
    return pd.DataFrame(row for kind, counts in PAIRED.items() for n in counts for row in pairing_times(kind, n))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"sampling_speed": sampling_speed}
