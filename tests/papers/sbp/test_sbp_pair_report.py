"""Reports of pairing: inequality of degrees, the speed table and what `orchard bench` makes of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp import cli as bench
from orchard.papers.sbp.experiments import pairs as pair_report
from orchard.papers.sbp.experiments import regularisation as regular
from orchard.papers.sbp.experiments import speed as pairing_speed
from orchard.papers.sbp.experiments.pairs import EMBEDDERS, inequality
from orchard.papers.sbp.experiments.profiles import PROFILES, Regular
from orchard.papers.sbp.experiments.speed import growth
from orchard.papers.sbp.figures import stages as figures
from orchard.papers.sbp.runs.speed import Peak, vectors_of, words_of
from orchard.runs import Runner, Setting, execute


def runner() -> Runner:
    return lambda configs: execute(configs, jobs=1, device="cpu", report=lambda line: None)


@pytest.mark.parametrize("degree", [[3, 3, 3, 3], [0, 0, 0, 7], [5, 1, 0, 2, 2]])
def test_gini_is_the_mean_difference(degree: list[int]) -> None:
    """Half the mean absolute difference of two documents over the mean."""
    values = np.array(degree)
    found = inequality(values)
    differences = np.abs(values[:, None] - values[None, :]).mean()
    assert found["Gini"] == pytest.approx(differences / (2 * values.mean()))
    assert found["top 1 %"] == values.max() / values.sum()
    assert (found["pairs"], found["largest"], found["none"]) == (values.sum(), values.max(), (values == 0).mean())


def test_no_pairs_have_no_inequality() -> None:
    found = inequality(np.zeros(3, np.int64))
    assert np.isnan(found["Gini"])
    assert np.isnan(found["top 1 %"])
    assert found["none"] == 1


@pytest.fixture
def _tfidf_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the embedder that has to be trained."""
    monkeypatch.setattr(pair_report, "EMBEDDERS", {"sbp-nn-tfidf": EMBEDDERS["sbp-nn-tfidf"]})
    fixed = Regular(4.0, 0.0, 8e-3)
    monkeypatch.setattr(regular, "tuned", lambda setting, run, variants: dict.fromkeys(variants, (fixed, fixed)))


@pytest.mark.usefixtures("_tfidf_alone")
def test_the_tables_of_the_smoke_worlds() -> None:
    run, setting = runner(), Setting(seeds=(0,))
    hubs = pair_report.hubs(setting, run).set_index(["variant", "stage"])
    degrees = pair_report.degrees(setting, run)
    for (variant, stage), part in degrees.groupby(["variant", "stage"]):
        assert part["documents"].sum() == PROFILES["smoke"].documents
        assert (part["degree"] * part["documents"]).sum() == hubs.loc[(variant, stage), "pairs"]
    assert hubs.xs("within the caps", level="stage")["largest"].max() <= 8
    top = pair_report.top_hubs(setting, run)
    assert (
        top.groupby("variant")["among the k nearest"].first() == hubs.xs("among the k nearest", level=1)["largest"]
    ).all()
    assert top["begins"].str.startswith("[genre").all()
    assert len(figures.hub_degrees(degrees, "indep").axes) == 1


# ------------------------------------------------------------ speed and memory

SMALL = {"clustered": [120, 400], "uniform": [120]}


def test_vectors_are_clustered_or_not() -> None:
    rows, concepts = vectors_of("clustered", 1_000, 64, np.random.default_rng(0))
    cosine = rows @ rows.T
    same = (concepts[:, None] == concepts[None, :]) & ~np.eye(1_000, dtype=bool)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert cosine[same].mean() > 0.5
    assert cosine[~same & ~np.eye(1_000, dtype=bool)].mean() < 0.4
    other = vectors_of("uniform", 1_000, 64, np.random.default_rng(0))[0]
    assert abs((other @ other.T)[np.triu_indices(1_000, 1)].mean()) < 0.01
    documents = words_of(concepts, np.random.default_rng(0))
    assert (documents.tokens // 64 == np.repeat(concepts, 28)).all()


def test_peak_memory_is_what_was_added() -> None:
    with Peak() as peak:
        held = np.ones(2**23)  # 64 MiB
        held += 1
    assert 0.9 * 2**26 < peak.bytes < 1.5 * 2**26
    del held


def test_growth_from_the_fewest_to_the_most() -> None:
    table = pd.DataFrame({
        "vectors": "clustered", "what": ["exact", "exact", "FAISS"], "documents": [100, 1_000, 100],
        "processor_seconds": [1.0, 100.0, 3.0], "peak": [5, 10, 4],
    })  # fmt: skip
    (row,) = growth(table).to_dict("records")
    assert (row["what"], row["times the documents"], row["times the peak memory"]) == ("exact", 10, 2)
    assert row["exponent"] == pytest.approx(2)


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pairing_speed.PAIRING, "smoke", SMALL)
    monkeypatch.setattr(pairing_speed, "DIM", 16)
    table = pairing_speed.pairing_speed(Setting(), runner())
    assert table["what"].tolist() == ["exact", "FAISS", "rules"] * 3
    assert (table["processor_seconds"] > 0).all()
    assert (table.loc[table["what"] != "rules", "recall"] > 0.9).all()
    assert len(figures.pairing_speed(table).axes) == 2


def test_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing_speed, "SCALE", SMALL)
    monkeypatch.setattr(pairing_speed, "DIM", 16)
    parts = bench.pairing()
    assert [name for _, name, _, _ in parts] == ["pairing", "pairing_growth"]
    assert len(parts[0][2]) == 9
    assert "on 1 CPU threads" in parts[0][0]
    assert set(parts[1][2]["what"]) == {"exact", "FAISS", "rules"}
