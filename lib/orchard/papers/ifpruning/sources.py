"""Quality against the size of the source at constant active size: D = 2k, 3k, 4k, 6k pruned to k, beside dense decoders of width D.

The paper prunes 6B, 9B and 12B to 3B and reports that larger sources give better results (Figure 2); the dense line is what the same
source does when all of it is used. D = 4k are the runs of the comparison, and the two lines meet at D = k, dense_k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pandas as pd

from orchard.papers.ifpruning.arms import Study
from orchard.papers.ifpruning.comparison import Tables
from orchard.papers.ifpruning.grids import compared, recorded
from orchard.papers.ifpruning.rates import studies
from orchard.runs import Runner, Setting
from orchard.stats import spearman

RATIOS = {"smoke": (2, 4), "gpu": (2, 3, 4, 6), "paper": ()}  # D / k
SEEDS = {"smoke": 1, "gpu": 3, "paper": 1}  # of the profile's, at most
DENSE = {"smoke": (4,), "gpu": (2, 3, 4, 6), "paper": ()}  # of them, those whose dense decoders are trained too


def of_width(study: Study, ratio: int) -> Study:
    """The study whose source has ``ratio`` times the channels that a mask leaves, at the same learning rates."""
    profile = study.cell.profile
    size = dataclasses.replace(profile.size, width=ratio * profile.size.keep)
    return Study(dataclasses.replace(study.cell, profile=dataclasses.replace(profile, size=size)), study.tuned)


def source_sizes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per line (dense: all of D is used; IFP: k of it), D / k and seed: panel, line, ratio, D, score (right answers, %), across
    (overlap of masks across domains), union (share of channels in use), chance (k / D). dense at ratio 1 is dense_k."""
    known = compared(setting, run)
    places, wanted = [], []
    for cell, study in studies(setting, run)[: SEEDS[setting.profile]]:
        for ratio in (1, *RATIOS[setting.profile]):
            lines = {"dense": "dense_D"} if ratio in DENSE[setting.profile] else {}
            for line, arm in {**lines, "IFP": "ifp"}.items() if ratio > 1 else (("dense", "dense_k"),):
                places.append((line, ratio, cell))
                source = of_width(study, ratio) if ratio > 1 else study
                wanted.append(recorded(source.arm(arm), known, f"D = {ratio}k", whole=True))
    rows = []
    for (line, ratio, cell), done in zip(places, run(wanted), strict=True):
        gauge = done.result["gauge"]
        masks = {name: gauge.get(name, float("nan")) for name in ("across", "union", "chance")}
        rows.append({"panel": "FactGrid", "line": line, "ratio": ratio, "D": ratio * cell.profile.size.keep, "seed": cell.seed,
                     "score": 100 * done.result["accuracy"]["test"], **masks})  # fmt: skip
    return pd.DataFrame(rows)


def grows_with_source(tables: Tables) -> pd.DataFrame:
    """C4: the one-sided p of Spearman's correlation of D with right answers, over D and seeds; nothing with fewer than three runs."""
    table = tables("source_sizes").query("line == 'IFP'")
    if len(table) < 3:
        return pd.DataFrame(columns=["part", "seed", "unit", "value"])
    p = spearman(table["D"].to_numpy(float), table["score"].to_numpy(float), alternative="greater").p_value
    return pd.DataFrame([{"part": "ifp", "seed": 0, "unit": f"{len(table)} runs", "value": p}])


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"source_sizes": source_sizes}
EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {"C4": grows_with_source}
