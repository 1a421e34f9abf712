"""The efficiency experiments: sizes per profile, tidy tables, and what decides C14 and C15.

Each measurement is one run and is asked for alone, so that nothing of ours computes beside it. A table says on which machine it was made:
times of one machine are not compared with those of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchard.papers.rattention.experiments.profiles import PROFILES, chosen
from orchard.papers.rattention.experiments.window_sweep import trained, window_sweep
from orchard.papers.rattention.runs.speed import Accuracy, Decode, Memory, Operations, Steps, Tiles, fitted_exponent
from orchard.runs import Finished, Runner, Setting

Tables = Callable[[str], pd.DataFrame]
EVIDENCE_COLUMNS = ["part", "seed", "unit", "value"]


@dataclass(frozen=True)
class Sizes:
    """What is measured at a profile. Heads and widths are those of the profile's model."""

    gpu: bool
    lengths: tuple[int, ...]  # of the operations
    tokens: int  # per call of an operation
    rounds: int
    step_lengths: tuple[int, ...]
    step_layers: int
    step_batch: int
    step_rounds: int
    tile_length: int | None  # None: no tiles, they are those of the Triton kernels
    contexts: tuple[int, ...]  # of decoding
    decode_batch: int
    decode_tokens: int
    window: int = 512  # of the operations and layers
    memory_lengths: tuple[int, ...] = (4096, 8192, 16384)
    memory_window: int = 512


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        gpu=False, lengths=(256, 1024, 4096), tokens=4096, rounds=3, step_lengths=(128, 256), step_layers=4, step_batch=2, step_rounds=20,
        tile_length=None, contexts=(256, 1024, 4096), decode_batch=2, decode_tokens=15, window=128,
    ),
    "gpu": Sizes(
        gpu=True, lengths=(1024, 2048, 4096, 8192, 16384, 32768, 65536), tokens=65536, rounds=10,
        step_lengths=(4096, 8192), step_layers=8, step_batch=8,
        step_rounds=20, tile_length=8192, contexts=(1024, 4096, 16384, 65536), decode_batch=8, decode_tokens=50,
    ),
    "paper": Sizes(
        gpu=True, lengths=(1024, 2048, 4096, 8192, 16384, 32768, 65536), tokens=65536, rounds=10,
        step_lengths=(4096, 8192), step_layers=4, step_batch=2,
        step_rounds=20, tile_length=8192, contexts=(4096, 8192, 16384, 32768), decode_batch=8, decode_tokens=50,
    ),
}  # fmt: skip


def _shape(setting: Setting) -> dict[str, Any]:
    profile, sizes = PROFILES[setting.profile], SIZES[setting.profile]
    fields = ("dim", "num_heads", "num_kv_heads", "head_dim", "ffn_dim")
    return {"gpu": sizes.gpu, **{name: getattr(profile, name) for name in fields}}


def _table(done: Finished) -> pd.DataFrame:
    """Rows of a measurement with the machine: device (cpu or cuda) and hardware, its name."""
    machine = done.provenance["hardware"]
    return pd.DataFrame(done.result["rows"]).assign(device=machine["device"], hardware=machine["name"])


