"""Corpora of real text: documents of any source of `orchard.data`, as bytes, as byte pairs of D, or in the tokens of a local model.

    pool = the first documents of the source's train split in the order of SHA-256(name), ``pool`` times as many as D has
    D    = the first ``documents`` of the pool          validation, test = the source's own, in the same kind of order

What is cut and left out is decided on characters, before any tokenizer is trained, so D is the same for every tokenizer. A document of
more than ``cap`` tokens is cut at its tail: at the last end of a sentence or line in the second half of what fits, so that a decoder can
learn where documents end, else at the cap. Byte pairs are trained on D alone: on the pool they would leak.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Integer
from safetensors.numpy import load_file, save_file

from orchard.config import REQUIRED
from orchard.data import ByteTokenizer, Document, Manifest, Source, Tokenizer
from orchard.data.cache import cached, sha256
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import SPLITS, Corpus, Documents, Symbols
from orchard.pretrained.folder import load_tokenizer, tokenizer_sha256
from orchard.runs.code import code_sha256

ENDS = (b".", b"!", b"?", b"\n", b'."', b".'", b".)")  # what a token that ends a sentence or a line ends with


class TextCorpus(Corpus):
    """Documents of a source. Near-duplicates of whole lines are gone already (`orchard.data.source`); corpus-level MinHash would go
    between the source and the choice of D."""

    class Config(Corpus.Config):
        source: Source.Config = REQUIRED  # its manifest enters the identity of every run on this corpus
        tokenizer: Tokenizer.Config = ByteTokenizer.Config()
        documents: int | None = None  # of D; None: all of train
        pool: int = 20  # times as many in the pool, where there are as many
        cap: int = 256  # tokens of a body
        shortest: int = 40  # characters of a document, shorter ones are left out
        held_out: int = 2_000  # documents of validation and of test, at most
        validation_at_least: int = 0  # filled up from the end of train, by at most a fifth of it

    cfg: Config

    def __init__(self, cfg: TextCorpus.Config) -> None:
        if cfg.cap < 2 or cfg.pool < 1 or (cfg.documents is not None and cfg.documents < 1):
            raise BadInput(
                f"TextCorpus.Config: cap {cfg.cap}, pool {cfg.pool}, documents {cfg.documents}: a document has 2 tokens or more, "
                "the pool is 1 or more times D, and D has a document"
            )
        self.cfg, self.cap = cfg, cfg.cap
        self.source: Source = cfg.source.build()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, trained on D where it is trained."""
        found: Tokenizer = self.cfg.tokenizer.build(source=FirstDocuments(self))
        return found

    @cached_property
    def symbols(self) -> Symbols:  # type: ignore[override]
        """A folder's own special tokens, else four ids behind those of text."""
        if isinstance(self.tokenizer, FolderTokenizer):
            return self.tokenizer.symbols
        bos = self.tokenizer.bos
        return Symbols(bos + 4, bos=bos, eos=bos + 1, sep=bos + 2, pad=bos + 3)

    def chosen(self) -> dict[str, list[Document]]:
        """The documents of pool, validation and test as text, in their order."""
        cfg, found = self.cfg, []
        for split in ("train", "validation", "test"):
            documents = [d for d in self.source.documents(split) if len(d.text.strip()) >= cfg.shortest]
            found.append(sorted(documents, key=lambda d: sha256(f"order:{d.name}")))
        train, validation, test = found
        stay = len(train) - min(max(0, cfg.validation_at_least - len(validation)), len(train) // 5)
        train, validation = train[:stay], validation + train[stay:]
        if not train:
            name = self.source.manifest().name
            raise BadInput(f"{name}: no document has {cfg.shortest} characters or more: give longer documents")
        limit = None if cfg.documents is None else cfg.documents * cfg.pool
        return {"pool": train[:limit], "validation": validation[: cfg.held_out], "test": test[: cfg.held_out]}

    def documents(self, split: str) -> Documents:
        """As `Corpus.documents`, from the cache or read, tokenized and cut now. Raises BadInput."""
        if split not in SPLITS:
            raise BadInput(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        name = "pool" if split == "train" else split
        made = Documents(**load_file(self._folder / f"{name}.safetensors"), names=self.about["names"][name])
        return made if split != "train" or self.cfg.documents is None else made.head(self.cfg.documents)

    @cached_property
    def about(self) -> dict[str, Any]:
        """``names`` of the documents of pool, validation and test; ``cut``, how many were too long; ``asked``, those of the pool."""
        found: dict[str, Any] = json.loads((self._folder / "about.json").read_text("utf-8"))
        return found

    def text(self, body: Integer[np.ndarray, "_"]) -> str:
        special = {self.symbols.bos, self.symbols.eos, self.symbols.sep, self.symbols.pad}
        return self.tokenizer.decode([token for token in body.tolist() if token not in special])

    def byte_counts(self, documents: Documents) -> Int64[np.ndarray, "documents"]:
        """Bytes of UTF-8 of each body: what bits per byte divide by."""
        if isinstance(self.tokenizer, FolderTokenizer):
            return np.array([len(self.text(body).encode()) for body in documents], dtype=np.int64)
        size = self.tokenizer.token_bytes(np.arange(self.tokenizer.vocab_size))
        sums = np.concatenate([[0], np.cumsum(size[documents.tokens])])
        return np.diff(sums[documents.offsets])

    @cached_property
    def _folder(self) -> Path:
        """The tokenized corpus; with a tokenizer that a folder holds, its SHA-256 stands for it."""
        tree = {name: value for name, value in self.cfg.to_dict().items() if name not in ("source", "tokenizer")}
        key = [self.source.manifest().sha256, tree, self.cfg.tokenizer.fingerprint(), code_sha256([__name__])]
        return cached("documents", key, self._write)

    def _write(self, folder: Path) -> None:
        chosen = self.chosen()
        about: dict[str, Any] = {"names": {}, "cut": {}}
        for name, documents in chosen.items():
            bodies = self.tokenizer.encode_batch([document.text for document in documents])
            whole = [len(body) for body in bodies]
            made = Documents.of([self._cut(body) for body in bodies])
            save_file({"tokens": made.tokens, "offsets": made.offsets}, folder / f"{name}.safetensors")
            about["names"][name] = [document.name for document in documents]
            about["cut"][name] = int((made.lengths < whole).sum())
        about["asked"] = None if self.cfg.documents is None else self.cfg.documents * self.cfg.pool
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def _cut(self, body: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
        if len(body) <= self.cap:
            return body
        ends = (i + 1 for i in range(self.cap - 1, self.cap // 2 - 1, -1) if self._ends(int(body[i])))
        return body[: next(ends, self.cap)]

    def _ends(self, token: int) -> bool:
        folder = isinstance(self.tokenizer, FolderTokenizer)
        own = self.tokenizer.decode([token]).encode() if folder else self.tokenizer.table[token]
        return own.endswith(ENDS)


class FirstDocuments(Source):
    """D as a source of its own: all that a tokenizer may be trained on."""

    def __init__(self, corpus: TextCorpus) -> None:
        super().__init__(FirstDocuments.Config())
        self.corpus = corpus

    def documents(self, split: str) -> list[Document]:
        """The documents of D. No other split is known."""
        if split != "train":
            raise BadInput(f"a tokenizer may read D alone, it asked for {split!r}")
        return self.corpus.chosen()["pool"][: self.corpus.cfg.documents]

    def manifest(self) -> Manifest:
        """That of the whole source, with the choice of D in its SHA-256."""
        whole, cfg = self.corpus.source.manifest(), self.corpus.cfg
        chosen = [whole.sha256, cfg.documents, cfg.shortest, cfg.validation_at_least]
        return dataclasses.replace(whole, sha256=sha256(json.dumps(chosen)))


class FolderTokenizer(Tokenizer):
    """The tokenizer of a local folder, as `transformers` writes it. Text never becomes a special token.

    A language model often has one token for begin and end, and none that separates: the end token then separates as well, which is what
    it did in pretraining. Nothing is added to the vocabulary, so the tuned model goes on with its own tokenizer.
    """

    class Config(Tokenizer.Config):
        folder: str = REQUIRED
        sha256: str = REQUIRED  # of its files, see `folder_tokenizer`
        location_fields = ("folder",)

    cfg: Config

    def __init__(self, cfg: FolderTokenizer.Config, *, source: Source | None = None, saved: str | None = None) -> None:
        super().__init__(cfg)
        self._own = load_tokenizer(cfg.folder)

    @property
    def vocab_size(self) -> int:
        return len(self._own)

    @property
    def bos(self) -> int:
        return self.symbols.bos

    @cached_property
    def symbols(self) -> Symbols:
        """The ids of the special tokens. Raises BadInput where there is no end token."""
        own = self._own
        eos = own.eos_token_id
        if eos is None:
            raise BadInput(
                f"the tokenizer in {self.cfg.folder} has no end token: set eos_token in its tokenizer_config.json"
            )
        others = (own.bos_token_id, own.sep_token_id, own.pad_token_id)
        bos, sep, pad = (eos if token is None else token for token in others)
        return Symbols(len(own), bos=bos, eos=eos, sep=sep, pad=pad)

    def encode_batch(self, texts: Any) -> list[Int[np.ndarray, "_"]]:
        found = self._own(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(ids, dtype=np.int64) for ids in found]

    def decode(self, ids: Any) -> str:
        return str(self._own.decode([int(token) for token in ids], clean_up_tokenization_spaces=False))


def folder_tokenizer(folder: str | Path) -> FolderTokenizer.Config:
    """The config of the tokenizer in a folder, known by the SHA-256 of its files. Raises BadInput where there is none."""
    place = Path(folder).expanduser().resolve()
    cfg = FolderTokenizer.Config(folder=str(place), sha256=tokenizer_sha256(place))
    cfg.build().symbols  # noqa: B018  # says now what is wrong with it
    return cfg
