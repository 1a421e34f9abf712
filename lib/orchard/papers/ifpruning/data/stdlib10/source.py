"""The facts of Stdlib-10, what is asked and its answer as text, and the source that holds what is known as lists.

    memory       greek cyrillic arabic ethiopic    U+03B1 -> GREEK SMALL LETTER ALPHA      unicodedata
                 entity                            &alpha; -> U+03B1                       html.entities
                 status                            HTTP 404, ENOENT -> its message         http, errno
    procedural   arith     3-digit + - *, base 16, roman numerals
                 pyeval    the repr of a small Python expression
                 weekday   the day of a date from 1900 to 2099

Facts of memory are known as a list, the same for training and tests (memory is the point; only wordings are held out). Facts of a
procedure are drawn; a hash of the fact gives its split, so that a test asks for what training cannot have stated.

A source has the tables of the memory domains and the files of the standard library. Its manifest makes the identity of a run depend on
the Unicode version, on the messages of this machine and on the text. A table is a document `table/greek` of lines "what is asked, tab,
answer" and is for training; a file keeps the split that the text gives it, and so do the docstrings in it. What has to be parsed is
parsed once per machine and cached.
"""

from __future__ import annotations

import ast
import datetime
import errno
import html.entities
import http
import json
import operator
import os
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from orchard.data import SPLITS, DataError, EmbeddedText, Source
from orchard.data.cache import cached
from orchard.data.docstrings import definitions, parsed
from orchard.data.source import Row, split_of
from orchard.runs.code import code_sha256

SCRIPTS = ("greek", "cyrillic", "arabic", "ethiopic")
MEMORY = (*SCRIPTS, "entity", "status")
FIRST_YEAR, LAST_YEAR = 1900, 2099
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
    *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)
WORDS = ("apple", "bird", "cloud", "dust", "ember", "frost", "grain", "hill", "ink", "jar", "kite", "leaf")
Fact = tuple[str, str]  # what is asked, and the answer
STDLIB = "python/"  # how the names of its files begin in the embedded corpus


def code_points(text: str) -> str:
    """Characters as U+03B1, separated by spaces."""
    return " ".join(f"U+{ord(character):04X}" for character in text)


def memory() -> dict[str, list[Fact]]:
    """Every fact of the memory domains. They follow this Python's Unicode version and this machine's messages."""
    facts: dict[str, list[Fact]] = {domain: [] for domain in MEMORY}
    for point in range(0x20000):  # no script of ours has a character beyond
        name = unicodedata.name(chr(point), "")
        script = name.partition(" ")[0].lower()
        if script in SCRIPTS:
            facts[script].append((code_points(chr(point)), name))
    facts["entity"] = [(f"&{name}", code_points(text)) for name, text in html.entities.html5.items()]
    facts["status"] = [(f"HTTP {status.value}", status.phrase) for status in http.HTTPStatus]
    facts["status"] += [(name, os.strerror(number)) for number, name in sorted(errno.errorcode.items())]
    return facts


def roman(number: int) -> str:
    """A roman numeral, for 1 to 3999."""
    text = ""
    for value, letters in ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def arith(draw: random.Random) -> tuple[str, str, str]:
    """What is asked, the answer, and the fact it is: sums and products are the same fact in either order."""
    kind = draw.randrange(5)
    if kind < 3:
        a, b, sign = draw.randint(100, 999), draw.randint(100, 999), "+-*"[kind]
        answer = (operator.add, operator.sub, operator.mul)[kind](a, b)
        fact = f"{a} - {b}" if sign == "-" else f"{min(a, b)} {sign} {max(a, b)}"
        return f"{a} {sign} {b}", str(answer), fact
    if kind == 3:
        number = draw.randint(256, 65535)
        item = f"{number} in base 16"
        return item, f"{number:X}", item
    number = draw.randint(1, 3999)
    item = f"{number} in roman numerals"
    return item, roman(number), item


def weekday(draw: random.Random) -> tuple[str, str, str]:
    first = datetime.date(FIRST_YEAR, 1, 1)
    days = (datetime.date(LAST_YEAR, 12, 31) - first).days
    date = first + datetime.timedelta(days=draw.randint(0, days))
    return date.isoformat(), DAYS[date.weekday()], date.isoformat()


def pyeval(draw: random.Random) -> tuple[str, str, str]:
    """An expression of strings, lists and numbers with its value, made side by side: no code is run from text."""
    word = draw.choice(WORDS) + draw.choice(("", *WORDS))
    numbers, others = ([draw.randint(0, 99) for _ in range(draw.randint(2, 4))] for _ in range(2))
    start, stop = draw.randint(-3, 2), draw.choice((None, *range(1, 5)))
    bounds, part = f"{start}:{'' if stop is None else stop}", slice(start, stop)
    index, times, letter = draw.randint(-3, 2), draw.randint(2, 9), draw.choice("aeilr")
    case, search = draw.choice(("upper", "title")), draw.choice(("count", "find"))
    name, function = draw.choice(tuple(FUNCTIONS.items()))
    number, divisor, more, sign = draw.randint(10, 99), draw.randint(2, 9), draw.randint(0, 9), draw.choice(("//", "%"))
    made: tuple[tuple[str, Any], ...] = (
        (f"{word!r}[{bounds}]", word[part]), (f"{word!r}[::-1]", word[::-1]), (f"{word!r}[{index}]", word[index]),
        (f"{word!r}.{case}()", getattr(word, case)()), (f"{word!r}.{search}({letter!r})", getattr(word, search)(letter)),
        (f"len({word!r} * {times})", len(word * times)), (f"{numbers}[{bounds}]", numbers[part]),
        (f"{numbers}[::-1]", numbers[::-1]), (f"{name}({numbers})", function(numbers)), (f"{numbers} + {others}", numbers + others),
        (f"{number} {sign} {divisor} + {more}", divmod(number, divisor)[sign == "%"] + more),
    )  # fmt: skip
    expression, value = draw.choice(made)
    return expression, repr(value), expression


FUNCTIONS: dict[str, Callable[[list[int]], Any]] = {"sorted": sorted, "sum": sum, "max": max, "min": min}
PROCEDURES = {"arith": arith, "pyeval": pyeval, "weekday": weekday}


def drawn(domain: str, split: str, draw: random.Random) -> Iterator[Fact]:
    """Facts of a procedural domain that belong to a split, without end; some come twice."""
    while True:
        item, answer, fact = PROCEDURES[domain](draw)
        if split_of(f"{domain}/{fact}") == split:
            yield item, answer


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
            "name": f"Stdlib-10 from {about.name}", "licence": "PSF-2.0 (Python); Unicode character names: Unicode License v3",
            "split_rule": f"tables: training; files: {about.split_rule}",
            "versions": about.versions | {"unicode": unicodedata.unidata_version},
        }  # fmt: skip

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
