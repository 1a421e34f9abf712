"""Tokenizers, tokenised corpora and their cache, windows."""

from __future__ import annotations

import functools
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchard.data import (
    SPLITS,
    BPETokenizer,
    ByteTokenizer,
    DataError,
    LocalText,
    Source,
    TokenCorpus,
    Tokenizer,
    Windows,
    cache_dir,
    tokens,
)
from orchard.data import tokenizer as tokenizer_module
from orchard.data.cache import INDEX

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "<bos>", "café", "北京", "🙂"]


def make_source(folder: Path) -> Source.Config:
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS, size=int(rng.integers(5, 60))))} for _ in range(300)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return LocalText.Config(path=str(path))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source.Config:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))
    return make_source(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHARD_CACHE", str(folder / "cache"))
        bpe = BPETokenizer.Config(vocab_size=400).build(source=make_source(folder).build())
    return {"bytes": ByteTokenizer.Config().build(), "bpe": bpe}


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200) | st.sampled_from(["<bos>", "the fox\r\n\t  the", "\x00", "  ", "e\u0301 é"]))
def test_round_trip_is_exact(trained: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos not in ids
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.token_bytes(np.array(ids, dtype=np.int64)).sum() == len(text.encode())


def test_sizes(trained: dict[str, Tokenizer]) -> None:
    assert (trained["bytes"].vocab_size, trained["bytes"].bos) == (257, 256)
    assert (trained["bpe"].vocab_size, trained["bpe"].bos) == (400, 399)
    text = "the quick brown fox jumps over a lazy dog"
    assert len(trained["bpe"].encode(text)) < len(text) / 3
    for tokenizer in trained.values():
        assert tokenizer.decode(torch.tensor([tokenizer.bos, *tokenizer.encode("a"), tokenizer.bos])) == "a"
        assert tokenizer.token_bytes(np.array([[tokenizer.bos]])).tolist() == [[0]]
    assert trained["bytes"].decode([0xE9]) == "\ufffd"


def test_bpe_training_is_deterministic_and_cached(source: Source.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    built = source.build()
    assert tokenizer_module._trained(built, 399) == tokenizer_module._trained(built, 399)
    first = BPETokenizer.Config(vocab_size=400).build(source=built)
    monkeypatch.setattr(tokenizer_module, "_trained", None)
    again = BPETokenizer.Config(vocab_size=400).build(source=source.build())
    assert again.table == first.table


def test_bpe_of_a_small_corpus_keeps_its_size(source: Source.Config) -> None:
    tokenizer = BPETokenizer.Config(vocab_size=60_000).build(source=source.build())
    assert (tokenizer.vocab_size, tokenizer.bos) == (60_000, 59_999)


def test_bpe_errors(source: Source.Config) -> None:
    with pytest.raises(DataError, match="vocab_size = 256 is too small"):
        BPETokenizer.Config(vocab_size=256).build(source=source.build())
    with pytest.raises(DataError, match="build it with"):
        BPETokenizer.Config(vocab_size=300).build()


@pytest.mark.parametrize("config", [ByteTokenizer.Config(), BPETokenizer.Config(vocab_size=400)])
def test_tokens_are_the_documents(source: Source.Config, config: Tokenizer.Config) -> None:
    documents = source.build().documents("validation")
    tokenizer = config.build(source=source.build())
    corpus = tokens(source, config, "validation")
    assert isinstance(corpus.tokens, np.memmap)
    assert corpus.tokens.dtype == np.uint16
    assert corpus.names == [document.name for document in documents]
    assert corpus.offsets[-1] == len(corpus.tokens)
    for i, document in enumerate(documents):
        ids = corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]]
        assert ids[0] == corpus.bos == tokenizer.bos
        assert tokenizer.decode(ids[1:]) == document.text
    assert corpus.bytes == tokenizer.token_bytes(corpus.tokens.astype(np.int64)).sum()


def test_large_vocabularies_are_uint32(source: Source.Config) -> None:
    assert tokens(source, BPETokenizer.Config(vocab_size=65_536), "test").tokens.dtype == np.uint16
    assert tokens(source, BPETokenizer.Config(vocab_size=65_537), "test").tokens.dtype == np.uint32


