"""Corpora of real text: what D is, what is cut, what a tokenizer may read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sbp_local_models import save_model

from orchard.data import BPETokenizer, DataError, LocalText, text_source
from orchard.errors import BadInput
from orchard.papers.sbp.data.text import FirstDocuments, TextCorpus, folder_tokenizer
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.runs.pair import Pair
from orchard.runs import identity

WORDS = ["river", "stone", "cloud", "seed", "bread", "lamp", "paper", "glass", "horse", "wind"]


def sentences(number: int) -> str:
    random = np.random.default_rng(number)
    return " ".join(f"Line {number}: the {a} and the {b}." for a, b in random.choice(WORDS, size=(1 + number % 5, 2)))


def jsonl(place: Path, count: int, start: int = 0) -> Path:
    place.write_text("".join(json.dumps({"text": sentences(start + i)}) + "\n" for i in range(count)), encoding="utf-8")
    return place


def config(place: Path, **fields: object) -> TextCorpus.Config:
    return TextCorpus.Config(source=text_source(str(place)), **{"cap": 60, "shortest": 20, **fields})


def test_d_opens_the_pool_and_held_out_documents_are_others(tmp_path: Path) -> None:
    corpus = config(jsonl(tmp_path / "a.jsonl", 300), documents=20, pool=4).build()
    train, pool, validation, test = (corpus.documents(split) for split in ("train", "pool", "validation", "test"))
    assert (len(train), len(pool)) == (20, 80)
    assert train.names == pool.names[:20]
    groups = [set(part.names) for part in (pool, validation, test)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert corpus.about["asked"] == 80
    with pytest.raises(BadInput, match="there is no split 'dev'"):
        corpus.documents("dev")


def test_a_pool_of_all_there_is_and_a_validation_that_is_filled_up(tmp_path: Path) -> None:
    place = jsonl(tmp_path / "a.jsonl", 100)
    plain, filled = config(place, documents=20).build(), config(place, documents=20, validation_at_least=12).build()
    assert len(plain.documents("pool")) < plain.about["asked"] == 400
    assert len(plain.documents("validation")) < len(filled.documents("validation")) == 12
    assert not set(filled.documents("pool").names) & set(filled.documents("validation").names)
    assert len(config(place, validation_at_least=90).build().documents("pool")) > 60  # at most a fifth is moved


def test_long_documents_end_with_a_sentence_or_at_the_cap(tmp_path: Path) -> None:
    corpus = config(jsonl(tmp_path / "a.jsonl", 300), cap=64).build()
    real = corpus.documents("train")
    texts = {d.name: d.text for split in ("train", "validation", "test") for d in corpus.source.documents(split)}
    cut = [i for i in range(len(real)) if corpus.text(real[i]) != texts[real.names[i]]]
    assert 0 < len(cut) == corpus.about["cut"]["pool"]
    assert real.lengths.max() <= 64
    for i in cut:
        text = corpus.text(real[i])
        assert texts[real.names[i]].startswith(text)
        assert text.endswith(".") or len(real[i]) == 64
    assert corpus.byte_counts(real).tolist() == [len(corpus.text(real[i]).encode()) for i in range(len(real))]


def test_byte_pairs_are_trained_on_d_alone(tmp_path: Path) -> None:
    cfg = config(jsonl(tmp_path / "a.jsonl", 300), documents=15, tokenizer=BPETokenizer.Config(vocab_size=300))
    corpus = cfg.build()
    own = FirstDocuments(corpus)
    texts = [d.text for d in own.documents("train")]
    assert len(texts) == 15
    with pytest.raises(BadInput, match="a tokenizer may read D alone, it asked for 'test'"):
        own.documents("test")
    train = corpus.documents("train")
    assert {d.name for d in own.documents("train")} == set(train.names)
    assert corpus.text(train[0]) in texts[0]
    merges = {token for token in corpus.tokenizer.table if len(token) > 1}
    assert merges
    assert all(any(merge.decode() in text for text in texts) for merge in merges)
    assert corpus.symbols.vocab_size == 303


def test_the_tokens_of_a_folder_and_its_special_tokens(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama")
    corpus = config(jsonl(tmp_path / "a.jsonl", 60), tokenizer=folder_tokenizer(folder)).build()
    assert corpus.symbols == type(corpus.symbols)(258, bos=256, eos=257, sep=257, pad=257)
    real = corpus.documents("train")
    texts = {d.name: d.text for d in corpus.source.documents("train")}
    assert texts[real.names[0]].startswith(corpus.text(real[0]))
    assert corpus.text(np.array([256, *real[0], 257])) == corpus.text(real[0])
    assert corpus.byte_counts(real)[0] == len(corpus.text(real[0]))


def test_the_text_enters_the_identity_of_a_run(tmp_path: Path) -> None:
    first, again, other = (
        jsonl(tmp_path / name, 60, start) for name, start in (("a.jsonl", 0), ("b.jsonl", 0), ("c.jsonl", 1))
    )
    ids = [
        identity(Pair.Config(corpus=config(place), embedder=TfidfEmbedder.Config())) for place in (first, again, other)
    ]
    assert ids[0].data != ids[2].data
    assert ids[0].config == ids[1].config == ids[2].config


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda place: place.write_text(""), "is empty"),
        (lambda place: place.write_bytes(b'{"text": "caf\xe9"}\n'), "is not UTF-8: byte 0xe9 at offset 13"),
        (lambda place: place.write_text('{"text": "same"}\n' * 50), "too few to split"),
    ],
)
def test_text_that_cannot_be_used(write: object, message: str, tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl"
    write(place)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        TextCorpus.Config(source=LocalText.Config(path=str(place))).build().documents("train")


def test_values_out_of_range(tmp_path: Path) -> None:
    place = jsonl(tmp_path / "a.jsonl", 60)
    with pytest.raises(BadInput, match="cap 1, pool 20, documents None"):
        config(place, cap=1).build()
    with pytest.raises(BadInput, match="no document has 1000 characters or more"):
        config(place, shortest=1000).build().documents("train")
