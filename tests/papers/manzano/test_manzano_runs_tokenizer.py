"""Stage 0: phases, both adapters, codes after the fact, a killed run, bad inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from manzano_runs import PICTURE, assert_unbroken, same, tokenizer_run

from orchard.errors import BadInput
from orchard.papers.manzano.method.unified import TEXT
from orchard.papers.manzano.runs.tokenizer import SHUFFLED, Phase, Stream, _Lessons, load_tokenizer, settled_at
from orchard.runs import Store

READ = [Stream.Config(task="read")]


def test_scores_codes_and_files(store: Store) -> None:
    cfg = tokenizer_run()
    done = store.compute(cfg, "cpu")
    slots, result = done.tensors("answers"), done.result
    assert set(result["scores"]) == {"read k1", "objects k1"}
    readings = {f"{shuffled}{adapter}" for shuffled in ("", SHUFFLED) for adapter in ("continuous", "discrete")}
    assert set(result["scores"]["read k1"]) == readings
    assert slots["discrete/read k1/right"].shape == (9 * 3,)  # three characters of each text
    assert set(slots["continuous/objects k1/item"].bincount().tolist()) == {0, 2}  # some wordings name the place last
    accuracy = slots["discrete/read k1/right"].float().mean().item()
    assert result["scores"]["read k1"]["discrete"]["accuracy"] == pytest.approx(accuracy)
    assert result["use"]["codes"] + result["use"]["dead"] == 60
    assert len(result["use"]["perplexity"]) == PICTURE.tokens
    assert len(result["settled"]) == 4


def test_phases_decide_what_is_read_and_by_which_adapter() -> None:
    cfg = tokenizer_run()
    lessons = _Lessons(cfg, cfg.tokenizer.build())
    first, last = lessons.batch(0), lessons.batch(3)
    assert (float(first["discrete"]), float(last["discrete"])) == (0.0, 0.5)
    dense, sparse = ((batch["kinds"] == TEXT).sum(dim=1).tolist() for batch in (first, last))
    assert set(dense) == {7}  # six characters and eos
    assert 4 in sparse
    assert same(lessons.batch(3), last)
    assert not same(lessons.batch(2), last)


@pytest.mark.parametrize("rounded", [True, False])
def test_codes_after_the_fact_and_without_rounding(store: Store, rounded: bool) -> None:
    start = tokenizer_run()
    cfg = tokenizer_run(start=start, posthoc=True, phases=[Phase.Config(until=2, streams=READ, discrete=1.0)])
    cfg.tokenizer.set(rounded=rounded)
    begun, done = (store.compute(c, "cpu") for c in (start, cfg))
    before, after = load_tokenizer(begun, start), load_tokenizer(done, cfg)
    assert after.discrete.rounded is rounded
    assert same(before.vision.state_dict(), after.vision.state_dict())
    assert same(before.continuous.state_dict(), after.continuous.state_dict())
    assert not torch.equal(before.discrete.project.weight, after.discrete.project.weight)
    assert not same(begun.tensors("language_model"), done.tensors("language_model"))


def test_a_killed_run_goes_on_bit_for_bit(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_unbroken(tokenizer_run(), store, tmp_path, monkeypatch)


def test_a_loss_has_settled_where_it_falls_no_more_than_the_tolerance(tmp_path: Path) -> None:
    rows = [{"step": 10 * (i + 1), "a/loss": loss, "loss": 9.0} for i, loss in enumerate((3.0, 1.0, 0.51, 0.6, 0.5))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [settled_at(tmp_path / "metrics.jsonl", tolerance) for tolerance in (0.02, 0.0)] == [{"a": 30}, {"a": 50}]


def test_bad_inputs() -> None:
    other = tokenizer_run()
    other.tokenizer.set(hidden_dim=13)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"posthoc": True}, "keeps what a start has learned: set start"),
        ({"start": other, "posthoc": True}, "start has another tokenizer or language model"),
        ({"phases": []}, r"phases end at the steps \[\]: give at least one"),
        ({"phases": [Phase.Config(until=4, streams=READ)] * 2}, r"\[4, 4\]: .* later end"),
        ({"phases": [Phase.Config(until=4, streams=[])]}, "share of the streams of a phase is {}: give shares of 0 or more"),
        ({"batch_size": 0}, "Tokenizer.Config.batch_size is 0: give 1 or more"),
    ]  # fmt: skip
    for fields, message in wrong:
        with pytest.raises(BadInput, match=message):
            tokenizer_run(**fields).build()
