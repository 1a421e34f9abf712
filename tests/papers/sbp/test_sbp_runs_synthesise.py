"""Synthesis and filtering: what is stored, what is refused, and that nothing sampled is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.experiments.speed import slower
from orchard.papers.sbp.figures import stages as figures
from orchard.papers.sbp.method.rules import Rules
from orchard.papers.sbp.runs import synthesise as synthesis
from orchard.papers.sbp.runs.controls import ExactPosterior, Paraphrase
from orchard.papers.sbp.runs.filter import Filter, provenance_table
from orchard.papers.sbp.runs.speed import SamplingSpeed
from orchard.papers.sbp.runs.synthesise import sampled_documents
from orchard.runs import Store
from toy_sbp import Ragged, sampled, tuned

LAX = Rules.Config(copy=1.0, percentile=100.0)  # the toy's short documents resemble each other


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("synthesis"))
    made.compute(tuned(), "cpu")
    return made


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synthesizer that never emits the end token."""
    load = synthesis.load_synthesizer

    def loaded(*args: Any) -> Any:
        model = load(*args)
        logits = model.logits
        model.logits = lambda features: logits(features).index_fill(-1, torch.tensor([1]), -torch.inf)
        return model

    monkeypatch.setattr(synthesis, "load_synthesizer", loaded)


def batches(store: Store) -> int:
    """Batches in the work folders of the store."""
    return len(list((store.path / ".work").glob("*/checkpoints/batch_*.safetensors")))


def test_everything_sampled_is_stored_with_seed_batch_and_end(store: Store) -> None:
    cfg = sampled(rules=LAX)
    done = store.compute(cfg, "cpu")
    documents, seeds, batch, ended = sampled_documents(done)
    assert len(documents) == done.result["documents"] == 64 * done.result["batches"]
    assert batch.tolist() == np.repeat(np.arange(done.result["batches"]), 64).tolist()
    assert done.result["tokens"] == int(documents.lengths.sum() + ended.sum())
    real = Ragged.Config().build().documents("train")
    assert done.result["prompt_tokens"] == int((real.lengths[seeds] + 3).sum())
    assert documents.lengths[ended].max() <= 9
    assert (documents.lengths[~ended] == 10).all()
    assert done.provenance["sampling"]["tokens_per_s"] > 0
    assert done.provenance["synthesizer"] == store.compute(tuned()).id


def test_the_filter_judges_as_synthesis_did_and_keeps_enough(store: Store) -> None:
    cfg = sampled(rules=LAX)
    done = store.compute(cfg, "cpu")
    kept = store.compute(Filter.Config(corpus=Ragged.Config(), sampled=cfg, rules=LAX), "cpu")
    assert kept.result["kept_tokens"] == done.result["kept_tokens"] >= cfg.tokens
    assert sum(kept.result["rejections"].values()) == done.result["documents"]
    found = {name: tensor.numpy() for name, tensor in kept.tensors("kept").items()}
    documents, seeds, batch, ended = sampled_documents(done)
    assert len(found["row"]) == kept.result["rejections"]["kept"]
    assert ended[found["row"]].all()
    assert np.array_equal(found["seed"], seeds[found["row"]])
    assert np.array_equal(found["batch"], batch[found["row"]])
    assert np.array_equal(found["tokens"], documents.take(found["row"]).tokens)


def test_a_batch_has_its_own_seeds_and_numbers_and_another_seed_others(store: Store) -> None:
    first = store.compute(sampled(rules=LAX), "cpu")
    _, seeds, batch, _ = sampled_documents(first)
    assert not np.array_equal(seeds[batch == 0], seeds[batch == 1])
    other = store.compute(sampled(rules=LAX, seed=1), "cpu")
    numbers = torch.cat([run.tensors("synthetic")["sampling_seed"] for run in (first, other)])
    assert len(set(numbers.tolist())) == len(numbers)


def test_without_pairs_documents_have_no_seed(store: Store) -> None:
    cfg = sampled(tuned=tuned(pairs=None), rules=LAX, tokens=150)
    done = store.compute(cfg, "cpu")
    assert done.result["prompt_tokens"] == 0
    kept = store.compute(Filter.Config(corpus=Ragged.Config(), sampled=cfg, rules=LAX), "cpu")
    table = provenance_table(Ragged.Config().build(), done, kept)
    assert set(table["seed_document"]) == {-1}
    assert set(table["seed_name"]) == {""}


