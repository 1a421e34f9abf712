"""Files of text and rows as they lie on a disk: found below a folder, decompressed, decoded, parsed.

Every error names the file, and the line or row. Links are followed, so that a folder is read once however often it is linked.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchard.data.cache import DataError

TEXT, ROWS = (".txt", ".md", ".rst", ".py"), (".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
READABLE = f"{' '.join(TEXT + ROWS)} (all but parquet with {' or '.join(COMPRESSED)} too)"
MARKS = (  # byte-order marks; that of UTF-16 begins that of UTF-32
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
FEW_NULS = 0.01  # of the characters of a text


def kind(path: Path) -> str:
    """What a file holds, as a suffix: ``.jsonl`` for ``a.jsonl`` and ``a.jsonl.gz``. One that is not in TEXT or ROWS is not read."""
    last = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if last in COMPRESSED and inner in (*TEXT, ".jsonl") else last


def stem(path: Path) -> str:
    """The name of a file without the suffixes that say what it holds."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def printable(name: str | Path) -> str:
    """A name of a file as text: bytes that are no UTF-8 are written ``\\xe9``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder, and what is there and cannot be opened: folders, and links that lead nowhere. Hidden ones are left out.

    Links are followed after everything that is really there, in the order of their names, each real folder once; so a link never renames
    a file that is there without it.
    """
    files: list[Path] = []
    closed: list[Path] = []
    seen: set[tuple[int, int]] = set()
    todo, linked = deque([folder]), deque[Path]()
    while todo or linked:
        place = todo.popleft() if todo else linked.popleft()
        try:
            about = place.stat()
            entries = [] if (about.st_dev, about.st_ino) in seen else sorted(place.iterdir())
        except OSError:
            closed.append(place)
            continue
        seen.add((about.st_dev, about.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                mode = entry.stat().st_mode
            except OSError:
                closed.append(entry)
                continue
            if stat.S_ISDIR(mode):
                (linked if entry.is_symlink() else todo).append(entry)
            elif stat.S_ISREG(mode):
                files.append(entry)
    return files, closed


def read_text(path: Path) -> str:
    """The text of a file, decompressed, line ends as ``\\n``: UTF-8, or what a byte-order mark says. Raises DataError."""
    data = _bytes(path)
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        fix = " (for example: iconv -f latin1 -t utf-8)" if encoding == "utf-8-sig" else ""
        raise DataError(
            f"{printable(path)} is not {encoding.upper().removesuffix('-SIG')}: byte {error.object[error.start]:#04x} at "
            f"offset {error.start}; convert the file{fix}"
        ) from None
    nuls = text.count("\0")
    if kind(path) in TEXT and nuls > FEW_NULS * len(text):
        raise DataError(
            f"{printable(path)} holds {nuls} NUL characters among {len(text)}: it is no text, or UTF-16 without a byte-order "
            "mark; convert it (for example: iconv -f utf-16le -t utf-8) or repair it"
        )
    return text


def read_rows(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, place, row) of every row of a JSONL or parquet file; ``place`` opens a message. Raises DataError."""
    return _parquet(path) if kind(path) == ".parquet" else _jsonl(path)


def _jsonl(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{printable(path)}, line {number},"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place} is not JSON ({error}); mend or remove that line") from None
        except RecursionError:
            raise DataError(f"{place} is JSON that is nested too deeply to be read; mend or remove that line") from None
        if not isinstance(row, dict):
            raise DataError(f"{place} is a JSON {type(row).__name__}; every line must be an object with fields")
        yield number, place, row


def _parquet(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with path.open("rb") as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, f"{printable(path)}, row {number},", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{printable(path)} cannot be read as parquet ({reason}); write it anew") from None


def _bytes(path: Path) -> bytes:
    """What a file holds, decompressed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from None
    try:
        match path.suffix.lower():
            case ".gz":
                return gzip.decompress(data)
            case ".zst":
                import pyarrow

                with pyarrow.input_stream(pyarrow.py_buffer(data), compression="zstd") as stream:
                    return bytes(stream.read())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{printable(path)} cannot be decompressed ({error}); copy or make it anew") from None
    return data
