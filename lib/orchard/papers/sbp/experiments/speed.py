"""Time of sampling: the table of `runs.speed`, of the first cell's synthesizer."""

from __future__ import annotations

import pandas as pd

from orchard.papers.sbp.experiments.comparison import studies
from orchard.papers.sbp.experiments.profiles import PROFILES
from orchard.papers.sbp.runs.speed import FAST, SamplingSpeed
from orchard.runs import Runner, Setting
from orchard.runs.measurement import medians, ratios, with_machine


def sampling_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns way, documents, tokens, round, seconds, tokens_per_s, device, hardware."""
    _, chosen = studies(setting, run, "dep")[0]
    tuned = chosen.synthesizer("sbp-nn-lm")
    cfg = SamplingSpeed.Config(tuned=tuned, label="speed of sampling", **PROFILES[setting.profile].sampling)
    table = with_machine(run([cfg])[0]).rename(columns={"name": "way"})
    return table.assign(tokens_per_s=table["tokens"] / table["seconds"])


def slower(times: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second of every way, and how many times as long as `FAST` a token takes, medians over rounds: columns way,
    tokens_per_s, times_slower."""
    per_token = times.assign(per_token=times["seconds"] / times["tokens"])
    median, slower = medians(times, ["way"], "tokens_per_s"), ratios(per_token, FAST, "way", value="per_token").median()
    return median.assign(times_slower=median["way"].map(slower).fillna(1.0))
