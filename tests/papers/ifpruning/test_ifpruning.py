"""Ifpruning: invariants of the method, and its generators against their stated laws."""

from __future__ import annotations

import pytest

from orchard.papers.ifpruning.experiments import paper_shapes
from orchard.papers.ifpruning.method import byte_entropy


def test_entropy_of_known_texts() -> None:
    assert byte_entropy(b"aaaa") == 0
    assert byte_entropy(b"ab" * 8) == 1
    assert byte_entropy(bytes(range(256))) == 8
    with pytest.raises(ValueError, match="empty text"):
        byte_entropy(b"")


def test_paper_profile() -> None:
    assert len(paper_shapes()) == 1
