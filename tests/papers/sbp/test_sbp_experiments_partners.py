"""What a partner tells: closed forms, who is whose partner, tables of tiny synthesizers, verdicts both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbp_tiny_synthesizers import SETTING, corpus, runner, use

from orchard.errors import BadInput
from orchard.papers.sbp.experiments import partners
from orchard.papers.sbp.experiments.arms import TUNED, UNRELATED
from orchard.papers.sbp.figures import analysis as figures
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs.partners import ExactPartners
from orchard.papers.sbp.runs.partners import partners as partners_of
from orchard.runs import Store


def test_mixture_by_hand() -> None:
    conditional, alone = np.array([1.0, 200.0]), np.array([3.0, 5.0])
    np.testing.assert_allclose(partners.mixture(1.0, conditional, alone), conditional)
    np.testing.assert_allclose(partners.mixture(0.0, conditional, alone), alone)
    half = -np.log(0.5 * np.exp(-conditional) + 0.5 * np.exp(-alone))
    np.testing.assert_allclose(partners.mixture(0.5, conditional, alone), half)


def test_partners_share_the_label_and_are_others() -> None:
    documents = corpus().build().documents("test")
    second, true, random = partners_of(documents, 30, 0)
    assert len(second) == len(true) == len(random) == 30
    assert second.labels is not None
    assert true.labels is not None
    assert (second.labels == true.labels).all()
    assert not (second.labels == random.labels).all()
    for other in (true, random):
        assert all(not np.array_equal(second[i], other[i]) for i in range(30))


def test_documents_without_partner_are_left_out() -> None:
    documents = Documents.of([[i] for i in range(5)], np.array([0, 1, 0, 2, 3]))
    second, true, _ = partners_of(documents, 10, 0)
    assert [second[i][0] for i in range(2)] == [0, 2]
    assert [true[i][0] for i in range(2)] == [2, 0]
    with pytest.raises(BadInput, match="none of 3 held-out documents shares its concept with another: hold out more"):
        partners_of(documents.take([0, 1, 3]), 10, 0)
    with pytest.raises(BadInput, match="nobody knows which documents of this corpus belong together"):
        partners_of(Documents.of([[1], [1]]), 10, 0)


def test_without_information_a_partner_tells_nothing(tmp_path: Path) -> None:
    cfg = ExactPartners.Config(corpus=corpus("indep"), documents=20)
    nll = Store(tmp_path).compute(cfg, "cpu").tensors("nll")
    for kind in ("true", "random"):
        np.testing.assert_allclose(nll[kind], nll["alone"])


def test_tables_of_tiny_synthesizers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    run = runner(tmp_path_factory.getbasetemp())
    table = partners.partners_table(SETTING, run)
    assert set(table["arm"]) == {"exact", *TUNED, UNRELATED}
    assert table.groupby("arm").size().eq(25).all()
    exact = table[table["arm"] == "exact"]
    np.testing.assert_allclose(exact["true"], exact["exact_true"])
    alone = table[table["arm"] == "uncond"]
    np.testing.assert_allclose(alone["true"], alone["random"])
    pairs = table[table["arm"] == "sbp-random"]
    between = pairs[["exact_true", "exact_alone"]]
    assert (pairs["limit_true"] >= between.min(axis=1) - 1e-9).all()
    assert (pairs["limit_true"] <= between.max(axis=1) + 1e-9).all()

    means = partners.consequences(SETTING, run).set_index("arm")
    assert means.loc["exact", "gain"] == pytest.approx(means.loc["exact", "information"])
    assert 0 < means.loc["exact", "information"] < means.loc["exact", "entropy"] == pytest.approx(np.log(5))
    assert means.loc["uncond", "gain"] == 0
    assert np.isnan(means.loc["uncond", "precision"])
    assert means.loc["sbp-random", "precision"] < 0.5
    figures.partner_scatter(table).draw_without_rendering()
    figures.consequences(means.reset_index()).draw_without_rendering()
