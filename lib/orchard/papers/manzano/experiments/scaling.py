"""Sizes of the language model with the decoder fixed (M5), and of the decoder with the codes fixed (M6, M6b: from `gpu` on).

Structure is the IoU of the edges of a drawn picture and of the true one; an edge is where grey levels change by more than `EDGE` a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from orchard.evidence import Tables, paired, together
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.experiments.arms import Study, studies
from orchard.papers.manzano.experiments.strategies import COLUMNS, DRAWN, items, read_drawings
from orchard.papers.manzano.method.models import Size
from orchard.runs import Finished, Run, Runner, Setting

METRICS = ("general", "text-rich", DRAWN)
STRUCTURE, OBJECTS, EDGE = "structure", "objects", 25.0


def scaling(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per item: seed, dim, parameters (with embedding), arm (hybrid, blind), metric, unit, value."""
    keys: list[tuple[Study, Size, str]] = []
    wanted: list[tuple[dict[str, Any], Run.Config]] = []
    for study in studies(setting, run, few=True):
        ends = (study.profile.sizes[0], study.profile.sizes[-1])
        for size in study.profile.sizes:
            arms = ["hybrid"] + ["blind"] * (size in ends)
            keys += [(study, size, arm) for arm in arms]
            about = {"seed": study.seed, "dim": size.dim}
            wanted += [(about | {"arm": arm}, study.answers(arm, size=size)) for arm in arms]
            wanted.append((about | {"arm": "hybrid"}, study.drawings("hybrid", size=size)))
    table = items(run, wanted, [*COLUMNS[:5], "dim"])
    done = run([study.unified(arm, size=size) for study, size, arm in keys])
    parameters = {size.dim: one.result["parameters"] for (_, size, _), one in zip(keys, done, strict=True)}
    table = table[table["metric"].isin(METRICS)].reset_index(drop=True)
    return table.assign(parameters=table["dim"].map(parameters))


def trend(table: pd.DataFrame) -> pd.DataFrame:
    """By metric and seed: rho, the rank correlation of mean and width; gain, largest minus smallest."""
    found = table.query("arm == 'hybrid'").groupby(["metric", "seed", "dim"])["value"].mean().unstack()
    ranks = found.rank(axis=1).T.corrwith(found.columns.to_series().rank())
    return pd.DataFrame({"rho": ranks, "gain": found.iloc[:, -1] - found.iloc[:, 0]}).reset_index()


def decoder_scaling(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per item: seed, dim, parameters, arm (hybrid; shuffled: codes of another picture), metric (structure, GenEval-mini, objects),
    unit, value. Of true codes; empty where a profile has one decoder."""
    columns = ["seed", "dim", "parameters", "arm", "metric", "unit", "value"]
    keys = [
        (study, study.decoder(size=size), size.dim, arm)
        for study in studies(setting, run, few=True) if study.profile.other_decoders
        for size in (study.profile.decoder, *study.profile.other_decoders) for arm in ("hybrid", "shuffled")
    ]  # fmt: skip
    trained = run([decoder for _, decoder, *_ in keys])
    drawn = run([
        study.drawings(decoder=decoder, shuffled=arm == "shuffled", kept=study.profile.items) for study, decoder, _, arm in keys
    ])  # fmt: skip
    parts = [pd.DataFrame(columns=columns)]
    for (study, _, dim, arm), decoder, done in zip(keys, trained, drawn, strict=True):
        about = {"seed": study.seed, "dim": dim, "parameters": decoder.result["parameters"], "arm": arm}
        parts += [part.assign(**about)[columns] for part in _measured(study, done)]
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _measured(study: Study, done: Finished) -> Iterator[pd.DataFrame]:
    drawn = read_drawings(done)
    yield drawn
    yield drawn.assign(metric=OBJECTS, value=done.tensors("drawings")["objects"].double().numpy())
    world: SceneWorld = study.shown.build()
    true = world.pixels(world.scenes("test").take(drawn["unit"].to_numpy()))
    yield drawn.assign(metric=STRUCTURE, value=edge_iou(done.tensors("pictures")["pictures"].numpy(), true))


def edge_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of the edges of pictures [n, height, width, 3], grey levels; 1 where neither has any."""
    edges = [
        np.hypot(*np.gradient(pictures.astype(np.float64).mean(axis=-1), axis=(1, 2))) > EDGE for pictures in (first, second)
    ]  # fmt: skip
    both, either = ((edges[0] & edges[1]).sum(axis=(1, 2)), (edges[0] | edges[1]).sum(axis=(1, 2)))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


# ---------------------------------------------------------------------- evidence


def _ends(table: pd.DataFrame, metric: str, largest: str = "hybrid", smallest: str = "hybrid") -> pd.DataFrame:
    """The largest size minus the smallest, item by item."""
    own = table[table["metric"] == metric]
    dims = own["dim"].agg(["min", "max"])
    ends = own[
        ((own["dim"] == dims["max"]) & (own["arm"] == largest)) | ((own["dim"] == dims["min"]) & (own["arm"] == smallest))
    ]  # fmt: skip
    ends = ends.assign(end=np.where(ends["dim"] == dims["max"], "largest", "smallest"))
    return paired(ends, "end", "largest", "smallest", units=["unit"], value="value", part=metric)


def grows(tables: Tables, arm: str = "hybrid") -> pd.DataFrame:
    """M5: the largest language model minus the smallest, a metric a part; blind ones draw nothing."""
    table = tables("scaling")
    return together(_ends(table, metric, arm, arm) for metric in METRICS)


def decoder_gain(tables: Tables, metric: str, largest: str = "hybrid") -> pd.DataFrame:
    """M6, M6b: the largest decoder minus the smallest."""
    return _ends(tables("decoder_scaling"), metric, largest)
