"""Five domains in one corpus, so that experts can specialise and the domain of every token is known.

    python      Python code without its docstrings        prose    docstrings
    records     JSON lines and CSV                        arithmetic, know    see `world`

A piece of text belongs to the split of the file it comes from. Text of the reader's own (DATA) takes the place of the
first two as the domain `text`, unless it is Python. Every domain has about the same number of bytes, `know` a multiple of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Integer

from orchard.data import ByteTokenizer, EmbeddedText, Source, Windows, tokens
from orchard.data.docstrings import code_and_docstrings
from orchard.data.source import SHARES, SPLITS, Document, Row
from orchard.papers.moe_lottery.data.world import World, arithmetic_documents, know_documents, record_documents
from orchard.runs.code import code_sha256

PIECE = 1500  # bytes of a document cut from a file, about
PROCEDURAL: dict[str, Callable[[World, random.Random], Iterator[str]]] = {
    "records": record_documents, "arithmetic": arithmetic_documents, "know": know_documents,
}  # fmt: skip


class FiveDomains(Source):
    """The corpus. A document is called `domain/number` or `domain/file#piece`."""

    class Config(Source.Config):
        text: Source.Config = EmbeddedText.Config()
        bytes_per_domain: int = 400_000
        know: int = 1  # times as many bytes of `know` as of any other domain
        entities: int = 64
        seed: int = 0

    cfg: Config
    machine_bound = True  # of the text, which answers for itself

    def __init__(self, cfg: FiveDomains.Config) -> None:
        super().__init__(cfg)
        self.text: Source = cfg.text.build()

    @property
    def world(self) -> World:
        """The facts behind the domain `know`."""
        return World.of(self.cfg.entities, self.cfg.seed)

    def stamp(self) -> Any:
        return [self.text.manifest().sha256, code_sha256({__name__})]  # the generators are part of the data

    def settled(self) -> bool:
        return self.text.settled()

    def describe(self) -> dict[str, Any]:
        about = self.text.manifest()
        return {
            "name": f"five domains from {about.name}",
            "licence": f"{about.licence}; the rest is generated",
            "split_rule": f"text: {about.split_rule}; generated documents: 90/5/5 by SHA-256 of their number",
            "versions": about.versions,
        }

    def rows(self) -> list[Row]:
        rows = list(self._pieces())
        for domain, documents in PROCEDURAL.items():
            left = self.cfg.bytes_per_domain * (self.cfg.know if domain == "know" else 1)
            for number, text in enumerate(documents(self.world, random.Random(f"{domain} {self.cfg.seed}"))):
                rows.append(Row(f"{domain}/{number}", text, key=f"{domain}/{number}"))
                left -= len(text)
                if left <= 0:
                    break
        random.Random(f"order {self.cfg.seed}").shuffle(rows)  # neighbours in the stream are of different domains
        return rows

    def _pieces(self) -> Iterator[Row]:
        """Pieces of the text, in order of its documents, until each domain of a split has its share of bytes."""
        for split in SPLITS:
            room: dict[str, float] = {}
            for document in self.text.documents(split):
                for domain, text in divided(document).items():
                    left = room.setdefault(domain, SHARES[split] * self.cfg.bytes_per_domain)
                    for number, piece in enumerate(cut(text)):
                        if left > 0:
                            name = f"{domain}/{document.name}#{number}"
                            yield Row(name, piece, key=name, split=split)
                            left -= len(piece.encode())
                    room[domain] = left
                if len(room) > 1 and all(left <= 0 for left in room.values()):
                    break


def divided(document: Document) -> dict[str, str]:
    """Python source as code (`python`) and docstrings (`prose`); anything else as `text`."""
    if not document.name.endswith(".py"):
        return {"text": document.text}
    parts = dict(zip(("python", "prose"), code_and_docstrings(document.text), strict=True))
    return {name: part for name, part in parts.items() if part.strip()}


def cut(text: str) -> Iterator[str]:
    """The text in pieces of about `PIECE` bytes that end at a line's end."""
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(piece)
            piece, size = [], 0
    if size:
        yield "".join(piece)


def domains(names: list[str]) -> tuple[list[str], Integer[np.ndarray, "documents"]]:
    """The domains of a corpus, in alphabetical order, and the domain of each of its documents."""
    own = [name.partition("/")[0] for name in names]
    found = sorted(set(own))
    return found, np.array([found.index(name) for name in own])


def windows(cfg: Source.Config, split: str, length: int) -> Windows:
    """Windows over a split. Calibration reads validation windows, evaluation test windows, fine-tuning train windows: no two of
    the three share a document, and every criterion is calibrated on the same windows."""
    return Windows(tokens(cfg, ByteTokenizer.Config(), split), length)
