"""The exact claims hold and their controls do not; published shapes; what is timed."""

from __future__ import annotations

from pathlib import Path

import pytest
from manzano_runs import LANGUAGE_MODEL, decoder_run, tokenizer_run

from orchard.papers.manzano.runs import checks
from orchard.papers.manzano.runs.shapes import paper_shapes
from orchard.papers.manzano.runs.speed import Speed
from orchard.runs import Store


def test_exact_claims() -> None:
    assert {value for *_, value in checks.s1_space_to_channel()} == {0.0}
    assert all(value < 1e-6 if "values" in part else value == 0 for part, *_, value in checks.s2_fsq())
    assert all((value == 0) is not part.startswith("control") for part, *_, value in checks.s3_freeze())
    assert max(value for *_, value in checks.s4_sampler()) < 1e-5
    assert all(value < 0.1 if part.endswith("published") else value == 0 for part, *_, value in checks.s5_decoders())
    assert min(value for *_, value in checks.s6_parser(100)) >= 0.98
    assert max(value for *_, value in checks.m10_one_loss()) < 1e-6


def test_published_shapes() -> None:
    table = paper_shapes().set_index("model")
    assert table.loc["3B", "training FLOPs"] == pytest.approx(2.9e22, rel=0.5)  # 6 N D, without attention and output matrix  # fmt: skip
    air = table[table["part"] == "image decoder"]
    assert (air["parameters"] / air["published"]).between(0.75, 0.85).all()


def test_every_part_is_timed(tmp_path: Path) -> None:
    parts = {"tokenizer": tokenizer_run().tokenizer, "language_model": LANGUAGE_MODEL, "decoder": decoder_run().model}
    rows = Store(tmp_path).compute(Speed.Config(batch=2, rounds=1, **parts), "cpu").result["rows"]
    assert {row["part"] for row in rows} == {"tokenizer", "codes", "decoder"}
    assert all((row["seconds"] is None) is bool(row["reason"]) for row in rows)