def test_tokens_are_cached(source: Source.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokens(source, ByteTokenizer.Config(), "train")
    monkeypatch.setattr(ByteTokenizer, "encode_batch", None)
    assert np.array_equal(tokens(source, ByteTokenizer.Config(), "train").tokens, first.tokens)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "index"])
def test_damaged_tokens_are_made_again(source: Source.Config, damage: str) -> None:
    before = np.array(tokens(source, ByteTokenizer.Config(), "train").tokens)
    stored = max(cache_dir().glob("tokens/*/tokens.npy"), key=lambda path: path.stat().st_size)  # of the three splits
    data = stored.read_bytes()
    if damage == "truncate":
        stored.write_bytes(data[:-100])
    elif damage == "flip":
        stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "remove":
        stored.unlink()
    else:
        (stored.parent / INDEX).write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        assert np.array_equal(tokens(source, ByteTokenizer.Config(), "train").tokens, before)
    assert len(list(cache_dir().glob("tokens/*/tokens.npy"))) == len(SPLITS)


def count_builds(folder: Path, path: str, number: int) -> tuple[int, int]:
    """In a child process: tokens of the train split, and a file for every time they are encoded."""
    original = ByteTokenizer.encode_batch

    def encode_batch(self: ByteTokenizer, texts: list[str]) -> list[np.ndarray]:
        (folder / f"built-{number}").touch()
        return original(self, texts)

    ByteTokenizer.encode_batch = encode_batch  # type: ignore[method-assign]
    corpus = tokens(LocalText.Config(path=path), ByteTokenizer.Config(), "train")
    return len(corpus.tokens), int(corpus.tokens.sum())


def test_two_processes_build_once(source: Source.Config, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(functools.partial(count_builds, tmp_path, source.path), range(2), chunksize=1)
    assert results[0] == results[1]
    assert len(list(tmp_path.glob("built-*"))) == 1


def corpus_of(*documents: list[int]) -> TokenCorpus:
    stream = np.array([token for ids in documents for token in [9, *ids]], dtype=np.uint16)
    offsets = np.cumsum([0, *(1 + len(ids) for ids in documents)], dtype=np.int64)
    return TokenCorpus(tokens=stream, offsets=offsets, names=["d"] * len(documents), bos=9, bytes=0)


def test_windows_by_hand() -> None:
    windows = Windows(corpus_of([1, 2, 3], [4], [5, 6]), length=4)
    assert len(windows) == 2  # 9 tokens: bos 1 2 3 bos 4 bos 5 6
    batch = windows.batch(np.array([1, 0]))
    assert batch["tokens"].tolist() == [[9, 4, 9, 5, 6], [9, 1, 2, 3, 9]]
    assert batch["document"].tolist() == [[1, 1, 2, 2, 2], [0, 0, 0, 0, 1]]
    assert batch["tokens"].dtype == batch["document"].dtype == torch.int64
    assert windows.batch(np.array([], dtype=np.int64))["tokens"].shape == (0, 5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=9), min_size=2, max_size=9), st.integers(1, 7))
def test_every_token_is_predicted_once_and_knows_its_document(documents: list[list[int]], length: int) -> None:
    corpus = corpus_of(*documents)
    if len(corpus.tokens) <= length:
        with pytest.raises(DataError, match="too few for one window"):
            Windows(corpus, length)
        return
    windows = Windows(corpus, length)
    batch = windows.batch(np.arange(len(windows)))
    used = len(windows) * length
    assert batch["tokens"][:, 1:].flatten().tolist() == corpus.tokens[1 : used + 1].tolist()
    assert len(corpus.tokens) - 1 - used < length
    naive = [i for i, ids in enumerate(documents) for _ in [9, *ids]]
    assert batch["document"].tolist() == [naive[i * length : (i + 1) * length + 1] for i in range(len(windows))]


def test_windows_errors() -> None:
    windows = Windows(corpus_of([1, 2, 3], [4]), length=2)
    for index in (-1, len(windows)):
        with pytest.raises(IndexError, match="windows"):
            windows.batch(np.array([index]))
    with pytest.raises(DataError, match="length = 0"):
        Windows(corpus_of([1]), length=0)
