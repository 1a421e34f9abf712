"""Tables of pairing, from real runs: similarity scored against truth, near-duplicates, degrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments import pairs
from orchard.papers.sbp.experiments.arms import Study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Regular
from orchard.papers.sbp.figures import build, stages
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.method.models import TINY
from orchard.papers.sbp.runs.pair import Pair
from orchard.papers.sbp.runs.similarity import KnownCopies, reachable, same_label
from orchard.runs import Finished, Run, Runner, Setting, Store

SMOKE = Setting("smoke")


def world(variant: str, **changes: Any) -> ConceptWorld.Config:
    fields = {"concepts": 12, "words": 90, "content": 16, "documents": 150, "kappa": 0.2, "held_out": 60, **changes}
    return ConceptWorld.Config(variant=variant, **fields)


class ByWords(Study):
    """Pairs by TF-IDF alone: no embedder has to be trained."""

    def pairs(self, arm: str) -> Pair.Config:
        return self.nearest(TfidfEmbedder.Config(components=16), "TF-IDF", k=5, exceedance=0.05)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    cells = [
        (Cell(variant, 0, 0), ByWords(PROFILES["smoke"], world(variant), variant, 0, Regular(1.0, 0.0, 1e-2), TINY, 100, 2))
        for variant in ("indep", "hier")
    ]  # fmt: skip
    monkeypatch.setattr(pairs, "studies", lambda *_: cells)
    store = Store(tmp_path)

    def runner(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    return runner


def test_similarity_finds_topics_before_subtopics_and_nothing_where_there_is_nothing(run: Runner) -> None:
    table = pairs.thresholds(SMOKE, run)
    assert table.groupby(["variant", "relation"])["alpha"].apply(lambda a: a.is_monotonic_decreasing).all()
    hier, indep = (table[table["variant"] == variant] for variant in ("hier", "indep"))
    wide = hier.pivot_table(index="exceedance", columns="relation", values="precision")
    assert (wide["topic"] >= wide["subtopic"]).all()
    last = hier[hier["exceedance"] == 1.0]
    assert (last["precision"] > 2 * last["chance"]).all()
    assert (last["recall"] <= 1).all()
    assert (last["found"] == 150 * 5).all()  # all candidates: no random pair scores below them, none is a duplicate
    alone = indep[indep["exceedance"] == 1.0].iloc[0]
    assert alone["precision"] == pytest.approx(alone["chance"], abs=0.05)
    build.precision_recall(table, 0.01).draw_without_rendering()
    bins = pairs.similarity(SMOKE, run)
    mass = ((bins["high"] - bins["low"]) * bins["density"]).groupby([bins["variant"], bins["pairs"]]).sum()
    np.testing.assert_allclose(mass, 1.0)
    centre = (
        ((bins["high"] ** 2 - bins["low"] ** 2) / 2 * bins["density"]).groupby([bins["variant"], bins["pairs"]]).sum()
    )
    assert centre["hier", "random"] < min(centre["hier", "nearest"], centre["hier", "true"])
    assert centre["indep", "true"] == pytest.approx(centre["indep", "random"], abs=0.05)
    build.similarity(bins).draw_without_rendering()


def test_what_the_rules_leave_and_who_is_whose_partner(run: Runner) -> None:
    row = pairs.paired(SMOKE, run).set_index("variant").loc["indep"]
    assert row["candidates"] == 150 * 5
    assert row["precision"] == pytest.approx(row["precision, random"], abs=0.1)
    assert row["genre, random"] == pytest.approx(0.25, abs=0.02)
    assert row["genre"] > 0.5  # there is nothing else to go by
    degrees = pairs.degrees(SMOKE, run)
    cells = degrees.groupby(["variant", "pairs by", "stage"])
    assert (cells["documents"].sum() == 150).all()
    assert degrees.loc[degrees["stage"] == "within the caps", "degree"].max() <= 5
    held = (degrees["degree"] * degrees["documents"]).groupby([degrees["variant"], degrees["stage"]]).sum()
    assert (
        held["indep", "within the caps"] == 2 * row["pairs"]
    )  # both embedders stand in the table, with the same pairs
    assert len(stages.hub_degrees(degrees, "indep").axes) == 2


def test_near_duplicates_are_listed_by_edits(tmp_path: Path) -> None:
    done = Store(tmp_path).compute(KnownCopies.Config(corpus=world("near-dup", copies=0.3), k=3), "cpu")
    table = pd.DataFrame(done.result["rows"])
    mean = table.groupby("edits")["jaccard"].mean()
    assert mean[0] == 1.0 > mean[1] > mean[2] > mean[-1]
    build.near_duplicates(table.assign(kind=table["edits"].astype(str))).draw_without_rendering()


def test_pairs_that_places_can_hold() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert reachable(labels, 8) == 3 * 2 + 2 * 1
    assert reachable(labels, 1) == 3 + 2
    assert same_label(labels) == pytest.approx((3 * 2 + 2 * 1) / 30)
