"""A source of text: documents in three splits that share none, and a manifest that says exactly what they are.

Every source reads its documents in a fixed order and then does the same three things:

1. De-duplicates. Of documents that are equal after whitespace folding, the first is kept. So is it of near-duplicates:
   a document with at least 10 long lines (30 characters or more, stripped) is left out when 80 % or more of them occur
   in documents kept before it.
2. Splits 90/5/5 into train, validation and test by SHA-256: of the document's name where a file is a document, of its
   text where documents are rows or pieces of a file. Where the data name all three splits themselves (train.txt,
   valid.txt, test.txt), their own splits are kept.
3. Asserts that no two splits hold the same folded text, and that none is empty.

The manifest's SHA-256 is over (split, name, SHA-256 of the text) of every document, so it depends on nothing else:
not on paths, times or the machine. It is cached, because the identity of every run asks for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from orchard.config import Configurable
from orchard.data.cache import DataError, cached, forget, sha256

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
LONG_LINE, LONG_LINES, SEEN_BEFORE = 30, 10, 0.8


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text and the name it has within its source (``python/json/decoder.py``, ``train.jsonl#17``)."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A document as read: ``key`` is what its split is hashed from; ``split`` is set where the data decide it."""

    name: str
    text: str
    key: str
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a source holds. ``sha256`` identifies the documents and their splits; the rest is for the reader.

    ``rows`` documents of ``bytes`` bytes of UTF-8 in all; ``splits`` documents per split; ``dropped`` duplicates; ``left_out``, in words,
    what is there and is not used. The first eight digits of ``sha256`` are a short name: no two corpora share it.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    licence: str
    split_rule: str
    splits: dict[str, int]
    dropped: int
    versions: dict[str, str]
    left_out: list[str] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def folded(text: str) -> str:
    """The text with every run of whitespace as one space: what decides whether two documents are the same."""
    return " ".join(text.split())


def split_of(key: str) -> str:
    """The split of a document: a number in [0, 1) from the SHA-256 of its key, cut at 0.90 and 0.95."""
    position = int.from_bytes(hashlib.sha256(f"split:{key}".encode()).digest()[:8], "big") / 2**64
    return "train" if position < 0.90 else "validation" if position < 0.95 else "test"


def named_split(name: str) -> str | None:
    """The split that the stem of a file's name, or a published split's name, states: ``valid``, ``x-test-00001``."""
    names = {"train": "train", "valid": "validation", "validation": "validation", "val": "validation"}
    names |= {"dev": "validation", "test": "test"}
    found = {names[word] for word in re.split(r"[^a-z]+", name.lower()) if word in names}
    return found.pop() if len(found) == 1 else None


def without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """The rows without those that repeat an earlier one, exactly or nearly (the rule above); blank texts go too."""
    kept: list[Row] = []
    texts: set[str] = set()
    lines: set[str] = set()
    for row in rows:
        digest = sha256(folded(row.text))
        if digest in texts or not row.text.strip():
            continue
        long = [line for line in map(str.strip, row.text.split("\n")) if len(line) >= LONG_LINE]
        if len(long) >= LONG_LINES and sum(line in lines for line in long) >= SEEN_BEFORE * len(long):
            continue
        texts.add(digest)
        lines.update(long)
        kept.append(row)
    return kept


def split_rows(rows: list[Row], name: str) -> dict[str, list[Document]]:
    """The documents of each split. DataError when a split is empty; AssertionError if two share a folded text."""
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for row in rows:
        split = row.split or split_of(row.key)
        splits[split].append(Document(row.name, row.text))
        assert seen.setdefault(sha256(folded(row.text)), split) == split, f"{name}: {row.name} is in two splits"
    if empty := [split for split in SPLITS if not splits[split]]:
        raise DataError(
            f"{name}: {len(rows)} document(s) are too few to split 90/5/5, {' and '.join(empty)} would be empty; "
            "give more text, or a folder whose file names say train, valid and test"
        )
    return splits


class Source(Configurable):
    """Base of the sources. A subclass gives ``rows()`` and its name, licence and rules; see the module's text.

    ``machine_bound``: the documents are those of this machine, so that another machine's cannot be had here.
    """

    machine_bound: ClassVar[bool] = False

    class Config(Configurable.Config):
        pass

    def __init__(self, cfg: Source.Config) -> None:
        self.cfg = cfg
        self._loaded: tuple[Any, dict[str, list[Document]], Manifest] | None = None

    def rows(self) -> Iterable[Row]:
        """All documents, in an order that depends on the data alone. Raises DataError."""
        raise NotImplementedError

    def stamp(self) -> Any:
        """A JSON value that changes whenever ``rows()`` might: the cached manifest belongs to it."""
        raise NotImplementedError

    def settled(self) -> bool:
        """Whether ``stamp()`` can be trusted to change with the data; nothing is cached on disk until it can."""
        return True

    def describe(self) -> dict[str, Any]:
        """``name``, ``licence``, ``split_rule``, ``versions`` and perhaps ``left_out`` of the manifest, asked for after ``rows()``."""
        raise NotImplementedError

    def manifest(self) -> Manifest:
        """What the source holds, from the cache where nothing has changed; warns of what is left out. Raises DataError."""
        manifest = self._manifest()
        for remark in manifest.left_out:
            warnings.warn(f"{manifest.name}: {remark}", stacklevel=1)  # from here: once in a process, whoever asks
        return manifest

    def _manifest(self) -> Manifest:
        if not self.settled():
            return self._load()[1]

        def write(folder: Path) -> None:
            (folder / "manifest.json").write_text(json.dumps(self._load()[1].to_dict(), indent=1), encoding="utf-8")

        folder = cached("manifests", self._key(), write)
        return Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))

    def documents(self, split: str) -> list[Document]:
        """The documents of ``"train"``, ``"validation"`` or ``"test"``, in a fixed order. Raises DataError."""
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        splits, manifest = self._load()
        if manifest.sha256 != self.manifest().sha256:  # edited in place, size and time kept
            forget("manifests", self._key())
            raise DataError(f"the text of {manifest.name} has changed since its manifest was made; run this again")
        return splits[split]

    def dataset(self, split: str) -> Any:
        """The documents as a ``datasets.Dataset`` with the columns ``name`` and ``text``."""
        try:
            from datasets import Dataset
        except ImportError:
            raise DataError("dataset() needs the package datasets: pip install 'orchard[hub]'") from None
        documents = self.documents(split)
        return Dataset.from_dict({"name": [d.name for d in documents], "text": [d.text for d in documents]})

    def _key(self) -> Any:
        return {"source": self.cfg.fingerprint(), "stamp": self.stamp()}

    def _load(self) -> tuple[dict[str, list[Document]], Manifest]:
        stamp = self.stamp()
        if self._loaded is None or self._loaded[0] != stamp:
            rows = list(self.rows())
            kept = without_duplicates(rows)
            described = self.describe()
            splits = split_rows(kept, described["name"])
            digest, size = hashlib.sha256(), 0
            for split in SPLITS:
                for document in splits[split]:
                    data = document.text.encode()
                    size += len(data)
                    digest.update(f"{split}\t{document.name}\t{hashlib.sha256(data).hexdigest()}\n".encode())
            manifest = Manifest(
                rows=len(kept),
                bytes=size,
                sha256=digest.hexdigest(),
                splits={split: len(documents) for split, documents in splits.items()},
                dropped=len(rows) - len(kept),
                **described,
            )
            self._loaded = stamp, splits, manifest
        return self._loaded[1], self._loaded[2]
