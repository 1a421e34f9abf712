"""Scores: answers, drawings and their ceilings, edits, reconstructions; items agree between arms, controls differ, bad inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from manzano_runs import KINDS, autoencoder_run, decoder_run, features_run, regression_run, unified_run

from orchard.errors import BadInput
from orchard.papers.manzano.method.unified import draw_codes
from orchard.papers.manzano.runs import scores
from orchard.papers.manzano.runs.scores import Answers, Drawings, Edits, Reconstructions
from orchard.runs import Store


@pytest.mark.parametrize("reads", ["continuous", "codes", "adapter", "nothing"])
def test_answers(store: Store, reads: str) -> None:
    cfg = Answers.Config(model=unified_run(reads=reads), tasks=["read", "knowledge"], count=8)
    done, other = (store.compute(c, "cpu") for c in (cfg, cfg.clone().set(shuffled=True)))
    slots, wrong = done.tensors("answers"), other.tensors("answers")
    assert set(done.result) == {"read", "knowledge"}
    assert slots["read/right"].shape == (8 * 3,)
    assert torch.equal(wrong["read/picture"], slots["read/picture"])
    assert torch.equal(wrong["read/nats"], slots["read/nats"]) is (reads == "nothing")


@pytest.mark.parametrize("prompts", ["geneval", "full", "wise", "told"])
def test_drawings_and_their_ceiling(store: Store, prompts: str) -> None:
    fields: dict[str, Any] = {"decoder": regression_run(), "prompts": prompts, "count": 7, "kept": 2}
    made, ceiling = (store.compute(Drawings.Config(model=model, **fields), "cpu") for model in (unified_run(), None))
    first, best = made.tensors("drawings"), ceiling.tensors("drawings")
    known = store.compute(features_run(), "cpu").tensors("ids")["test"]
    assert torch.equal(first["row"], best["row"])
    assert torch.equal(best["codes"], known[best["row"]])
    assert not torch.equal(first["codes"], best["codes"])
    assert made.tensors("pictures")["pictures"].shape == (2, 24, 36, 3)
    assert made.result["score"] == pytest.approx(first["score"].mean().item())
    assert ("overall" in made.result) is (prompts == "geneval")


@pytest.mark.parametrize("reads", ["continuous", "codes"])
def test_edits(store: Store, monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    """The reference may go to either model or to both; without a language model the true codes are drawn."""
    both = {"model": unified_run(reads=reads), "decoder": decoder_run(editing=True)}
    arms: dict[str, dict[str, Any]] = {
        "both": both, "decoder": both | {"model": unified_run(reads=reads, edits_read=False)},
        "language model": both | {"decoder": decoder_run()}, "true codes": both | {"model": None},
        "other reference": both | {"shuffled": "reference"}, "other instruction": both | {"shuffled": "instruction"},
    }  # fmt: skip
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(scores, "draw_codes", lambda *told: draw_codes(*(calls.append(told) or told)))
    rows: dict[str, dict[str, torch.Tensor]] = {}
    read: dict[str, tuple[Any, ...]] = {}
    for name, arm in arms.items():
        done = store.compute(Edits.Config(kinds=KINDS, count=5, steps=2, kept=3, **arm), "cpu")
        rows[name], read[name] = done.tensors("edits"), calls[-1] if arm["model"] else ()
        assert set(done.result["move"]) == {"right", "others", "inside", "outside"}
        assert torch.equal(rows[name]["move/row"], rows["both"]["move/row"])
        assert done.tensors("pictures")["recolour/made"].shape == (3, 24, 36, 3)
    assert len(calls) == 2 * (len(arms) - 1)
    assert read["both"][6].shape == (len(rows["both"]["move/row"]), 6, 16)
    assert read["decoder"][6] is None
    assert read["other instruction"][2] == [*read["both"][2][1:], read["both"][2][0]]
    for name in ("language model", "other reference"):
        assert not torch.equal(rows[name]["move/outside"], rows["both"]["move/outside"])


def test_reconstructions(store: Store) -> None:
    done = store.compute(Reconstructions.Config(autoencoder=autoencoder_run(), count=9), "cpu")
    assert done.result["objects"] == pytest.approx(done.tensors("reconstructions")["objects"].mean().item())


def test_a_decoder_of_other_codes_is_refused() -> None:
    with pytest.raises(BadInput, match=r"Drawings\.Config: the language model writes other codes than the decoder draws"):  # fmt: skip
        Drawings.Config(decoder=regression_run(codes=autoencoder_run()), model=unified_run()).build()
    Drawings.Config(decoder=regression_run(codes=features_run(label="another name")), model=unified_run()).build()
