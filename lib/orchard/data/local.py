"""Text from files: one file or a folder of ``.txt .md .rst .py`` (text), ``.jsonl`` and ``.parquet`` (rows).

What a document is:
- JSONL, parquet: a row. Its text is ``text_field`` if given, else the field ``text`` where rows of the file have one, else all its string
  fields in order, joined by newlines. A row whose text is null or blank is left out and counted.
- text, in a folder with at least 50 text files: a file.
- other text: a piece of a file. A file with level-one headings as WikiText has them (`` = Title = `` between blank
  lines, two or more) is cut before each; any other at blank lines, blocks being merged to 4,096 characters (fewer in
  a short file: a 256th of it, at least 256), at a line end or anywhere if there is no blank line within four times
  that. The pieces are the file, nothing is lost.

All files are pooled and split by hash, whatever they are called, unless the file names state all three splits (see
``orchard.data.source``). Text and JSONL may be compressed (``.gz``, ``.zst``), and in UTF-16 where a byte-order mark says so. In a folder,
links are followed; hidden files, README and LICENSE files and empty files are passed over; what else is not read is said.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchard.config import REQUIRED
from orchard.data.cache import DataError
from orchard.data.reading import READABLE, ROWS, TEXT, kind, printable, read_rows, read_text, stem, walk
from orchard.data.source import SPLITS, Row, Source, named_split

MANY_FILES = 50
PIECE, PIECES, SHORTEST = 4096, 256, 256  # characters, number, characters
BLANK_LINE, LINE_END = re.compile(r"\n(?:[ \t]*\n)+"), re.compile(r"\n")
HEADING = re.compile(r"(?:\A(?:[ \t]*\n)?|(?<=\n)[ \t]*\n) ?= [^=\n]+ = ?\n[ \t]*\n")


def pieces(text: str) -> list[str]:
    """A long text cut into documents by the rule above; joined, they are the text."""
    cuts = [match.start() for match in HEADING.finditer(text)]
    if len(cuts) >= 2:
        cuts = sorted({0, *cuts, len(text)})
        return [text[start:end] for start, end in itertools.pairwise(cuts)]
    size = min(PIECE, max(SHORTEST, len(text) // PIECES))
    parts, start = [], 0
    while start < len(text):
        end = start + size
        for boundary in (BLANK_LINE, LINE_END):
            if match := boundary.search(text, max(start, end - 1), start + 4 * size):
                end = match.end()
                break
        parts.append(text[start:end])
        start = end
    return parts


def row_text(row: dict[str, Any], field: str | None, place: str) -> str:
    """The text of a row, blank where it has none: that of ``field``, else of all its string fields, joined by newlines.

    DataError, naming ``place``, when it has no such field, no field of text at all, or one of another type.
    """
    if field is None:
        text = "\n".join(value for value in row.values() if isinstance(value, str))
        if not any(isinstance(value, str) for value in row.values()):
            raise DataError(f"{place} has no field of text; its fields: {', '.join(map(str, row)) or 'none'}")
    elif field not in row:
        named = "of text" if field == "text" else f"{field!r} (text_field)"
        raise DataError(f"{place} has no field {named}; its fields: {', '.join(map(str, row)) or 'none'}")
    elif row[field] is None:
        return ""
    elif not isinstance(row[field], str):
        raise DataError(f"{place}: the field {field!r} holds {type(row[field]).__name__}, not text")
    else:
        text = row[field]
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place} holds an unpaired surrogate, which is no text; repair or remove that row") from None
    return text


class LocalText(Source):
    """Text from a file or folder (rules in the module's text)."""

    class Config(Source.Config):
        path: str = REQUIRED
        text_field: str | None = None  # the field of JSONL or parquet rows that holds the text
        location_fields = ("path",)

    cfg: Config

    def __init__(self, cfg: LocalText.Config) -> None:
        super().__init__(cfg)
        self.path = Path(cfg.path).expanduser().resolve()
        self._field: str | None = None  # that holds the text of rows, in the file that is read
        self._without_text = 0  # rows, of those read last

    def _found(self) -> tuple[list[Path], list[str]]:
        """The files to read, in the order of their names, and what is there and is not read, in words. DataError when there is no file."""
        shown = printable(self.path)
        if not self.path.exists():
            raise DataError(f"{self.cfg.path!r} does not exist (looked for {shown}); give an existing file or folder")
        if self.path.is_file():
            if kind(self.path) not in TEXT + ROWS:
                raise DataError(f"{shown} has the suffix {self.path.suffix!r}; readable are {READABLE}")
            return [self.path], []
        below, closed = walk(self.path)
        below = [path for path in below if stem(path).upper() not in ("README", "LICENSE", "LICENCE")]
        files = sorted((path for path in below if kind(path) in TEXT + ROWS), key=self._name)
        others = Counter(path.suffix or "without suffix" for path in below if kind(path) not in TEXT + ROWS)
        suffixes, left_out = ", ".join(map(printable, sorted(others))), []
        if others:
            left_out.append(f"{others.total()} file(s) of other kinds are not read: {suffixes}")
        if closed:
            names = ", ".join(map(self._name, closed))
            left_out.append(f"{len(closed)} folder(s) or link(s) cannot be opened: {names}")
        if not files:
            found = suffixes or (left_out[0] if closed else "nothing")
            raise DataError(f"the folder {shown} holds no text: found {found}; readable are {READABLE}")
        return files, left_out

    def _files(self) -> list[Path]:
        return self._found()[0]

    def _name(self, path: Path) -> str:
        return printable(path.name if path == self.path else path.relative_to(self.path).as_posix())

    def _by_name(self, files: list[Path]) -> bool:
        """Whether the names of the files decide the splits: all three are stated, and every file states one."""
        return {named_split(stem(path)) for path in files} == set(SPLITS)

    def stamp(self) -> Any:
        files, left_out = self._found()
        stats = [(path, path.stat()) for path in files]
        below = self.path if self.path.is_dir() else self.path.parent
        names = [[path.relative_to(below).as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        return [str(self.path), names, left_out]

    def settled(self) -> bool:
        newest = max(path.stat().st_mtime_ns for path in self._files())
        return time.time_ns() - newest > 2_000_000_000  # a later change will not leave size and time as they are

    def describe(self) -> dict[str, Any]:
        files, left_out = self._found()
        if self._by_name(files):
            rule = "by the names of the files, which state train, validation and test"
        elif self._whole_files(files):
            rule = "90/5/5 by SHA-256 of the file's name (rows of JSONL and parquet: of their text)"
        else:
            rule = "90/5/5 by SHA-256 of the document's text; all files pooled"
        if self._without_text:
            left_out.append(f"{self._without_text} row(s) without text are left out")
        licence = "not stated: local files, see where they come from"
        name = printable(self.path.name)
        return {"name": name, "licence": licence, "split_rule": rule, "versions": {}, "left_out": left_out}

    def _whole_files(self, files: list[Path]) -> bool:
        return sum(kind(path) in TEXT for path in files) >= MANY_FILES

    def rows(self) -> Iterator[Row]:
        files = self._files()
        shown = printable(self.path)
        by_name, whole = self._by_name(files), self._whole_files(files)
        if by_name:  # of duplicates the first is kept: not the one in train
            files = sorted(files, key=lambda path: (-SPLITS.index(named_split(stem(path)) or ""), self._name(path)))
        if self.cfg.text_field and all(kind(path) in TEXT for path in files):
            raise DataError(f"text_field={self.cfg.text_field!r} is for JSONL and parquet; {shown} has only plain text")
        empty, self._without_text = True, 0
        for path in files:
            name, split = self._name(path), named_split(stem(path)) if by_name else None
            is_text = kind(path) in TEXT
            if not is_text:
                documents: Iterable[tuple[str, str]] = self._rows_of(path, name)
            elif whole:
                documents = [(name, text)] if (text := read_text(path)) else []
            else:
                documents = [(f"{name}#{i}", piece) for i, piece in enumerate(pieces(read_text(path)))]
            for document, text in documents:
                empty = False
                yield Row(document, text, key=name if whole and is_text else text, split=split)
        if empty and self._without_text:
            raise DataError(
                f"{shown}: none of its {self._without_text} rows has text; give rows that do, or text_field"
            )
        if empty:
            raise DataError(f"{shown} is empty; give a file or folder that holds text")

    def row_document(self, row: dict[str, Any], path: Path, place: str) -> str:
        """The text of the document that a row is; ``place`` begins its messages. Raises DataError."""
        return row_text(row, self._field, place)

    def _rows_of(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """Names and texts of the rows of a file that have text."""
        rows = list(read_rows(path))
        self._field = self.cfg.text_field or ("text" if any("text" in row for _, _, row in rows) else None)
        for number, place, row in rows:
            text = self.row_document(row, path, place)
            if text.strip():
                yield f"{name}#{number}", text
            else:
                self._without_text += 1
