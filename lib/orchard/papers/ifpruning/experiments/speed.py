"""Tables of what is timed: seconds of a request by part, SoftTopK beside the iterative form, and the ratios of C7, C7b and C9."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd

from orchard.papers.ifpruning.experiments.comparison import Tables
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.runs.speed import PARTS, SHOWN, Latency, SoftTopKSpeed
from orchard.runs import Runner, Setting


@dataclass(frozen=True)
class LatencySize:
    """What is measured at a profile."""

    gpu: bool
    size: Size
    reader: Reader
    prompt: int  # tokens
    answer: int  # tokens
    rounds: int


LATENCY_SIZES: dict[str, LatencySize] = {
    "smoke": LatencySize(
        gpu=False, size=Size(dim=256, num_layers=3, num_heads=4, num_kv_heads=2, width=2048, keep=512),
        reader=Reader(dim=64, num_layers=2, num_heads=2, width=128, rank=32), prompt=128, answer=6, rounds=20,
    ),
    "gpu": LatencySize(
        gpu=True, size=Size(dim=2048, num_layers=16, num_heads=16, num_kv_heads=2, width=16384, keep=4096),
        reader=Reader(dim=512, num_layers=12, num_heads=8, width=1408, rank=128), prompt=4000, answer=32, rounds=30,
    ),
    "paper": LatencySize(
        gpu=True, size=Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656),
        reader=Reader(dim=1024, num_layers=24, num_heads=16, width=2816, rank=128), prompt=4000, answer=100, rounds=30,
    ),
}  # fmt: skip


def latency(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns model, part, repetition, seconds, device, hardware."""
    sizes = asdict(LATENCY_SIZES[setting.profile])
    done = run([Latency.Config(label="latency by part", **sizes)])[0]
    machine = done.provenance["hardware"]
    return pd.DataFrame(done.result["rows"]).assign(device=machine["device"], hardware=machine["name"])


def medians(times: pd.DataFrame) -> pd.DataFrame:
    """Median seconds by model and part, as `latency_bars` and `published.changes` want them: model, select, load, prefill, decode.

    Parts that a model does not have are 0."""
    shown = times[times["model"].isin(SHOWN)]
    wide = shown.pivot_table(index="model", columns="part", values="seconds", aggfunc="median", sort=False)
    return wide.reindex(index=SHOWN, columns=PARTS).fillna(0.0).rename_axis(columns=None).reset_index()


def repetitions(times: pd.DataFrame) -> pd.DataFrame:
    """The ratios that are claimed, one row per repetition: what is divided was measured in the same round.

    Columns ``overhead`` (select + load over prefill, ifp), ``decode`` and ``prefill`` (ifp over dense_k), ``moe`` (decode of the mixture
    over ifp), ``masked`` (prefill of ifp_masked over dense_D), ``copied`` (load into a decoder built anew over the ready one)."""
    wide = times.pivot(index="repetition", columns=["model", "part"], values="seconds")
    ifp = wide["ifp"]
    return pd.DataFrame({
        "overhead": (ifp["select"] + ifp["load"]) / ifp["prefill"],
        "decode": ifp["decode"] / wide["dense_k", "decode"],
        "moe": wide["moe", "decode"] / ifp["decode"],
        "prefill": ifp["prefill"] / wide["dense_k", "prefill"],
        "masked": wide["ifp_masked", "prefill"] / wide["dense_D", "prefill"],
        "copied": wide["ifp_copied", "load"] / ifp["load"],
    })  # fmt: skip


def _evidence(column: str) -> Callable[[Tables], pd.DataFrame]:
    def evidence(tables: Tables) -> pd.DataFrame:
        values = repetitions(tables("latency"))[column]
        return pd.DataFrame({"part": "batch 1", "seed": 0, "unit": values.index, "value": values.to_numpy()})

    return evidence


overhead_is_small = _evidence("overhead")  # C7
decodes_like_dense = _evidence("decode")  # C7b
mixture_decodes_slowly = _evidence("moe")  # C9


RATIOS = {  # of `repetitions`, with the bound of the series
    "overhead": "(select + load) / prefill of ifp, at most 0.5",
    "decode": "decode of ifp / dense_k, 0.9 to 1.1",
    "prefill": "prefill of ifp / dense_k",
    "masked": "prefill of ifp_masked / dense_D: masking alone saves nothing",
    "moe": "decode of moe / ifp",
    "copied": "load into a decoder built anew / into the ready one",
}


def latency_ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles over the repetitions of every ratio: columns ratio, median, q1, q3, repetitions."""
    found = repetitions(times)
    quartiles = found.quantile([0.5, 0.25, 0.75]).T.set_axis(["median", "q1", "q3"], axis=1)
    return quartiles.rename(index=RATIOS).rename_axis("ratio").reset_index().assign(repetitions=len(found))


SOFTTOPK_SIZES = {  # examples of a batch, and how often
    "smoke": {"batch": 1, "rounds": 5}, "gpu": {"batch": 8, "rounds": 30}, "paper": {"batch": 8, "rounds": 30},
}  # fmt: skip
BENCH = SoftTopKSpeed.Config(batch=8, rounds=5)  # of `orchard bench ifpruning`


def softtopk_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :class:`SoftTopKSpeed` at the size of the profile."""
    cfg = SoftTopKSpeed.Config(label="speed of SoftTopK", **SOFTTOPK_SIZES[setting.profile])
    return pd.DataFrame(run([cfg])[0].result["rows"])


def softtopk_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """One row per form: median seconds, the median over rounds of its time over that of the closed form, and how exact it is."""
    wide = table.pivot(index="round", columns="form", values="seconds")
    errors = table.groupby("form", sort=False)[["sum_error", "weight_error"]].first()
    times = wide.div(wide["closed form"], axis=0).median()
    found = errors.assign(seconds=wide.median(), times=times)[["seconds", "times", "sum_error", "weight_error"]]
    return found.rename(columns={
        "times": "times the closed form", "sum_error": "sum - k, worst", "weight_error": "weight, worst error",
    }).reset_index()  # fmt: skip
