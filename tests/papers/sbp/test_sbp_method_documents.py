"""Layouts of documents and pairs by hand: what is read, and what counts in the loss."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Documents, Symbols, check_enough, document_batch, pair_batch

S = Symbols(20, bos=0, eos=1, sep=2, pad=3)
FIRST, SECOND = Documents.of([[10, 11], [], [12, 13, 14]]), Documents.of([[15], [16, 17], []])


def test_a_document_is_bos_body_eos_and_all_but_bos_counts() -> None:
    batch = document_batch(Documents.of([[10, 11], [], [12]]), S)
    assert batch.tokens.tolist() == [[0, 10, 11, 1], [0, 1, 3, 3], [0, 12, 1, 3]]
    assert batch.counts.tolist() == [[True, True, True], [True, False, False], [True, True, False]]


def test_of_a_pair_the_second_body_and_eos_count_separator_and_second_bos_do_not() -> None:
    batch = pair_batch(FIRST, SECOND, S)
    assert batch.tokens.tolist() == [[0, 10, 11, 2, 0, 15, 1], [0, 2, 0, 16, 17, 1, 3], [0, 12, 13, 14, 2, 0, 1]]
    targets = [row[counts].tolist() for row, counts in zip(batch.tokens[:, 1:], batch.counts, strict=True)]
    assert targets == [[15, 1], [16, 17, 1], [1]]


def test_of_neighbours_in_one_context_both_bodies_count() -> None:
    batch = pair_batch(FIRST, SECOND, S, both=True)
    targets = [row[counts].tolist() for row, counts in zip(batch.tokens[:, 1:], batch.counts, strict=True)]
    assert targets == [[10, 11, 15, 1], [16, 17, 1], [12, 13, 14, 1]]


def test_after_the_second_bos_a_pair_has_the_layout_of_a_document() -> None:
    """So log p(d2) and log p(d2 | d1) are sums over the same tokens."""
    pairs, documents = pair_batch(FIRST, SECOND, S), document_batch(SECOND, S)
    for i in range(len(FIRST)):
        start = len(FIRST[i]) + 2  # the second bos
        size = len(SECOND[i]) + 2
        assert pairs.tokens[i, start : start + size].tolist() == documents.tokens[i, :size].tolist()
        assert int(pairs.counts[i].sum()) == int(documents.counts[i].sum())


def test_a_pair_has_two_documents() -> None:
    with pytest.raises(BadInput, match="3 first and 2 second documents"):
        pair_batch(FIRST, SECOND.head(2), S)


def test_documents_are_taken_added_and_padded() -> None:
    documents = Documents.of([[1, 2], [], [3]], labels=np.array([7, 8, 9]), names=["a", "b", "c"])
    chosen = documents.take([2, 0, 2])
    assert [chosen[i].tolist() for i in range(3)] == [[3], [1, 2], [3]]
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [9, 7, 9]
    assert chosen.names == ["c", "a", "c"]
    both = documents + chosen
    assert both.lengths.tolist() == [2, 0, 1, 1, 2, 1]
    assert both.padded(0, 3).tolist()[4] == [1, 2, 0]
    assert (documents + Documents.of([[5]])).labels is None
    assert len(documents.take([])) == 0
    assert document_batch(documents.take([]), S).tokens.shape == (0, 2)


def test_too_few_documents_say_what_needs_more() -> None:
    with pytest.raises(BadInput, match="pairing needs at least 9 documents, the corpus has 3"):
        check_enough(FIRST, 9, "pairing")
