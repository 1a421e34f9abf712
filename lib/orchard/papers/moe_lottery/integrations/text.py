"""Calibration text of a checkpoint: a local file or folder, the model's own tokenizer, sequences of equal length.

Documents are read in their order by `orchard.data.local` (.txt .md .jsonl .parquet ...), encoded as the tokenizer does it by
default (with its first token, where it has one), joined and cut into sequences [sequences, length]; the rest is left.
Nothing is split off and nothing is shuffled: the manifest names the bytes that were used. A file is read whole: a few MB give the
paper's 256 sequences of 2048 tokens, and more is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from orchard.data import LocalText
from orchard.errors import BadInput
from orchard.papers.moe_lottery.integrations.checkpoint import Checkpoint
from orchard.papers.moe_lottery.method.dropping import ExpertsError
from orchard.pretrained.folder import load_tokenizer

Encode = Callable[[str], list[int]]
TOKENIZERS = ("model", "bytes")


@dataclass(frozen=True)
class Calibration:
    """Token ids [sequences, length], and what they come from: files with their SHA-256, documents that were read."""

    tokens: Int[Tensor, "sequences length"]
    files: dict[str, str]
    documents: int
    tokenizer: str

    def manifest(self) -> dict[str, Any]:
        """Everything but the tokens, for a report; `tokens_sha256` is of the ids as 8-byte little-endian integers."""
        ids = self.tokens.contiguous().numpy().astype("<i8").tobytes()
        about = {key: value for key, value in asdict(self).items() if key != "tokens"}
        sequences, length = self.tokens.shape
        counts = {"sequences": sequences, "length": length, "tokens": self.tokens.numel()}
        return about | counts | {"tokens_sha256": hashlib.sha256(ids).hexdigest()}


def calibration(
    checkpoint: Checkpoint, path: str | Path, sequences: int, length: int, tokenizer: str = "model"
) -> Calibration:
    """At most `sequences` sequences of `length` tokens from the beginning of a file or folder.

    `tokenizer`: "model", that in the checkpoint's folder; "bytes", the bytes of UTF-8, for models of 256 tokens or more that
    have none.

    Raises:
        DataError: a path that does not exist, is empty, or holds no text.
        ExpertsError: not one sequence, or no tokenizer.
    """
    if sequences < 1 or length < 2:
        raise ExpertsError(f"{sequences} sequences of {length} tokens: take at least one sequence of two tokens")
    encode, ids, documents = _encoder(checkpoint, tokenizer), list[int](), 0
    source: LocalText = LocalText.Config(path=str(path)).build()
    for row in source.rows():
        documents += 1
        ids += encode(row.text)
        if len(ids) >= sequences * length:
            break
    whole = min(sequences, len(ids) // length)
    if not whole:
        raise ExpertsError(
            f"{path} holds {len(ids)} tokens, fewer than one sequence of {length}: give more text or a smaller --length"
        )
    tokens = torch.tensor(ids[: whole * length], dtype=torch.long).view(whole, length)
    place = Path(path).expanduser()
    folder = place if place.is_dir() else place.parent
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name, *_ in source.stamp()[1]}
    return Calibration(tokens, files, documents, tokenizer)


def _encoder(checkpoint: Checkpoint, tokenizer: str) -> Encode:
    if tokenizer not in TOKENIZERS:
        raise ExpertsError(f"tokenizer {tokenizer!r}: choose one of {', '.join(TOKENIZERS)}")
    if tokenizer == "bytes":
        if checkpoint.vocab_size < 256:
            raise ExpertsError(f"the model knows {checkpoint.vocab_size} tokens, bytes need 256: use its own tokenizer")
        return lambda text: list(text.encode())
    try:
        own = load_tokenizer(checkpoint.folder, split_special_tokens=False)
    except BadInput as error:
        raise ExpertsError(f"{error}; or, for a model of bytes, choose --tokenizer bytes") from None
    return lambda text: list(own(text, verbose=False)["input_ids"])
