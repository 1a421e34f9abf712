"""From the tables of MC-Suite to the evidence of M1 to M4 and M14: rows with part, seed, unit and value.

A model is what a bootstrap resamples first, so that `seed` is its name; models of all shapes of a profile count alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from orchard.papers.moe_lottery.criteria import PAPER

Tables = Callable[[str], pd.DataFrame]


def unequal(tables: Tables) -> pd.DataFrame:
    """M1: largest increase over the median one, test split, every model; infinite where the median expert costs nothing."""
    table = tables("leave_one_out")
    found = table[(table["split"] == "test") & (table["domain"] == "all")].groupby("model", sort=False)["increase"]
    most, middle = found.max(), found.median()
    ratio = np.where(middle > 0, most / middle, np.where(most > 0, np.inf, np.nan))
    return pd.DataFrame({"part": "all models", "seed": most.index, "unit": 0, "value": ratio})


def best_of(curves: pd.DataFrame, groups: tuple[str, ...]) -> pd.DataFrame:
    """Model, criterion, direction with the lowest mean loss over s on validation text, among the paper's criteria of some groups."""
    own = curves[(curves["split"] == "validation") & curves["group"].isin(groups) & curves["criterion"].isin(PAPER)]
    own = own[own["budget"] == "per layer"]
    area = own.groupby(["model", "criterion", "direction"], sort=False)["loss"].mean().reset_index()
    return area.loc[area.groupby("model", sort=False)["loss"].idxmin()].drop(columns="loss").reset_index(drop=True)


def _area(units: pd.DataFrame, criterion: str, direction: str) -> pd.Series:
    """Mean loss over s of every model and window; of random dropping, the mean over its draws."""
    own = units[
        (units["criterion"] == criterion) & (units["direction"] == direction) & (units["budget"] == "per layer")
    ]
    return own.groupby(["model", "unit"])["value"].mean()


def _part(name: str, values: pd.Series) -> pd.DataFrame:
    """Evidence from a value per model and unit: a model is what the bootstrap resamples first."""
    return values.rename("value").reset_index().rename(columns={"model": "seed"}).assign(part=name)


def beats_random(tables: Tables) -> pd.DataFrame:
    """M2: EAN and EGE, smallest first, minus the mean of the random draws; the best criterion of activations or gradients minus the
    best of weights or usage, each chosen for its model on validation text."""
    units, curves = tables("criteria_units"), tables("criteria_curves")
    random = _area(units, "random", "")
    parts = [_part(f"Min-{name.upper()} − random", _area(units, name, "min") - random) for name in ("ean", "ege")]
    chosen = []
    for groups in (("activation", "gradient"), ("weight", "inference")):
        rows = [
            _area(units[units["model"] == model], criterion, direction)
            for model, criterion, direction in best_of(curves, groups).to_numpy().tolist()
        ]
        chosen.append(pd.concat(rows))
    return pd.concat([*parts, _part("best activation or gradient − best weight or usage", chosen[0] - chosen[1])])


def router_norm(tables: Tables) -> pd.DataFrame:
    """M4: Max-RWN minus Min-RWN, every model."""
    units = tables("criteria_units")
    by_model = (_area(units, "rwn", "max") - _area(units, "rwn", "min")).groupby("model").mean()
    return pd.DataFrame({"part": "all models", "seed": by_model.index, "unit": 0, "value": by_model.to_numpy()})


def correlation(*names: str) -> Callable[[Tables], pd.DataFrame]:
    """Evidence from rank correlations with leaving one out: a part for each criterion, a unit for each layer."""

    def measured(tables: Tables) -> pd.DataFrame:
        table = tables("spearman")
        rows = table[table["criterion"].isin(names)]
        return pd.DataFrame(
            {"part": rows["criterion"].str.upper(), "seed": rows["model"], "unit": rows["layer"], "value": rows["rho"]}
        )

    return measured


EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {
    "M1": unequal,
    "M2": beats_random,
    "M3": correlation("ean", "ege"),
    "M4": router_norm,
    "M14": correlation("evtc"),
    "M14b": correlation("wsr"),
}
