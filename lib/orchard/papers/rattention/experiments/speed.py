"""The efficiency experiments: tidy tables, and what decides C14 and C15.

Each measurement is one run and is asked for alone, so that nothing of ours computes beside it. A table says on which machine it was made:
times of one machine are not compared with those of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchard.evidence import Tables, rows, together
from orchard.papers.rattention.experiments import window_sweep
from orchard.papers.rattention.experiments.profiles import PROFILES
from orchard.papers.rattention.runs.speed import Accuracy, Decode, Memory, Operations, Steps, Tiles
from orchard.runs import Runner, Setting, measurement
from orchard.runs.measurement import with_machine

COLUMNS = ["measurement", "name", "length", "batch", "round", "ms", "reason", "device", "hardware"]


def _shape(setting: Setting) -> dict[str, Any]:
    profile = PROFILES[setting.profile]
    sizes = {name: size for name, size in profile.sizes.items() if name != "num_layers"}
    return {"gpu": profile.timing.gpu, **sizes}


def throughput(setting: Setting, run: Runner) -> pd.DataFrame:
    """Forward and backward times, one row per round: measurement (operation, step, tile or tile pair), name, length, batch, round, ms.

    Without a time, `reason` says why. Operations have equal tokens per call; steps are those of whole decoders, for C14; tiles exist
    on a GPU only, for C15: name is "C x m".
    """
    size, shape = PROFILES[setting.profile].timing, _shape(setting)
    operations = Operations.Config(
        **shape, rounds=size.rounds, lengths=list(size.lengths), tokens=size.tokens, window=size.window, label="operations"
    )  # fmt: skip
    steps = Steps.Config(
        **shape, rounds=size.step_rounds, lengths=list(size.step_lengths), num_layers=size.step_layers,
        batch=size.step_batch, label="training steps",
    )  # fmt: skip
    parts = [
        with_machine(run([operations])[0]).assign(measurement="operation"),
        with_machine(run([steps])[0]).assign(measurement="step"),
    ]
    if size.tile_length is not None:
        done = run([Tiles.Config(
            **shape, rounds=size.rounds, length=size.tile_length, batch=max(1, size.tokens // size.tile_length), window=size.window,
            label="tiles of the kernels",
        )])[0]  # fmt: skip
        parts.append(with_machine(done).assign(measurement="tile"))
        parts.append(with_machine(done, done.result["pairs"]).assign(measurement="tile pair"))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(ms=1e3 * table["seconds"].astype(float), reason=table["reason"].fillna(""))
    return table[COLUMNS]


def accuracy(setting: Setting, run: Runner) -> pd.DataFrame:
    """Relative RMS error of residual linear attention as it runs here, against fp64: dtype, what, error."""
    cfg = Accuracy.Config(**_shape(setting), length=1024, window=128, label="accuracy of the kernel")
    return with_machine(run([cfg])[0])


def decode(setting: Setting, run: Runner) -> pd.DataFrame:
    """Latency of one token and bytes of real caches against context: arm, context, batch, cache_bytes (per sequence), ms."""
    profile = PROFILES[setting.profile]
    return _decode(setting, run, profile.main_arms, profile.timing.contexts, "decoding")


def _decode(setting: Setting, run: Runner, arms: Sequence[str], contexts: Sequence[int], label: str) -> pd.DataFrame:
    profile = PROFILES[setting.profile]
    cfg = Decode.Config(
        **_shape(setting), num_layers=profile.num_layers, arms=list(arms), contexts=list(contexts),
        batch=profile.timing.decode_batch, rounds=profile.timing.decode_tokens, label=label,
    )  # fmt: skip
    return with_machine(run([cfg])[0])


def timing(setting: Setting, run: Runner) -> pd.DataFrame:
    """The window sweep with what was measured: arm, window, seed, bits_per_byte, kv_bytes, decode_ms, train_tokens_per_s, train_s.

    kv_bytes are those of real caches that hold the training length, per sequence. Training seconds follow from the tokens per
    second that a run noted, missing where it was too short; runs that shared the machine's cores were slower than one alone.
    """
    profile = PROFILES[setting.profile]
    decoded = _decode(setting, run, profile.arms, [profile.seq_len], "decoding, every arm")
    decoded = decoded.rename(columns={"cache_bytes": "kv_bytes", "ms": "decode_ms"})
    rates = [
        done.provenance.get("throughput", {}).get("tokens_per_s", math.nan)
        for *_, done in window_sweep.trained(setting, run, profile.arms)
    ]
    swept = window_sweep.window_sweep(setting, run)[["arm", "window", "seed", "bits_per_byte", "tokens"]]
    table = swept.merge(decoded[["arm", "kv_bytes", "decode_ms", "hardware"]], on="arm", validate="many_to_one")
    return table.assign(train_tokens_per_s=rates, train_s=table["tokens"] / rates)


def memory(setting: Setting, run: Runner) -> pd.DataFrame:
    """Peak memory of one forward of the local layer on the CPU: arm, mode, length, bytes."""
    size = PROFILES[setting.profile].timing
    cfg = Memory.Config(
        **(_shape(setting) | {"gpu": False}), arms=[f"{kind}@{size.memory_window}" for kind in ("swa", "rattn")],
        lengths=list(size.memory_lengths), label="memory of a forward pass",
    )  # fmt: skip
    return with_machine(run([cfg])[0])


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """The a of bytes ~ length^a for every arm and mode of the memory table: slope of the least-squares line through the logarithms."""
    return pd.DataFrame([
        {"arm": arm, "mode": mode, "exponent": np.polyfit(np.log(part["length"]), np.log(part["bytes"]), 1)[0]}
        for (arm, mode), part in table.groupby(["arm", "mode"], sort=False)
    ])  # fmt: skip


def medians(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Median milliseconds of a kind of measurement by name (rows) and length (columns)."""
    found = measurement.medians(table[table["measurement"] == kind], ["name", "length"], "ms")
    return found.pivot(index="name", columns="length", values="ms").reindex(pd.unique(found["name"]))


