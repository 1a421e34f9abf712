"""Pairs that never share a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs.tune import pairs_of, precision
from orchard.papers.sbp.runs.unrelated import UnrelatedPairs, unrelated
from orchard.runs import Store


def labelled(labels: list[int] | None) -> Documents:
    count = 6 if labels is None else len(labels)
    return Documents(np.arange(count), np.arange(count + 1), None if labels is None else np.array(labels))


def test_no_pair_shares_a_label_and_all_others_are_equally_likely() -> None:
    documents = labelled([2, 0, 1, 0, 2, 0])
    first, second = unrelated(documents, 20_000, np.random.default_rng(0))
    labels = np.array([2, 0, 1, 0, 2, 0])
    assert (labels[first] != labels[second]).all()
    of_the_second = np.bincount(second[first == 1], minlength=6) / 20_000  # document 1 has two of its label beside it
    np.testing.assert_allclose(of_the_second, [1 / 3, 0, 1 / 3, 0, 1 / 3, 0], atol=0.02)


@pytest.mark.parametrize(("labels", "said"), [([3, 3, 3], "all 3 documents have one label"), (None, "need labels")])
def test_labels_that_tell_nothing_apart_are_refused(labels: list[int] | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        unrelated(labelled(labels), 2, np.random.default_rng(0))


def test_the_run_has_no_true_pair(tmp_path: Path) -> None:
    corpus = ConceptWorld.Config(concepts=4, words=32, documents=24, pool=1, held_out=12)
    done = Store(tmp_path).compute(UnrelatedPairs.Config(corpus=corpus, k=3, held_out=8, label="pairs"))
    assert done.result == {"pairs": {"pairs": 72}, "held_out": {"pairs": 24}}
    assert len(pairs_of(done, "held_out")[0]) == 24
    assert precision(done, corpus.build()) == 0.0
