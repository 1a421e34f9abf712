"""Tables of real text as figures, and the summaries that they draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.data.docstrings import RELATIONS
from orchard.papers.sbp.data.text import TextCorpus
from orchard.papers.sbp.experiments.profiles import TEXT
from orchard.papers.sbp.experiments.real_text import by_arm, corpus, novelty
from orchard.papers.sbp.figures import real_text as figures
from orchard.papers.sbp.figures.looks import words
from orchard.papers.sbp.method.documents import Documents
from orchard.runs import Setting

ARMS = ("repetition", "oracle", "sbp-nn-lm", "sbp-random")


def scores() -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [(arm, seed, i, size) for arm in ARMS for seed in (0, 1) for i, size in enumerate((10.0, 30.0))]
    table = pd.DataFrame(rows, columns=["arm", "seed", "document", "bytes"])
    return table.assign(best=random.random(len(table)), last=random.random(len(table)) + 1)


def test_bits_per_byte_weigh_documents_by_their_bytes() -> None:
    table = scores()
    first = by_arm(table).query("arm == 'oracle' and seed == 1").iloc[0]
    own = table.query("arm == 'oracle' and seed == 1")
    assert first["best"] == pytest.approx((own["best"] * own["bytes"]).sum() / 40)
    assert by_arm(table)["arm"].tolist() == [arm for arm in ARMS for _ in (0, 1)]


def test_what_figures_say() -> None:
    assert [label.get_text() for label in figures.text_ends(scores()).axes[0].get_yticklabels()] == list(
        map(words, ARMS)
    )
    lifts = pd.DataFrame(
        [(way, relation, 1.0 + i) for way in ARMS[2:] for i, relation in enumerate(RELATIONS)],
        columns=["pairing", "relation", "lift"],
    )
    lifts.loc[lifts["relation"] == "override", "lift"] = np.nan  # a relation that D does not have
    labels = [label.get_text() for label in figures.text_relations(lifts).axes[0].get_yticklabels()]
    assert labels == ["no relation", *RELATIONS[1:-1]]
    new = pd.DataFrame(
        {"text": ["held-out documents", "sbp-random"] * 2, "n": [1, 1, 4, 4], "novel": [0.1, 0.2, 0.8, 0.9]}
    )
    assert len(figures.text_novelty(new).axes[0].lines) == 2
    gap = pd.DataFrame({"synthesizer": ["sbp-nn-lm"] * 9, "random": np.arange(9.0), "neighbour": np.zeros(9)})
    assert "nats" in figures.text_partners(gap).axes[0].get_xlabel()
    never = figures.paying(worth=0.0)
    assert not never.axes[0].texts
    assert "pays from" in figures.paying().axes[0].texts[0].get_text()


@pytest.mark.parametrize("profile", list(TEXT))
def test_the_corpus_of_a_profile(profile: str) -> None:
    cfg = corpus(Setting(profile))
    assert isinstance(cfg, TextCorpus.Config)
    assert cfg.documents == TEXT[profile].sizes.documents
    assert cfg.pool == TEXT[profile].sizes.pool


def test_documents_shorter_than_an_n_gram_are_not_new() -> None:
    real = Documents.of([[1, 2, 3, 4], [5, 6]])
    assert novelty(Documents.of([[1, 2, 3], [9]]), real, 2) == 0.0
    assert novelty(Documents.of([[1, 2, 9]]), real, 2) == 0.5
    assert np.isnan(novelty(Documents.of([[1]]), real, 2))