@pytest.mark.usefixtures("mute")
def test_a_synthesizer_that_never_ends_a_document_is_given_up_with_its_batches_kept(store: Store) -> None:
    before = batches(store)
    with pytest.raises(BadInput, match="none of 256 sampled documents ended within 10 tokens: it has not learned"):
        store.compute(sampled(label="mute", seed=7), "cpu")
    assert batches(store) == before + 4  # of 64 documents


def test_rules_that_reject_everything_say_what_they_rejected_and_nothing_is_sampled_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = sampled(rules=Rules.Config(copy=-1.0), label="strict", seed=8)
    before = batches(store)
    message = (
        r"strict: the rules kept 0 of the 600 tokens needed .* of 256 documents they rejected .* copy: tune for longer"
    )
    with pytest.raises(BadInput, match=message):
        store.compute(cfg, "cpu")
    assert batches(store) == before + 4

    def never(*_: object, **__: object) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(synthesis, "sample_documents", never)
    with pytest.raises(BadInput, match=message):
        store.compute(cfg, "cpu")


def test_a_control_of_an_empty_corpus_or_of_one_without_a_law_says_so(store: Store) -> None:
    with pytest.raises(BadInput, match="Paraphrase needs at least 1 documents, the corpus has 0"):
        store.compute(Paraphrase.Config(corpus=Ragged.Config(count=0), tokens=50), "cpu")
    with pytest.raises(BadInput, match="ExactPosterior samples from the law of a ConceptWorld, and this is a Ragged"):
        store.compute(ExactPosterior.Config(corpus=Ragged.Config(), tokens=50), "cpu")


def test_a_paraphrase_drops_and_replaces_the_shares_it_says(store: Store) -> None:
    corpus = Ragged.Config(count=200, vocab=1000)
    done = store.compute(Paraphrase.Config(corpus=corpus, tokens=20_000, dropped=0.2, replaced=0.3), "cpu")
    documents, seeds, _, ended = sampled_documents(done)
    real = corpus.build().documents("train").take(seeds)
    assert ended.all()
    assert len(documents.tokens) / len(real.tokens) == pytest.approx(0.8, abs=0.02)
    same = [len(set(documents[i]) & set(real[i])) for i in range(len(real))]
    assert sum(same) / len(real.tokens) == pytest.approx(0.5, abs=0.02)
    assert done.tensors("synthetic")["sampling_seed"].tolist() == [0]
    kept = store.compute(
        Filter.Config(corpus=corpus, sampled=Paraphrase.Config(corpus=corpus, tokens=20_000, dropped=0.2, replaced=0.3)), "cpu"
    )  # fmt: skip
    assert set(provenance_table(corpus.build(), done, kept)["synthesizer"]) == {done.id}


def test_the_exact_posterior_draws_the_concept_that_the_seed_implies(store: Store) -> None:
    corpus = ConceptWorld.Config(concepts=4, words=32, content=16, documents=40, held_out=10)
    done = store.compute(ExactPosterior.Config(corpus=corpus, tokens=20_000), "cpu")
    documents, seeds, _, _ = sampled_documents(done)
    world = corpus.build().world
    of_seed, of_sample = (world.posterior(docs) for docs in (corpus.build().documents("train").take(seeds), documents))
    agree = float((of_seed * of_sample).sum(axis=1).mean())
    assert agree == pytest.approx(float((of_seed**2).sum(axis=1).mean()), abs=0.05)


def test_four_ways_to_sample_are_timed_on_the_same_documents(store: Store) -> None:
    cfg = SamplingSpeed.Config(tuned=tuned(), batched=12, batched_no_cache=4, alone=2, alone_no_cache=2, rounds=2)
    table = pd.DataFrame(store.compute(cfg, "cpu").result["rows"]).rename(columns={"name": "way"})
    assert len(table) == 4 * 2
    tokens = table.groupby("way")["tokens"].first()
    assert tokens["one by one, cached"] == tokens["one by one, no cache"] <= tokens["batched, no cache"]
    times = table.assign(tokens_per_s=table["tokens"] / table["seconds"], device="cpu")
    assert slower(times).set_index("way").loc["batched, cached", "times_slower"] == 1.0
    (axes,) = figures.sampling_speed(times).axes
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == list(dict.fromkeys(table["way"]))


def test_the_last_batch_is_no_larger_than_what_is_missing() -> None:
    cfg = sampled(tokens=1000, batch_size=512)
    assert synthesis._size(cfg, 0, 0) == 512
    assert synthesis._size(cfg, 500, 512) == 512
    assert synthesis._size(cfg, 800, 1024) == 282  # 200 tokens at 1.28 documents each, and a tenth more
    assert synthesis._size(cfg, 999, 1024) == 128
    assert synthesis._size(cfg.set(batch_size=64), 999, 1024) == 64