def paired(table: pd.DataFrame, kind: str, first: str, second: str, length: int) -> pd.Series:
    """The ratio of `first` to `second` within each round; empty where one was not measured."""
    part = table[(table["measurement"] == kind) & (table["length"] == length)]
    return measurement.ratios(part, second, value="ms").get(first, pd.Series(dtype=float)).dropna()


# What the kernels are held to on a GPU: numerator, denominator, what the ratio is called, and the least ratio by length (None: by any).
LAYER: dict[int | None, float] = {4096: 1.0, 32768: 5.0}
TARGETS: tuple[tuple[str, str, str, dict[int | None, float]], ...] = (
    ("fla", "residual", "fla's linear attention / our residual linear attention", {None: 1.0}),
    ("fla kernel", "residual", "fla's kernel alone, features given / our residual linear attention", {None: 1.0}),
    ("full layer", "rattn layer", "full attention layer / RATTENTION layer", LAYER),
    ("full", "rattn layer", "full attention without projections / RATTENTION layer", LAYER),
    ("window layer", "rattn layer", "sliding-window layer / RATTENTION layer", {}),
)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Median ratios of the operations, above 1 where ours is faster: what, length, ratio, target, met. Targets are those of a GPU."""
    found, on_gpu = [], (table["device"] == "cuda").all()
    lengths = sorted(table.loc[table["measurement"] == "operation", "length"].unique())
    for first, second, what, targets in TARGETS:
        for length in map(int, lengths):
            ratio = float(paired(table, "operation", first, second, length).median())
            target = targets.get(length, targets.get(None, math.nan)) if on_gpu else math.nan
            found.append({"what": what, "length": length, "ratio": ratio, "target": target})
    table = pd.DataFrame(found)
    ratios, wanted = table["ratio"], table["target"]
    met = np.select([wanted.isna(), ratios.isna(), ratios >= wanted], ["", "not measured", "yes"], "no")
    return table.assign(met=met)


ERROR_LIMITS = {"bfloat16": 5e-3, "float32": 1e-5}  # relative root mean square


def worst_errors(table: pd.DataFrame) -> pd.DataFrame:
    """The largest error of output and gradients by type, beside its limit: dtype, error, limit, met."""
    worst = table.groupby("dtype", sort=False)["error"].max().reset_index()
    worst["limit"] = worst["dtype"].map(ERROR_LIMITS)
    return worst.assign(met=np.where(worst["error"] <= worst["limit"], "yes", "no"))


def tiles(table: pd.DataFrame) -> pd.DataFrame:
    """Median time of every tile: C, m, ms; NaN where it does not fit. No rows where no tile was timed."""
    part = table[table["measurement"] == "tile"]
    sizes = part["name"].str.extract(r"^(?P<C>\d+) x (?P<m>\d+)$").astype(int)
    return sizes.assign(ms=part["ms"]).groupby(["C", "m"])["ms"].median().reset_index()


def relative_steps(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Step time over that of sliding-window attention, ours and the paper's Table 3: source, setting, arm, ratio, seconds."""
    ours = medians(table, "step").reset_index().melt(id_vars="name", var_name="length", value_name="ms").dropna()
    theirs = published[published["table"] == "Table 3"]
    found = pd.concat([
        pd.DataFrame({"source": "here", "setting": "T = " + ours["length"].astype(str), "arm": ours["name"], "seconds": ours["ms"] / 1e3}),
        pd.DataFrame({"source": "paper", "setting": theirs["model"] + ", " + (theirs["context"] // 1024).astype(str) + "k",
                      "arm": theirs["arm"], "seconds": theirs["value"]}),
    ], ignore_index=True)  # fmt: skip
    family = found["arm"].str.lower().str.extract("^(full|swa|ratt)")[0]
    found["arm"] = family.replace("ratt", "rattn")
    base = found.assign(base=found["seconds"].where(found["arm"] == "swa")).groupby(["source", "setting"])["base"]
    return found.assign(ratio=found["seconds"] / base.transform("max"))


def step_ratios(tables: Tables, ours: str = "rattn@{eighth}") -> pd.DataFrame:
    """Evidence of C14: forward and backward time of rattn@T/8 over swa@T/2, a part for every T, a unit for every pair; or of another arm
    in the place of rattn@T/8 (the control)."""
    table = tables("throughput")
    parts = []
    for length in map(int, table.loc[table["measurement"] == "step", "length"].unique()):
        ratio = paired(table, "step", ours.format(eighth=length // 8), f"swa@{length // 2}", length)
        parts.append(rows(f"T = {length}", 0, ratio.index, ratio))
    return together(parts)


def tile_gain(tables: Tables) -> pd.DataFrame:
    """Evidence of C15: 1 - time of the best (m, C) / time of (m = 1, largest C that fits); empty where no tile was timed."""
    return together(rows("best tile", 0, ratio.index, 1 - ratio) for ratio in _tile_pairs(tables))


def base_against_itself(tables: Tables) -> pd.DataFrame:
    """Control of C15: the same for two timings of the (m = 1, largest C) tile that follow one another."""
    table = tables("throughput")
    base = table[(table["measurement"] == "tile pair") & (table["name"] == "base")]
    times = base.sort_values("round")["ms"].to_numpy()
    first, second = times[: len(times) // 2 * 2].reshape(-1, 2).T
    return rows("best tile", 0, np.arange(len(first)), 1 - second / first)


def _tile_pairs(tables: Tables) -> list[pd.Series]:
    table = tables("throughput")
    lengths = map(int, pd.unique(table.loc[table["measurement"] == "tile pair", "length"]))
    return [paired(table, "tile pair", "best", "base", length) for length in lengths]


SPREAD = 0.1  # half of a step's times lie within this share of their median, or other work shares the machine


def quiet_gpu(tables: Tables) -> tuple[bool, str]:
    """Gate of C14: steps were timed on a GPU that nobody else used."""
    steps = tables("throughput").query("measurement == 'step'")
    times = steps.groupby(["name", "length"])["ms"]
    spread = float(((times.quantile(0.75) - times.quantile(0.25)) / times.median()).max())
    device = ", ".join(pd.unique(steps["device"]))
    said = f"timed on {device}; the middle half of a step's times spreads by {spread:.0%} of the median, {SPREAD:.0%} at most"
    return device == "cuda" and spread <= SPREAD, said


def pairs_on_gpu(tables: Tables) -> tuple[bool, str]:
    """Gate of C15: the kernels were timed on a GPU, in at least 50 pairs."""
    pairs = [len(ratio) for ratio in _tile_pairs(tables)]
    return min(pairs, default=0) >= 50, f"{min(pairs, default=0)} pairs of the kernels on a GPU, 50 needed"
