"""The phase diagram: where a mask per instruction gains over a dense model of its active size, and where not.

    gain(arm) = right answers of the arm - right answers of dense_k                  share of all questions, held-out wordings

    sharing     rho_all x tagless       how much every domain shares x how many training instructions say nothing
    mixing      mix x method            domains in one example x mask per prompt (ifp) or expert per token (moe)

Expected before anything ran: at rho_all = 1 the gain is 0 or less, since the key alone says the answer; it falls with tagless and with
mix; where one example needs several masks, a mixture that chooses per token overtakes.

`source_sizes` varies the source at constant active size: D = 2k, 3k, 4k, 6k pruned to k, beside dense decoders of width D. The paper prunes
6B, 9B and 12B to 3B and reports that larger sources give better results (Figure 2); the dense line is what the same source does when all of
it is used. D = 4k are the runs of the comparison, and the two lines meet at D = k, dense_k.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

from orchard import evidence
from orchard.evidence import Tables
from orchard.papers.ifpruning.experiments.arms import Study, compared, recorded, studies
from orchard.papers.ifpruning.experiments.profiles import DIAGRAMS, PROFILES, TOKEN_ROUTED, grid_cells
from orchard.runs import Runner, Setting
from orchard.stats import spearman

CELL = ["diagram", "rho_all", "tagless", "mix", "seed"]


def phase(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per diagram, point, seed and arm (dense_k, ifp, moe): rho_all, tagless, mix, right (answers; share), gain (over dense_k of
    the same point and seed), across (overlap of masks of two domains; NaN without masks). Mixed points are scored on mixed prompts."""
    known, routed = compared(setting, run), TOKEN_ROUTED.get(setting.profile, ())
    places, wanted = [], []
    for diagram, points in DIAGRAMS[setting.profile].items():
        for point in points:
            arms = ("dense_k", "ifp", "moe") if point in routed else ("dense_k", "ifp")
            for cell in grid_cells(setting, **point.variant):
                places += [(diagram, point, cell.seed, arm) for arm in arms]
                wanted += [recorded(Study(cell).arm(arm), known, point.name, whole=True) for arm in arms]
    rows = [
        {
            "diagram": diagram, "rho_all": point.rho_all, "tagless": point.tagless, "mix": point.mix, "seed": seed, "arm": arm,
            "right": done.result["accuracy"]["mixed" if point.mix > 1 else "test"],
            "across": done.result["gauge"].get("across", float("nan")),
        }
        for (diagram, point, seed, arm), done in zip(places, run(wanted), strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    dense = table[table["arm"] == "dense_k"].set_index(CELL)["right"].rename("dense")
    return table.join(dense, on=CELL).assign(gain=lambda t: t["right"] - t.pop("dense"))


def of_width(study: Study, ratio: int) -> Study:
    """The study whose source has ``ratio`` times the channels that a mask leaves, at the same learning rates."""
    profile = study.cell.profile
    size = dataclasses.replace(profile.size, width=ratio * profile.size.keep)
    return Study(dataclasses.replace(study.cell, profile=dataclasses.replace(profile, size=size)), study.tuned)


def source_sizes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per line (dense: all of D is used; IFP: k of it), D / k and seed: panel, line, ratio, D, score (right answers, %), across
    (overlap of masks across domains), union (share of channels in use), chance (k / D). dense at ratio 1 is dense_k."""
    known, profile = compared(setting, run), PROFILES[setting.profile]
    places, wanted = [], []
    for cell, study in studies(setting, run)[: profile.few_seeds]:
        places.append(("dense", 1, cell))
        wanted.append(study.arm("dense_k"))
        for ratio in profile.ratios:
            lines = [("dense", "dense_D")] * (ratio in profile.dense_ratios) + [("IFP", "ifp")]
            places += [(line, ratio, cell) for line, _ in lines]
            source = of_width(study, ratio)
            wanted += [recorded(source.arm(arm), known, f"D = {ratio}k", whole=True) for _, arm in lines]
    rows = [
        {
            "panel": "FactGrid", "line": line, "ratio": ratio, "D": ratio * cell.profile.size.keep, "seed": cell.seed,
            "score": 100 * done.result["accuracy"]["test"],
            **{name: done.result["gauge"].get(name, float("nan")) for name in ("across", "union", "chance")},
        }
        for (line, ratio, cell), done in zip(places, run(wanted), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def grows_with_source(tables: Tables) -> pd.DataFrame:
    """C4: the one-sided p of Spearman's correlation of D with right answers, over D and seeds; nothing with fewer than three runs."""
    table = tables("source_sizes").query("line == 'IFP'")
    if len(table) < 3:
        return evidence.together([])
    p = spearman(table["D"].to_numpy(float), table["score"].to_numpy(float), alternative="greater").p_value
    return evidence.rows("ifp", 0, f"{len(table)} runs", [p])
