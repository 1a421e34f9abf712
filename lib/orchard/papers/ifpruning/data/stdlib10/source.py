"""What Stdlib-10 reads, as one source: the tables of its memory domains and the sources of the standard library.

Its manifest makes the identity of a run depend on the Unicode version, on the messages of this machine and on the text. A table is a
document `table/greek` of lines "what is asked, tab, answer" and is for training; a file keeps the split that the text gives it, and so do
the docstrings in it. What has to be parsed is parsed once per machine and cached.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from orchard.data import SPLITS, DataError, EmbeddedText, Source
from orchard.data.cache import cached
from orchard.data.docstrings import definitions, parsed
from orchard.data.source import Row
from orchard.papers.ifpruning.data.stdlib10.facts import Fact, memory
from orchard.runs.code import code_sha256

STDLIB = "python/"  # how the names of its files begin in the embedded corpus


class StdlibText(Source):
    """The tables, and the files of the standard library among the documents of ``text``."""

    class Config(Source.Config):
        text: Source.Config = EmbeddedText.Config(max_bytes=None)  # fewer may leave a split without a file of it

    cfg: Config
    machine_bound = True

    def __init__(self, cfg: StdlibText.Config) -> None:
        super().__init__(cfg)
        self.text: Source = cfg.text.build()

    def stamp(self) -> Any:
        return [self.text.manifest().sha256, sys.version, sys.platform, code_sha256({__name__})]

    def settled(self) -> bool:
        return self.text.settled()

    def describe(self) -> dict[str, Any]:
        about = self.text.manifest()
        return {
            "name": f"Stdlib-10 from {about.name}",
            "licence": "PSF-2.0 (Python); Unicode character names: Unicode License v3",
            "split_rule": f"tables: training; files: {about.split_rule}",
            "versions": about.versions | {"unicode": unicodedata.unidata_version},
        }

    def rows(self) -> Iterator[Row]:
        for domain, facts in memory().items():
            yield Row(f"table/{domain}", "\n".join(map("\t".join, facts)), key=domain, split="train")
        files = 0
        for split in SPLITS:
            for document in self.text.documents(split):
                if document.name.startswith(STDLIB):
                    files += 1
                    yield Row(document.name, document.text, key=document.name, split=split)
        if not files:
            raise DataError(
                f"Stdlib-10 asks about Python's standard library, and {self.text.manifest().name} holds no file of it: "
                'use DATA = "embedded" for this corpus, or the corpus Instructions for texts and rows of your own'
            )


@dataclass(frozen=True)
class Found:
    """Tables by domain, docstrings by split as (signature, first sentence), and the training files as bytes."""

    tables: dict[str, list[Fact]]
    docstrings: dict[str, list[Fact]]
    text: UInt8[np.ndarray, "bytes"]


def found(source: Source) -> Found:
    """What the documents of the source hold, from the cache where nothing has changed."""

    def write(folder: Path) -> None:
        tables: dict[str, list[list[str]]] = {}
        docstrings: dict[str, list[Fact]] = {split: [] for split in SPLITS}
        text: list[bytes] = []
        for split in SPLITS:
            for document in source.documents(split):
                kind, _, rest = document.name.partition("/")
                if kind == "table":
                    tables[rest] = [line.split("\t") for line in document.text.split("\n")]
                    continue
                docstrings[split] += documented(rest, document.text)
                if split == "train":
                    text.append(document.text.encode() + b"\n")
        whole = {"tables": tables, "docstrings": docstrings}
        (folder / "found.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
        np.save(folder / "text.npy", np.frombuffer(b"".join(text), dtype=np.uint8), allow_pickle=False)

    folder = cached("stdlib10", [source.manifest().sha256, code_sha256({__name__})], write)
    whole = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    for kind in whole.values():
        for name, facts in kind.items():
            kind[name] = [(item, answer) for item, answer in facts]
    return Found(text=np.load(folder / "text.npy", mmap_mode="r", allow_pickle=False), **whole)


def documented(name: str, text: str) -> list[Fact]:
    """The documented functions of the file called ``name``: ("json.decoder.py_scanstring(s, end)", its docstring's first sentence)."""
    tree = parsed(text)
    if tree is None:
        return []
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    facts = []
    for place, node in definitions(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            sentence = first_sentence(ast.get_docstring(node) or "")
            if sentence:
                facts.append((f"{module}.{place}({ast.unparse(node.args)})", sentence))
    return facts


def first_sentence(docstring: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
