"""FSQ against vector-quantize-pytorch: values and ids equal, on five lists of levels."""

from __future__ import annotations

import pytest
import torch

from orchard.papers.manzano.method import FSQ

oracle = pytest.importorskip("vector_quantize_pytorch")


@pytest.mark.parametrize("levels", [[8, 8, 8, 5, 5, 5], [8, 5, 5, 5], [8, 8, 8, 6, 5], [4] * 8, [7, 5, 5, 5, 5]])
def test_values_and_ids_are_equal(levels: list[int]) -> None:
    """S2."""
    ours, theirs = FSQ.Config(levels=levels).build(), oracle.FSQ(levels)
    z = 2 * torch.randn(10_000, len(levels))
    values, ids = ours(z)
    expected, indices = theirs(z[None])
    assert torch.equal(ids, indices[0].long())
    assert torch.equal(values, expected[0])
    assert torch.equal(ours.values(ids), theirs.indices_to_codes(indices)[0])
