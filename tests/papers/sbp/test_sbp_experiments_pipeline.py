"""The five stages on a text of the reader's own: what comes out, what a kill leaves, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sbp_local_models import save_model
from test_sbp_data_text import jsonl

from orchard.errors import BadInput
from orchard.papers.sbp.experiments import pipeline
from orchard.papers.sbp.experiments.pipeline import Options, plan, run, write_out
from orchard.papers.sbp.runs import synthesise as synthesis
from orchard.runs import Store

QUICK: dict[str, Any] = {
    "documents": 30, "cap": 24, "tokenizer": "bytes", "pretrain_steps": 6, "tuning_steps": 4, "batch": 8, "k": 3, "exceedance": 0.3,
    "sampling_batch": 128, "tokens": 200,
}  # fmt: skip


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.Plan, dict[str, Any], list[str]]:
    folder = tmp_path_factory.mktemp("pipeline")
    chosen, lines = plan(jsonl(folder / "a.jsonl", 120), Options(**QUICK)), list[str]()
    return folder, chosen, run(chosen, Store(folder / "store"), "cpu", lines.append), lines


def test_every_document_carries_where_it_comes_from(finished: Any, tmp_path: Path) -> None:
    _, chosen, done, _ = finished
    made = write_out(chosen, done, tmp_path / "out", licence="CC BY-SA 3.0")
    table = pd.read_parquet(tmp_path / "out.parquet")
    names = chosen.corpus.build().documents("train").names
    assert len(table) == done["filter"].result["rejections"]["kept"] > 0
    assert table["seed_name"].tolist() == [names[i] for i in table["seed_document"]]
    assert table["synthesizer"].unique().tolist() == [done["tune"].id]
    assert table["samples"].unique().tolist() == [done["synthesise"].id]
    assert table["sampling_seed"].nunique() == table["batch"].nunique()
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert report == made
    assert report["licence"] == "CC BY-SA 3.0"
    assert "they inherit its terms" in report["warnings"][0]
    assert sorted(report["stages"]) == sorted(chosen.stages())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.parquet"]


def test_each_stage_says_what_it_found(finished: Any) -> None:
    _, chosen, done, lines = finished
    text = "\n".join(lines)
    for part in (
        "D has 30",
        "tails are cut",
        "pairs above",
        "most often a partner",
        "nats per second document",
        "tokens kept",
        "D is repeated",
    ):
        assert part in text
    counts = pipeline.hubs(chosen, done)["pairs"]
    assert counts.sum() == done["pair"].result["pairs"]["pairs"]
    assert counts.is_monotonic_decreasing


def test_a_killed_command_goes_on_where_it_was(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _, _ = finished
    chosen = plan(folder / "a.jsonl", Options(**QUICK | {"sampling_batch": 8}))
    whole = run(chosen, Store(folder / "store"), "cpu", quiet)
    assert whole["synthesise"].result["batches"] > 2
    sample, calls = synthesis.sample_documents, list[int]()

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    store = Store(tmp_path / "store")
    monkeypatch.setattr(synthesis, "sample_documents", killed)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, store, "cpu", quiet)
    again = run(chosen, store, "cpu", quiet)
    assert len(calls) == 1 + whole["synthesise"].result["batches"]
    assert again["synthesise"].provenance["attempts"] == 2
    for name in ("tokens", "seed", "batch"):
        assert np.array_equal(again["filter"].tensors("kept")[name], whole["filter"].tensors("kept")[name])


def test_a_synthesizer_that_never_ends(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _, _ = finished

    def endless(model: Any, prompts: Any, cap: int, *_: Any) -> Any:
        return [np.full(cap, 97)] * len(prompts), np.zeros(len(prompts), dtype=bool)

    monkeypatch.setattr(synthesis, "sample_documents", endless)
    chosen = plan(folder / "a.jsonl", Options(**QUICK | {"seed": 1, "pretrain_steps": 1, "tuning_steps": 1}))
    store = Store(folder / "store")
    with pytest.raises(BadInput, match="none of 256 sampled documents ended within 25 tokens"):
        run(chosen, store, "cpu", quiet)
    assert store.get(chosen.tune) is not None
    assert store.get(chosen.synthesise) is None


def test_a_local_model_takes_the_same_way(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from orchard.papers.sbp.experiments.pipeline import save_synthesizer

    folder = save_model(tmp_path / "llama")
    options = Options(**QUICK | {"model": str(folder), "tokenizer": None, "learning_rate": 1e-2})
    chosen = plan(jsonl(tmp_path / "a.jsonl", 80), options)
    store = Store(tmp_path / "store")
    done = run(chosen, store, "cpu", quiet)
    assert done["pretrain"].result["training_flops"] == 0.0
    assert done["tune"].result["loss"] < done["tune"].result["loss_before"]
    assert len(pipeline.documents(chosen, done)) > 0
    save_synthesizer(done["tune"], chosen.tune, tmp_path / "tuned")
    tuned, before = (AutoModelForCausalLM.from_pretrained(place) for place in (tmp_path / "tuned", folder))
    assert not np.allclose(tuned.lm_head.weight.detach(), before.lm_head.weight.detach())
    (folder / "model.safetensors").write_bytes((tmp_path / "tuned" / "model.safetensors").read_bytes())
    other = plan(tmp_path / "a.jsonl", options)
    assert store.get(chosen.tune) is not None
    assert store.get(other.tune) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 200, "documents": None}, "pairing with k = 200 neighbours needs at least 201 documents"),
        ({"size": "huge"}, "size 'huge'"),
        ({"tokens": 10}, "tokens = 10: ask for at least four documents of the cap, 100 tokens"),
        ({"share": 0.0}, "share = 0.0"),
        ({"batch": 0}, "take 1 or more"),
        ({"exceedance": 1.5}, "exceedance = 1.5"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"tokenizer": "words"}, "tokenizer 'words': give bytes, bpe, or a folder that exists"),
        ({"embedder": "words"}, "embedder 'words': give own, tfidf, or a folder that exists"),
        ({"model": "no/such/folder"}, "is no folder on this disk"),
    ],
)
def test_options_that_mean_nothing(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    place = jsonl(tmp_path / "a.jsonl", 80)
    with pytest.raises(BadInput, match=message):
        plan(place, Options(**QUICK | changes))


def test_a_model_reads_its_own_tokens_alone(tmp_path: Path) -> None:
    folder, place = save_model(tmp_path / "gpt2", "gpt2", positions=40), jsonl(tmp_path / "a.jsonl", 80)
    with pytest.raises(BadInput, match="a local model reads its own tokens alone"):
        plan(place, Options(**QUICK | {"model": str(folder)}))
    with pytest.raises(BadInput, match="reads 40 tokens, a pair of documents takes up to 52"):
        plan(place, Options(**QUICK | {"model": str(folder), "tokenizer": None}))