def throughput(setting: Setting, run: Runner) -> pd.DataFrame:
    """Forward and backward times, one row per round: measurement (operation, step, tile or tile pair), name, length, batch, round, ms.

    Without a time, `reason` says why. Operations at equal tokens per call and window 512; steps are those of whole decoders, for C14;
    tiles exist on a GPU only, for C15: name is "C x m".
    """
    sizes, shape = SIZES[setting.profile], _shape(setting)
    operations = run([Operations.Config(
        **shape, rounds=sizes.rounds, lengths=list(sizes.lengths), tokens=sizes.tokens, window=sizes.window, label="operations",
    )])[0]  # fmt: skip
    steps = run([Steps.Config(
        **shape, rounds=sizes.step_rounds, lengths=list(sizes.step_lengths), num_layers=sizes.step_layers,
        batch=sizes.step_batch, label="training steps",
    )])[0]  # fmt: skip
    parts = [
        _table(operations).assign(measurement="operation"),
        _table(steps).rename(columns={"arm": "name"}).assign(measurement="step"),
    ]
    if sizes.tile_length is not None:
        parts += _tiles(run([Tiles.Config(
            **shape, rounds=sizes.rounds, length=sizes.tile_length, batch=max(1, sizes.tokens // sizes.tile_length), window=sizes.window,
            label="tiles of the kernels",
        )])[0])  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(ms=1e3 * table["seconds"].astype(float), reason=table["reason"].fillna(""))
    columns = ["measurement", "name", "length", "batch", "round", "ms", "reason", "device", "hardware"]
    return table[[*columns, *(c for c in ("C", "m") if c in table)]]


def _tiles(done: Finished) -> list[pd.DataFrame]:
    machine = done.provenance["hardware"]
    same = {
        "length": done.config["length"],
        "batch": done.config["batch"],
        "device": machine["device"],
        "hardware": machine["name"],
    }
    tiles = _table(done).assign(measurement="tile", **same)
    tiles["name"] = tiles["C"].astype(str) + " x " + tiles["m"].astype(str)
    pairs = []
    for which, seconds in done.result["pairs"].items():
        chunk, per_state = done.result[which]
        rows = pd.DataFrame({"round": np.arange(len(seconds)), "seconds": seconds})
        pairs.append(rows.assign(measurement="tile pair", name=which, C=chunk, m=per_state, **same))
    return [tiles, *pairs]


def accuracy(setting: Setting, run: Runner) -> pd.DataFrame:
    """Relative RMS error of residual linear attention as it runs here, against fp64: dtype, what, error."""
    cfg = Accuracy.Config(**_shape(setting), length=1024, window=128, label="accuracy of the kernel")
    return _table(run([cfg])[0])


def decode(setting: Setting, run: Runner) -> pd.DataFrame:
    """Latency of one token and bytes of real caches against context: arm, context, batch, cache_bytes (per sequence), ms."""
    profile, sizes = PROFILES[setting.profile], SIZES[setting.profile]
    arms = ["full_rope", f"swa@{profile.eighth}", f"rattn@{profile.eighth}"]
    return _decode(setting, run, arms, list(sizes.contexts), "decoding")


def _decode(setting: Setting, run: Runner, arms: list[str], contexts: list[int], label: str) -> pd.DataFrame:
    profile, sizes = PROFILES[setting.profile], SIZES[setting.profile]
    cfg = Decode.Config(
        **_shape(setting), num_layers=profile.num_layers, arms=arms, contexts=contexts, batch=sizes.decode_batch,
        rounds=sizes.decode_tokens, label=label,
    )  # fmt: skip
    return _table(run([cfg])[0])


def memory(setting: Setting, run: Runner) -> pd.DataFrame:
    """Peak memory of one forward of the local layer on the CPU: arm, mode, length, bytes."""
    sizes = SIZES[setting.profile]
    cfg = Memory.Config(
        **(_shape(setting) | {"gpu": False}), arms=[f"swa@{sizes.memory_window}", f"rattn@{sizes.memory_window}"],
        lengths=list(sizes.memory_lengths),
        label="memory of a forward pass",
    )  # fmt: skip
    return _table(run([cfg])[0])


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """The a of bytes ~ length^a for every arm and mode of the memory table."""
    return pd.DataFrame([
        {"arm": arm, "mode": mode, "exponent": fitted_exponent(part["length"].tolist(), part["bytes"].tolist())}
        for (arm, mode), part in table.groupby(["arm", "mode"], sort=False)
    ])  # fmt: skip


def timing(setting: Setting, run: Runner) -> pd.DataFrame:
    """The window sweep with what was measured: arm, family, window, seed, bits_per_byte, kv_bytes, decode_ms, train_tokens_per_s, train_s.

    kv_bytes are those of real caches that hold the training length, per sequence; training seconds follow from the tokens per
    second that the run noted. Runs that shared the machine's cores were slower than one alone.
    """
    profile, _ = chosen(setting)
    sweep = window_sweep(setting, run)[["arm", "family", "window", "seed", "bits_per_byte", "tokens"]]
    rates = [
        done.provenance.get("throughput", {}).get("tokens_per_s") for *_, done in trained(setting, run, profile.arms())
    ]
    decoded = _decode(setting, run, profile.arms(), [profile.seq_len], "decoding, every arm")
    costs = decoded.rename(columns={"cache_bytes": "kv_bytes", "ms": "decode_ms"})[
        ["arm", "kv_bytes", "decode_ms", "hardware"]
    ]
    table = sweep.assign(train_tokens_per_s=rates).merge(costs, on="arm", how="left")
    return table.assign(train_s=table["tokens"] / table["train_tokens_per_s"])


def medians(table: pd.DataFrame, measurement: str) -> pd.DataFrame:
    """Median milliseconds by name (rows) and length (columns)."""
    part = table[table["measurement"] == measurement]
    return part.pivot_table(index="name", columns="length", values="ms", aggfunc="median", sort=False)


def paired(table: pd.DataFrame, measurement: str, first: str, second: str, length: int) -> pd.Series:
    """The ratio of `first` to `second` within each round; empty where one was not measured."""
    part = table[(table["measurement"] == measurement) & (table["length"] == length)].dropna(subset=["ms"])
    wide = part.pivot(index="round", columns="name", values="ms")
    return (wide[first] / wide[second]).dropna() if {first, second} <= set(wide) else pd.Series(dtype=float)


# What the kernels are held to on a GPU: numerator, denominator, what the ratio is called, and the least ratio by length.
TARGETS: tuple[tuple[str, str, str, Callable[[int], float | None]], ...] = (
    ("fla", "residual", "fla's linear attention / our residual linear attention", lambda length: 1.0),
    (
        "fla kernel",
        "residual",
        "fla's kernel alone, features given / our residual linear attention",
        lambda length: 1.0,
    ),
    (
        "full layer",
        "rattn layer",
        "full attention layer / RATTENTION layer",
        lambda length: {4096: 1.0, 32768: 5.0}.get(length),
    ),
    (
        "full",
        "rattn layer",
        "full attention without projections / RATTENTION layer",
        lambda length: {4096: 1.0, 32768: 5.0}.get(length),
    ),
    ("window layer", "rattn layer", "sliding-window layer / RATTENTION layer", lambda length: None),
)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Median ratios of the operations, above 1 where ours is faster: what, length, ratio, target, met. Targets are those of a GPU."""
    rows, on_gpu = [], (table["device"] == "cuda").all()
    for first, second, what, target in TARGETS:
        for length in map(int, sorted(table.loc[table["measurement"] == "operation", "length"].unique())):
            ratio = float(paired(table, "operation", first, second, length).median())
            goal = (target(length) if on_gpu else None) or math.nan
            met = "" if math.isnan(goal) else "not measured" if np.isnan(ratio) else "yes" if ratio >= goal else "no"
            rows.append({"what": what, "length": length, "ratio": ratio, "target": goal, "met": met})
    return pd.DataFrame(rows)


ERROR_LIMITS = {"bfloat16": 5e-3, "float32": 1e-5}  # relative root mean square


def worst_errors(table: pd.DataFrame) -> pd.DataFrame:
    """The largest error of output and gradients by type, beside its limit: dtype, error, limit, met."""
    worst = table.groupby("dtype", sort=False)["error"].max().reset_index()
    worst["limit"] = worst["dtype"].map(ERROR_LIMITS)
    return worst.assign(met=np.where(worst["error"] <= worst["limit"], "yes", "no"))


def step_ratios(tables: Tables) -> pd.DataFrame:
    """Evidence of C14: forward and backward time of rattn@T/8 over swa@T/2, a part for every T, a unit for every pair."""
    table = tables("throughput")
    parts = []
    for length in map(int, table.loc[table["measurement"] == "step", "length"].unique()):
        ratio = paired(table, "step", f"rattn@{length // 8}", f"swa@{length // 2}", length)
        parts.append(pd.DataFrame({"part": f"T = {length}", "seed": 0, "unit": ratio.index, "value": ratio.to_numpy()}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=EVIDENCE_COLUMNS)


def tile_gain(tables: Tables) -> pd.DataFrame:
    """Evidence of C15: 1 - time of the best (m, C) / time of (m = 1, largest C that fits); empty where no tile was timed."""
    table = tables("throughput")
    pairs = table[table["measurement"] == "tile pair"]
    if pairs.empty:
        return pd.DataFrame(columns=EVIDENCE_COLUMNS)
    ratio = paired(table, "tile pair", "best", "base", int(pairs["length"].iloc[0]))
    return pd.DataFrame({"part": "best tile", "seed": 0, "unit": ratio.index, "value": 1 - ratio.to_numpy()})


def tiles(table: pd.DataFrame) -> pd.DataFrame:
    """Median time of every tile: C, m, ms; NaN where it does not fit. No rows where no tile was timed."""
    part = table[table["measurement"] == "tile"]
    if part.empty:
        return pd.DataFrame(columns=["C", "m", "ms"])
    return part.groupby(["C", "m"], sort=True)["ms"].median().reset_index().astype({"C": int, "m": int})


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
    base = found[found["arm"] == "swa"].set_index(["source", "setting"])["seconds"].rename("base")
    found = found.join(base, on=["source", "setting"])
    return found.assign(ratio=found["seconds"] / found["base"]).drop(columns="base")
