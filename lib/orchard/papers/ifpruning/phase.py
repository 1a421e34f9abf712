"""The phase diagram: where a mask per instruction gains over a dense model of its active size, and where not.

    gain(arm) = right answers of the arm - right answers of dense_k                  share of all questions, held-out wordings

    sharing     rho_all x tagless       how much every domain shares x how many training instructions say nothing
    mixing      mix x method            domains in one example x mask per prompt (ifp) or expert per token (moe)

Expected before anything ran: at rho_all = 1 the gain is 0 or less, since the key alone says the answer; it falls with tagless and with
mix; where one example needs several masks, a mixture that chooses per token overtakes. rho_grp is half of what rho_all leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from orchard.papers.ifpruning.arms import Study
from orchard.papers.ifpruning.grids import compared, grid_cells, recorded
from orchard.runs import Runner, Setting


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


CELL = ["diagram", "rho_all", "tagless", "mix", "seed"]
EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"phase": phase}
