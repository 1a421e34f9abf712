"""How long mixtures and the collector take beside their peers: the run of a profile, and its tables."""

from __future__ import annotations

import pandas as pd

from orchard.papers.moe_lottery.experiments.profiles import PROFILES
from orchard.runs import Runner, Setting
from orchard.runs.measurement import ratios, with_machine


def speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns measurement, what, name, shape, round, seconds, device, hardware."""
    return with_machine(run([PROFILES[setting.profile].speed])[0])


def collector_memory(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns shape, tokens, bytes (peak of live ones), sums (of the statistics), and both relative to the fewest tokens of the shape."""
    table = pd.DataFrame(run([PROFILES[setting.profile].speed])[0].result["memory"])
    least = table.groupby("shape")[["tokens", "bytes"]].transform("min")
    return table.assign(**{f"times the {name}": table[name] / least[name] for name in ("tokens", "bytes")})


def relative(times: pd.DataFrame, measurement: str, base: str) -> pd.DataFrame:
    """Time of every peer over that of `base`, median over the rounds: columns shape, what, one per peer."""
    keys = ["shape", "what"]
    found = ratios(times[times["measurement"] == measurement], base, by=keys).groupby(level=keys, sort=False).median()
    return found.rename(columns=lambda name: f"{name} / {base}").rename_axis(columns=None).reset_index()


EXPERIMENTS = {"speed": speed, "collector_memory": collector_memory}
