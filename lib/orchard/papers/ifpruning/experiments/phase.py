"""The phase diagram: where a mask per instruction gains over a dense model of its active size, and where not.

    gain(arm) = right answers of the arm - right answers of dense_k                  share of all questions, held-out wordings

    sharing     rho_all x tagless       how much every domain shares x how many training instructions say nothing
    mixing      mix x method            domains in one example x mask per prompt (ifp) or expert per token (moe)

Expected before anything ran: at rho_all = 1 the gain is 0 or less, since the key alone says the answer; it falls with tagless and with
mix; where one example needs several masks, a mixture that chooses per token overtakes. rho_grp is half of what rho_all leaves.

`source_sizes` varies the source at constant active size: D = 2k, 3k, 4k, 6k pruned to k, beside dense decoders of width D. The paper prunes
6B, 9B and 12B to 3B and reports that larger sources give better results (Figure 2); the dense line is what the same source does when all of
it is used. D = 4k are the runs of the comparison, and the two lines meet at D = k, dense_k.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pandas as pd

from orchard.papers.ifpruning.experiments.arms import Study, studies
from orchard.papers.ifpruning.experiments.comparison import Tables
from orchard.papers.ifpruning.experiments.grids import compared, grid_cells, recorded
from orchard.runs import Runner, Setting
from orchard.stats import spearman


@dataclass(frozen=True)
class Point:
    """A corpus of the diagram."""

    rho_all: float = 0.0
    tagless: float = 0.0
    mix: int = 1

    @property
    def variant(self) -> dict[str, float]:
        """The fields of FactGrid."""
        shares = {"rho_all": self.rho_all, "rho_grp": (1 - self.rho_all) / 2, "tagless": self.tagless}
        return shares | {"mix": self.mix, "mix_share": float(self.mix > 1)}

    @property
    def name(self) -> str:
        """For people."""
        return f"rho_all {self.rho_all:g}, tagless {self.tagless:g}, mix {self.mix}"


@dataclass(frozen=True)
class Sizes:
    """The points and the arms of a diagram; ``token_routed`` are the points that also have a moe."""

    sharing: tuple[Point, ...]
    mixing: tuple[Point, ...]
    token_routed: tuple[Point, ...]


def _grid(rho: tuple[float, ...], tagless: tuple[float, ...]) -> tuple[Point, ...]:
    return tuple(Point(rho_all=r, tagless=t) for r in rho for t in tagless)


_MIXES = (Point(), Point(mix=2), Point(mix=4))
SIZES = {
    "smoke": Sizes(sharing=(Point(), Point(rho_all=1.0)), mixing=(Point(), Point(mix=2)), token_routed=()),
    "gpu": Sizes(
        sharing=_grid((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)), mixing=_MIXES, token_routed=(*_MIXES, Point(tagless=0.5))
    ),
    "paper": Sizes(sharing=(), mixing=(), token_routed=()),
}  # fmt: skip
CELL = ["diagram", "rho_all", "tagless", "mix", "seed"]


def phase(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per diagram, point, seed and arm (dense_k, ifp, moe): rho_all, tagless, mix, right (answers; share), gain (over dense_k of
    the same point and seed), across (overlap of masks of two domains; NaN without masks). Mixed points are scored on mixed prompts."""
    sizes, known = SIZES[setting.profile], compared(setting, run)
    places, wanted = [], []
    for diagram, points in (("sharing", sizes.sharing), ("mixing", sizes.mixing)):
        for point in points:
            arms = ("dense_k", "ifp", "moe") if point in sizes.token_routed else ("dense_k", "ifp")
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
    dense = table[table["arm"] == "dense_k"].set_index(CELL)["right"]
    return table.assign(
        gain=table["right"] - dense.loc[list(table[CELL].itertuples(index=False, name=None))].to_numpy()
    )


SOURCE_RATIOS = {"smoke": (2, 4), "gpu": (2, 3, 4, 6), "paper": ()}  # D / k
SOURCE_SEEDS = {"smoke": 1, "gpu": 3, "paper": 1}  # of the profile's, at most
DENSE_RATIOS = {"smoke": (4,), "gpu": (2, 3, 4, 6), "paper": ()}  # of them, those whose dense decoders are trained too


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
    for cell, study in studies(setting, run)[: SOURCE_SEEDS[setting.profile]]:
        for ratio in (1, *SOURCE_RATIOS[setting.profile]):
            lines = {"dense": "dense_D"} if ratio in DENSE_RATIOS[setting.profile] else {}
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
