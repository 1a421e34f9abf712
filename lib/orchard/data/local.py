"""Text from files: one file or a folder of ``.txt .md .rst .py`` (text), ``.jsonl`` and ``.parquet`` (rows).

What a document is:
- JSONL, parquet: a row. Its text is ``text_field`` if given, else the field ``text``, else all its string fields in
  order, joined by newlines.
- text, in a folder with at least 50 text files: a file.
- other text: a piece of a file. A file with level-one headings as WikiText has them (`` = Title = `` between blank
  lines, two or more) is cut before each; any other at blank lines, blocks being merged to 4,096 characters (fewer in
  a short file: a 256th of it, at least 256), at a line end or anywhere if there is no blank line within four times
  that. The pieces are the file, nothing is lost.

All files are pooled and split by hash, whatever they are called, unless the file names state all three splits (see
``orchard.data.source``). In a folder, hidden files, README and LICENSE files, other suffixes and empty files are
passed over.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchard.config import REQUIRED
from orchard.data.cache import DataError
from orchard.data.source import SPLITS, Row, Source, named_split

TEXT, ROWS = (".txt", ".md", ".rst", ".py"), (".jsonl", ".parquet")
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


def row_text(row: dict[str, Any], text_field: str | None, place: str) -> str:
    """The text of a row (rule above). DataError, naming ``place``, when it has no such field or no text at all."""
    strings = {name: value for name, value in row.items() if isinstance(value, str)}
    field = text_field or ("text" if "text" in strings else None)
    if field is None:
        if not strings:
            raise DataError(f"{place} has no field of text; its fields: {', '.join(map(str, row)) or 'none'}")
        text = "\n".join(strings.values())
    elif field not in row:
        raise DataError(f"{place} has no field {field!r} (text_field); its fields: {', '.join(map(str, row))}")
    elif row[field] is None:
        return ""
    elif field not in strings:
        raise DataError(f"{place}: the field {field!r} holds {type(row[field]).__name__}, not text")
    else:
        text = strings[field]
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

    def _files(self) -> list[Path]:
        """The files to read, in the order of their names. DataError when there is none."""
        known = TEXT + ROWS
        if not self.path.exists():
            raise DataError(
                f"{self.cfg.path!r} does not exist (looked for {self.path}); give an existing file or folder"
            )
        if self.path.is_file():
            if self.path.suffix.lower() not in known:
                raise DataError(f"{self.path} has the suffix {self.path.suffix!r}; readable are {' '.join(known)}")
            return [self.path]
        parts = {path: path.relative_to(self.path).parts for path in self.path.rglob("*") if path.is_file()}
        visible = [path for path, names in parts.items() if not any(name.startswith(".") for name in names)]
        files = [
            path
            for path in visible
            if path.suffix.lower() in known and path.stem.upper() not in ("README", "LICENSE", "LICENCE")
        ]
        if not files:
            found = " ".join(sorted({path.suffix for path in visible if path.suffix})) or "nothing"
            raise DataError(f"the folder {self.path} holds no text: found {found}; readable are {' '.join(known)}")
        return sorted(files, key=self._name)

    def _name(self, path: Path) -> str:
        return path.name if path == self.path else path.relative_to(self.path).as_posix()

    def _by_name(self, files: list[Path]) -> bool:
        """Whether the names of the files decide the splits: all three are stated, and every file states one."""
        return {named_split(path.stem) for path in files} == set(SPLITS)

    def stamp(self) -> Any:
        stats = [(self._name(path), path.stat()) for path in self._files()]
        return [str(self.path), [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]]

    def settled(self) -> bool:
        newest = max(path.stat().st_mtime_ns for path in self._files())
        return time.time_ns() - newest > 2_000_000_000  # a later change will not leave size and time as they are

    def describe(self) -> dict[str, Any]:
        files = self._files()
        if self._by_name(files):
            rule = "by the names of the files, which state train, validation and test"
        elif self._whole_files(files):
            rule = "90/5/5 by SHA-256 of the file's name (rows of JSONL and parquet: of their text)"
        else:
            rule = "90/5/5 by SHA-256 of the document's text; all files pooled"
        licence = "not stated: local files, see where they come from"
        return {"name": self.path.name, "licence": licence, "split_rule": rule, "versions": {}}

    def _whole_files(self, files: list[Path]) -> bool:
        return sum(path.suffix.lower() in TEXT for path in files) >= MANY_FILES

    def rows(self) -> Iterator[Row]:
        files = self._files()
        by_name, whole = self._by_name(files), self._whole_files(files)
        if by_name:  # of duplicates the first is kept: not the one in train
            files = sorted(files, key=lambda path: (-SPLITS.index(named_split(path.stem) or ""), self._name(path)))
        if self.cfg.text_field and all(path.suffix.lower() in TEXT for path in files):
            raise DataError(
                f"text_field={self.cfg.text_field!r} is for JSONL and parquet; {self.path} has only plain text"
            )
        empty = True
        for path in files:
            name, split = self._name(path), named_split(path.stem) if by_name else None
            suffix = path.suffix.lower()
            if suffix in TEXT:
                text = _read(path)
                if whole:
                    documents: Iterable[tuple[str, str]] = [(name, text)] if text else []
                else:
                    documents = [(f"{name}#{i}", piece) for i, piece in enumerate(pieces(text))]
            elif suffix == ".jsonl":
                documents = self._jsonl(path, name)
            else:
                documents = self._parquet(path, name)
            for document, text in documents:
                empty = False
                yield Row(document, text, key=name if whole and suffix in TEXT else text, split=split)
        if empty:
            raise DataError(f"{self.path} is empty; give a file or folder that holds text")

    def row_document(self, row: dict[str, Any], path: Path, place: str) -> str:
        """The text of the document that a row is; ``place`` begins its messages. Raises DataError."""
        return row_text(row, self.cfg.text_field, place)

    def _jsonl(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(_read(path).split("\n"), start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number},"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{place} is not JSON ({error}); mend or remove that line") from None
            if not isinstance(row, dict):
                raise DataError(f"{place} is a JSON {type(row).__name__}; every line must be an object with fields")
            yield f"{name}#{number}", self.row_document(row, path, place)

    def _parquet(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet ({str(error).splitlines()[0]}); write it anew") from None
        for number, row in enumerate(rows, start=1):
            yield f"{name}#{number}", self.row_document(row, path, f"{path}, row {number},")


def _read(path: Path) -> str:
    """The text of a UTF-8 file, line ends as ``\\n``. DataError naming the file and the first bad byte."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; convert the file "
            "(for example: iconv -f latin1 -t utf-8)"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
