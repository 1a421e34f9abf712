"""Text to token ids and back: bytes, or byte-level byte-pair encoding trained on the corpus itself.

Both are exact on any text: ``decode(encode(text)) == text``. The last id, ``bos``, opens every document and is never
produced from text. ``token_bytes`` gives the UTF-8 bytes behind each token, so that bits per byte, which does not
depend on the tokenizer, is  sum(nll) / (ln 2 · sum(bytes)).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from orchard.config import REQUIRED, Configurable
from orchard.data.cache import DataError, cached
from orchard.data.source import Source


class Tokenizer(Configurable):
    """Base of the tokenizers: ``table[id]`` is the bytes of a token, none for ``bos``."""

    class Config(Configurable.Config):
        pass

    def __init__(self, cfg: Tokenizer.Config, *, source: Source | None = None, saved: str | None = None) -> None:
        self.cfg = cfg
        self.table: list[bytes] = [bytes([value]) for value in range(256)] + [b""]

    @property
    def vocab_size(self) -> int:
        """Number of ids, ``bos`` included."""
        return len(self.table)

    @property
    def bos(self) -> int:
        """The id that opens a document."""
        return len(self.table) - 1

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """The ids of each text, without ``bos``."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without ``bos``."""
        return self.encode_batch([text])[0].tolist()

    def decode(self, ids: Any) -> str:
        """The text of a 1-D sequence, array or tensor of ids; ``bos`` is nothing, bytes that are no text U+FFFD."""
        return b"".join(self.table[int(token)] for token in ids).decode("utf-8", errors="replace")

    def to_json(self) -> str | None:
        """What ``cfg.build(saved=...)`` needs in place of the source, as JSON; None if that is nothing."""
        return None

    def token_bytes(self, ids: Integer[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Number of UTF-8 bytes behind each token, of any shape (int64); 0 for ``bos``."""
        return np.array([len(token) for token in self.table], dtype=np.int64)[ids]


class ByteTokenizer(Tokenizer):
    """One token per byte of UTF-8: 256 and ``bos``."""

    class Config(Tokenizer.Config):
        pass

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]


class BPETokenizer(Tokenizer):
    """Byte-level BPE (GPT-2's splitting rule), trained on the train split of ``source`` and cached.

    ``vocab_size`` ids whatever the text: 256 bytes, the merges that were found, and ``bos`` last. In a corpus too
    small for that many merges the ids in between are not used.
    """

    class Config(Tokenizer.Config):
        vocab_size: int = REQUIRED

    def __init__(self, cfg: BPETokenizer.Config, *, source: Source | None = None, saved: str | None = None) -> None:
        super().__init__(cfg)
        if cfg.vocab_size < 257:
            raise DataError(f"BPETokenizer: vocab_size = {cfg.vocab_size} is too small; 256 bytes and bos need 257")
        import tokenizers

        if saved is None:
            saved = _from_corpus(source, cfg.vocab_size - 1)
        self._model = tokenizers.Tokenizer.from_str(saved)
        ids, letters = self._model.get_vocab(), _byte_of_letter()
        self.table = [b""] * cfg.vocab_size
        for token, index in ids.items():
            self.table[index] = bytes(letters[letter] for letter in token)

    def to_json(self) -> str | None:
        return str(self._model.to_str())

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        return [np.array(found.ids, dtype=np.int64) for found in self._model.encode_batch_fast(list(texts))]


def _from_corpus(source: Source | None, size: int) -> str:
    """As ``_trained``, from the cache if it was trained before."""
    if source is None:
        raise DataError("BPETokenizer is trained on a corpus: build it with cfg.build(source=source_cfg.build())")
    import tokenizers

    def train(folder: Path) -> None:
        (folder / "tokenizer.json").write_text(_trained(source, size), encoding="utf-8")

    key = [source.manifest().sha256, size + 1, tokenizers.__version__]
    return (cached("tokenizers", key, train) / "tokenizer.json").read_text(encoding="utf-8")


def _trained(source: Source, size: int) -> str:
    """The JSON of a BPE with ``size`` tokens. It has no special tokens: a document cannot spell ``bos``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=[])
    model.train_from_iterator((document.text for document in source.documents("train")), trainer)
    return str(model.to_str())


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's printable letter for each byte, inverted: bytes that print stand for themselves, the rest from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}
