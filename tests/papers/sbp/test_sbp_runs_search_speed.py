"""The bench of pairing at a toy size: what is measured, and how it grows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.sbp.runs.search_speed import grown, growth, search_speed, vectors_of


def test_vectors_are_clustered() -> None:
    rows = vectors_of(1_000, 64, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosine = (rows @ rows.T)[np.triu_indices(1_000, 1)]
    assert np.quantile(cosine, 0.99) > 0.6
    assert np.median(cosine) < 0.3


def test_what_is_measured() -> None:
    table = search_speed(counts=(120, 2_000), dim=16, threads=1)
    assert table["search"].tolist() == ["exact", "FAISS"] * 2
    assert (table["processor_seconds"] > 0).all()
    assert (table["recall"] >= 0.9).all()
    assert (table.loc[table["search"] == "exact", "recall"] == 1).all()


def test_peak_memory_is_what_was_added() -> None:
    with grown() as peak:
        held = np.ones(2**23)  # 64 MiB
        held += 1
    assert 0.9 * 2**26 < peak() < 1.5 * 2**26
    del held


def test_growth_from_the_fewest_to_the_most() -> None:
    table = pd.DataFrame({
        "search": ["exact", "exact", "exact"], "documents": [300, 1_000, 100],
        "processor_seconds": [5.0, 100.0, 1.0], "peak_mib": [6, 10, 5],
    })  # fmt: skip
    (row,) = growth(table).to_dict("records")
    assert (row["from"], row["to"], row["times the documents"], row["times the peak_mib"]) == (100, 1_000, 10, 2)
    assert row["exponent"] == pytest.approx(2)
