"""What 01 draws: similarity scored against truth, near duplicates, and every figure from its table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments import pairs as pairs_tables
from orchard.papers.sbp.figures import build as figures
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.runs.bounds import PRECISIONS
from orchard.papers.sbp.runs.pair import Pair
from orchard.papers.sbp.runs.similarity import KnownCopies, Similarity
from orchard.runs import Finished, Run, Setting, Store


def world(variant: str, **changes: Any) -> ConceptWorld.Config:
    return ConceptWorld.Config(variant=variant, concepts=12, words=90, content=16, documents=150, kappa=0.2, **changes)


def similar(tmp_path: Path, variant: str) -> tuple[pd.DataFrame, Any]:
    pairs = Pair.Config(corpus=world(variant), embedder=TfidfEmbedder.Config(components=16), k=5)
    done = Store(tmp_path).compute(Similarity.Config(pairs=pairs), "cpu")
    rows = [
        {**row, "variant": variant, "chance": done.result["chance"][row["relation"]]} for row in done.result["rows"]
    ]
    return pd.DataFrame(rows), done


def test_neighbours_share_topics_more_often_than_subtopics(tmp_path: Path) -> None:
    table, done = similar(tmp_path, "hier")
    wide = table.pivot_table(index="exceedance", columns="relation", values="precision")
    assert (wide["topic"] >= wide["subtopic"]).all()
    last = table[table["exceedance"] == 1.0].set_index("relation")
    assert (last["precision"] > 2 * last["chance"]).all()
    assert (last["recall"] <= 1).all()
    found = table[table["relation"] == "topic"].sort_values("exceedance")["found"]
    assert found.is_monotonic_increasing
    assert (
        found.iloc[-1] == 150 * 5
    )  # all candidates: the lowest score of a random pair is below them, none is a duplicate
    scores = {name: score.numpy() for name, score in done.tensors("scores").items()}
    assert scores["nearest"].mean() > scores["random"].mean()
    assert scores["true"].mean() > scores["random"].mean()
    assert isinstance(figures.precision_recall(table, 0.01), Figure)


def test_without_information_neighbours_are_at_chance(tmp_path: Path) -> None:
    table, done = similar(tmp_path, "indep")
    last = table[table["exceedance"] == 1.0].iloc[0]
    assert last["precision"] == pytest.approx(last["chance"], abs=0.05)
    scores = {name: score.numpy() for name, score in done.tensors("scores").items()}
    assert scores["true"].mean() == pytest.approx(scores["random"].mean(), abs=0.05)


def test_near_duplicates_are_listed_by_edits(tmp_path: Path) -> None:
    done = Store(tmp_path).compute(KnownCopies.Config(corpus=world("near-dup", copies=0.3), k=3), "cpu")
    table = pd.DataFrame(done.result["rows"])
    assert set(table["edits"]) == {-1, 0, 1, 2}
    mean = table.groupby("edits")["jaccard"].mean()
    assert mean[0] == 1.0 > mean[1] > mean[2] > mean[-1]
    assert isinstance(figures.near_duplicates(table.assign(kind=table["edits"].astype(str))), Figure)


def test_explorer_knows_the_entropy_and_the_true_concept() -> None:
    bars, told = figures.world_tables(concepts=16, kappa=0.05, content=24)
    assert bars.loc[bars["true"], "share"].iloc[0] > 0.9
    assert bars["share"].sum() == pytest.approx(1.0)
    assert told["words"].tolist() == [4, 8, 12, 16, 20, 24]
    assert told["told"].iloc[-1] == pytest.approx(np.log(16), abs=0.1)
    blurred = figures.world_tables(concepts=16, kappa=5.0, content=4)[1]
    assert blurred["told"].iloc[0] < 0.2
    assert isinstance(figures.concept_world(16, 0.05, 4), Figure)


def test_figures_of_tables() -> None:
    gain = pd.DataFrame({"variant": "dep", "precision": PRECISIONS, "gain": np.array(PRECISIONS), "concepts": 4})
    bounds = pd.DataFrame(
        {"variant": "dep", "bound": ["em", "labels"] * 2, "per_concept": [2.0, 2, 4, 4], "excess": [4, 3, 2, 1]}
    )
    cells = pd.DataFrame({"variant": "dep", "arm": ["Bayes", "oracle", "exact law"], "accuracy": [0.9, 0.8, 0.9]})
    bins = pd.DataFrame({"low": [-1.0, 0.0], "high": [0.0, 1.0], "density": [0.0, 1.0], "variant": "dep"})
    scores = pd.concat([bins.assign(pairs=pairs) for pairs in ("random", "nearest", "true")])
    for figure, table in (
        (figures.pair_gain, gain), (figures.document_bounds, bounds), (figures.cloze_accuracy, cells), (figures.similarity, scores)
    ):  # fmt: skip
        made = figure(table)
        made.draw_without_rendering()
        assert all(axes.get_xlabel() for axes in made.axes)


def test_tables_of_the_pairing_of_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Pair.Config(
        corpus=world("indep", held_out=60),
        embedder=TfidfEmbedder.Config(components=16),
        k=5,
        exceedance=0.05,
        held_out=60,
    )
    monkeypatch.setattr(pairs_tables, "_first_cells", lambda setting, run: [("indep", pairs)])
    store = Store(tmp_path)

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    bins = pairs_tables.similarity(Setting("smoke"), run)
    mass = ((bins["high"] - bins["low"]) * bins["density"]).groupby(bins["pairs"]).sum()
    assert mass.to_dict() == pytest.approx({"random": 1.0, "nearest": 1.0, "true": 1.0})
    assert isinstance(figures.similarity(bins), Figure)
    row = pairs_tables.paired(Setting("smoke"), run).iloc[0]
    assert row["candidates"] == 150 * 5
    assert row["precision"] == pytest.approx(row["precision, random"], abs=0.1)
    assert row["genre, random"] == pytest.approx(0.25, abs=0.02)
    assert row["genre"] > 0.5  # there is nothing else to go by
    table = pairs_tables.thresholds(Setting("smoke"), run)
    assert table["exceedance"].is_monotonic_increasing
    assert table["alpha"].is_monotonic_decreasing
