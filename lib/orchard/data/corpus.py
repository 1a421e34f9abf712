"""A split as one array of token ids on disk, and windows over it.

The stream is  bos d₀ bos d₁ …  in the order of the documents. Window i holds tokens iT … iT + T: T + 1 of them, so that
T are predicted from those before, and every token of the stream but the first is predicted in exactly one window.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64, Integer
from torch import Tensor

from orchard.data.cache import DataError, cached
from orchard.data.source import SPLITS, Source
from orchard.data.tokenizer import Tokenizer

DOCUMENTS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class TokenCorpus:
    """A tokenised split. ``tokens`` is memory-mapped, uint16 where the vocabulary allows it, else uint32;
    document i is ``tokens[offsets[i]:offsets[i + 1]]``, ``bos`` first, and is called ``names[i]``."""

    tokens: Integer[np.ndarray, "tokens"]
    offsets: Int64[np.ndarray, "documents_and_end"]
    names: list[str]
    bos: int
    bytes: int  # of UTF-8 in the split


def tokens(source_cfg: Source.Config, tokenizer_cfg: Tokenizer.Config, split: str) -> TokenCorpus:
    """The tokenised split, from the cache or made now, with the other splits, since the text is read for them too; several processes
    may ask at once. Raises DataError."""
    source: Source = source_cfg.build()
    made: list[str] = []

    def write(folder: Path, split: str) -> None:
        documents = source.documents(split)
        tokenizer: Tokenizer = tokenizer_cfg.build(source=source)
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        bos, parts, lengths = np.array([tokenizer.bos], dtype=dtype), [], [0]
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            for ids in tokenizer.encode_batch([d.text for d in documents[start : start + DOCUMENTS_AT_ONCE]]):
                parts += [bos, ids.astype(dtype)]
                lengths.append(1 + len(ids))
        np.save(folder / "tokens.npy", np.concatenate(parts), allow_pickle=False)
        np.save(folder / "offsets.npy", np.cumsum(lengths, dtype=np.int64), allow_pickle=False)
        about = {
            "bos": tokenizer.bos,
            "bytes": sum(len(document.text.encode()) for document in documents),
            "names": [document.name for document in documents],
        }
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        made.append(split)

    def found(split: str) -> Path:
        key = [source.manifest().sha256, tokenizer_cfg.to_dict(), split, importlib.metadata.version("tokenizers")]
        return cached("tokens", key, lambda folder: write(folder, split))

    folder = found(split)
    if made:  # one split at a time: nobody waits for a lock while holding another
        for other in SPLITS:
            found(other)
    return TokenCorpus(
        tokens=np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        **json.loads((folder / "about.json").read_text(encoding="utf-8")),
    )


class Windows:
    """The windows of ``length`` + 1 tokens over a corpus (module's text); what is left at the end is not used.

    Raises DataError when the corpus is shorter than one window.
    """

    def __init__(self, corpus: TokenCorpus, length: int) -> None:
        if length < 1:
            raise DataError(f"Windows: length = {length}; a window predicts at least 1 token")
        self.corpus, self.length = corpus, length
        self._count = (len(corpus.tokens) - 1) // length
        if self._count < 1:
            raise DataError(
                f"the split has {len(corpus.tokens)} tokens, too few for one window of {length} + 1; "
                "give more text or a shorter sequence"
            )

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Int[np.ndarray, "batch"]) -> dict[str, Int64[Tensor, "batch length_and_one"]]:
        """Windows ``indices``: their ``"tokens"`` and, for each token, the number of its ``"document"`` in the split.

        IndexError for an index outside 0 … len - 1.
        """
        if len(indices) and (indices.min() < 0 or indices.max() >= self._count):
            raise IndexError(f"window indices {indices.min()} … {indices.max()} of {self._count} windows")
        starts = indices.astype(np.int64) * self.length
        found = self.corpus.tokens[starts[:, None] + np.arange(self.length + 1)].astype(np.int64)
        first = np.searchsorted(self.corpus.offsets, starts, side="right") - 1
        opened = np.cumsum(found == self.corpus.bos, axis=1)  # bos opens a document and occurs nowhere else
        document = first[:, None] + opened - opened[:, :1]
        return {"tokens": torch.from_numpy(found), "document": torch.from_numpy(document)}
