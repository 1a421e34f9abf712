"""Tables of what is timed: seconds of a request by part, SoftTopK beside the iterative form, and the ratios of C7, C7b and C9."""

from __future__ import annotations

from functools import partial

import pandas as pd

from orchard.evidence import Tables, rows
from orchard.papers.ifpruning.data.published import PARTS
from orchard.papers.ifpruning.experiments.profiles import LATENCY, SOFTTOPK
from orchard.papers.ifpruning.runs.speed import SHOWN, SoftTopKSpeed
from orchard.runs import Runner, Setting, measurement
from orchard.runs.measurement import by_round, with_machine

BENCH = SoftTopKSpeed.Config(batch=8, rounds=5)  # of `orchard bench ifpruning`
QUIET = 0.15  # of its median: the quartiles of a part's time lie within
RATIOS = {  # of `repetitions`, with the bound of the series
    "overhead": "(select + load) / prefill of ifp, at most 0.5",
    "decode": "decode of ifp / dense_k, 0.9 to 1.1",
    "prefill": "prefill of ifp / dense_k",
    "masked": "prefill of ifp_masked / dense_D: masking alone saves nothing",
    "moe": "decode of moe / ifp",
    "copied": "load into a decoder built anew / into the ready one",
    "rebuilt": "(select + load into a decoder built anew) / prefill of ifp",
    "masked decode": "decode of ifp_masked / dense_k",
    "dense": "decode of dense_k / ifp",
}


def latency(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns model, part, round, seconds, device, hardware."""
    return with_machine(run([LATENCY[setting.profile]])[0])


def medians(times: pd.DataFrame) -> pd.DataFrame:
    """Median seconds by model and part, as `latency_bars` and `published.changes` want them: model, select, load, prefill, decode.

    Parts that a model does not have are 0."""
    found = measurement.medians(times[times["model"].isin(SHOWN)], ["model", "part"])
    wide = found.pivot(index="model", columns="part", values="seconds").reindex(index=SHOWN, columns=PARTS)
    return wide.fillna(0.0).rename_axis(columns=None).reset_index()


def repetitions(times: pd.DataFrame) -> pd.DataFrame:
    """The ratios that are claimed, one row per round: what is divided was measured in the same round.

    Columns are those of ``RATIOS``; the last three are controls."""
    wide = by_round(times, ["model", "part"])
    ifp = wide["ifp"]
    return pd.DataFrame({
        "overhead": (ifp["select"] + ifp["load"]) / ifp["prefill"],
        "decode": ifp["decode"] / wide["dense_k", "decode"],
        "moe": wide["moe", "decode"] / ifp["decode"],
        "prefill": ifp["prefill"] / wide["dense_k", "prefill"],
        "masked": wide["ifp_masked", "prefill"] / wide["dense_D", "prefill"],
        "copied": wide["ifp_copied", "load"] / ifp["load"],
        "rebuilt": (ifp["select"] + wide["ifp_copied", "load"]) / ifp["prefill"],
        "masked decode": wide["ifp_masked", "decode"] / wide["dense_k", "decode"],
        "dense": wide["dense_k", "decode"] / ifp["decode"],
    })  # fmt: skip


def latency_ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles over the rounds of every ratio: columns ratio, median, q1, q3, rounds."""
    found = repetitions(times)
    quartiles = found.quantile([0.5, 0.25, 0.75]).T.set_axis(["median", "q1", "q3"], axis=1)
    return quartiles.rename(index=RATIOS).rename_axis("ratio").reset_index().assign(rounds=len(found))


def quiet(tables: Tables) -> tuple[bool, str]:
    """Gate of C7, C7b and C9: 20 rounds, and the quartiles of the times of dense_k lie within ``QUIET`` of the median."""
    times = tables("latency")
    own = times[(times["model"] == "dense_k") & (times["part"] == "decode")]["seconds"]
    apart = float((own.quantile([0.25, 0.75]) / own.median() - 1).abs().max())
    said = f"on {times['hardware'].iloc[0]}: {len(own)} rounds, quartiles of dense_k within {apart:.0%} of the median"
    return len(own) >= 20 and apart <= QUIET, said


def ratio(tables: Tables, column: str, allowed: float = 1.0) -> pd.DataFrame:
    """Evidence from a column of :func:`repetitions`, over what is ``allowed`` of it."""
    values = repetitions(tables("latency"))[column] / allowed
    return rows("batch 1", 0, values.index, values)


overhead_is_small = partial(ratio, column="overhead")  # C7
decodes_like_dense = partial(ratio, column="decode")  # C7b
mixture_decodes_slowly = partial(ratio, column="moe")  # C9


def softtopk_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :class:`SoftTopKSpeed` at the size of the profile."""
    return with_machine(run([SOFTTOPK[setting.profile]])[0])


def softtopk_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """One row per form: median seconds, the median over rounds of its time over that of the closed form, and how exact it is."""
    wide = by_round(table)
    errors = table.groupby("name", sort=False)[["sum_error", "weight_error"]].first()
    times = wide.div(wide["closed form"], axis=0).median()
    found = errors.assign(seconds=wide.median(), times=times)[["seconds", "times", "sum_error", "weight_error"]]
    return found.rename(columns={
        "times": "times the closed form", "sum_error": "sum - k, worst", "weight_error": "weight, worst error",
    }).rename_axis("form").reset_index()  # fmt: skip
