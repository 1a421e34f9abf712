"""Pictures and rows from files: `image_source(DATA)`, where DATA is "digits", a `datasets.Dataset` in memory, or a path.

- A folder of `.png .jpg .jpeg .webp`, with `metadata.jsonl` (`file_name` and other fields) or without any rows.
- `.jsonl`, or `.json` with one list: rows whose `image` or `file_name` is a path from the folder of that file, or from `images`; so
  are LLaVA's rows {id, image, conversations}.
- `.parquet` with a column of pictures as `datasets.Image` stores them; `.tar` as WebDataset packs them, read by `datasets`.

In a folder all files of rows are read; where there are none, the pictures are. The splits are the names' own where files of rows, or
folders of pictures, state all three. A row without a picture is left out and counted; a blank caption, question, answer or turn is an
error. What becomes of a picture is said in `orchard.data.images`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchard.config import REQUIRED
from orchard.data.cache import DataError
from orchard.data.images import Digits, Picture, PictureSource
from orchard.data.memory import dataset_source
from orchard.data.reading import kind, printable, read_rows, read_text, walk
from orchard.data.source import SPLITS, named_split

PICTURES, ROWS = (".png", ".jpg", ".jpeg", ".webp"), (".jsonl", ".parquet", ".tar")
READABLE = f"{' '.join(PICTURES + ROWS)}, and a .json that is named itself"
TEXTS = ("caption", "text", "txt", "question", "answer")  # fields that may not be blank where a row has them


class ImageRows(PictureSource):
    """Pictures and rows from a file or folder (rules in the module's text)."""

    class Config(PictureSource.Config):
        path: str = REQUIRED
        images: str | None = None  # the folder that paths in rows start from; None = that of the file they stand in
        location_fields = ("path", "images")

    cfg: Config

    def __init__(self, cfg: ImageRows.Config) -> None:
        super().__init__(cfg)
        self.path = Path(os.path.abspath(os.path.expanduser(cfg.path)))
        self.images = None if cfg.images is None else Path(os.path.abspath(os.path.expanduser(cfg.images)))
        self._without = 0  # rows, of those read last

    def _found(self) -> tuple[list[Path], list[str]]:
        """The files to read, of rows or else pictures, and what is there and is not read, in words."""
        for path in (self.path, self.images or self.path):
            if not path.exists():
                raise DataError(f"{printable(path)} does not exist; give an existing file or folder")
        if self.path.is_file():
            if kind(self.path) not in (*ROWS, ".json"):
                raise DataError(f"{printable(self.path)} holds no rows of pictures; readable are {READABLE}")
            return [self.path], []
        below, closed = walk(self.path)
        files = [path for path in below if kind(path) in ROWS] or [path for path in below if kind(path) in PICTURES]
        others = Counter(path.suffix or "without suffix" for path in below if kind(path) not in ROWS + PICTURES)
        suffixes = ", ".join(map(printable, sorted(others)))
        if not files:
            found = suffixes or "nothing"
            raise DataError(
                f"the folder {printable(self.path)} holds no picture: found {found}; readable are {READABLE}"
            )
        left_out = [f"{others.total()} file(s) of other kinds are not read: {suffixes}"] if others else []
        return files, left_out + [f"{self._name(path)} cannot be opened" for path in closed]

    def stamp(self) -> Any:
        root = self.images or (self.path if self.path.is_dir() else self.path.parent)
        files = {*self._found()[0], *(path for path in walk(root)[0] if kind(path) in PICTURES)}
        stats = [(path, path.stat()) for path in sorted(files)]
        return [str(self.path), [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]]

    def settled(self) -> bool:
        newest = max(changed for _, _, changed in self.stamp()[1])
        return time.time_ns() - newest > 2_000_000_000  # a later change will not leave size and time as they are

    def describe(self) -> dict[str, Any]:
        files, left_out = self._found()
        if self._without:
            left_out.append(f"{self._without} row(s) without a picture are left out")
        if self._elsewhere:
            left_out.append(f"{self._elsewhere} row(s) are left out, since their picture is in another split")
        return {
            "name": printable(self.path.name),
            "licence": "not stated: local files, see where they come from",
            "split_rule": "as the names state" if self._stated(files) else "90/5/5 by SHA-256 of the picture's file",
            "versions": {},
            "left_out": left_out,
        }

    def _name(self, path: Path) -> str:
        return printable(path.name if path == self.path else path.relative_to(self.path).as_posix())

    def _stated(self, files: list[Path]) -> dict[Path, str | None]:
        """The split of each file by its folders and, where it holds rows, its name; none unless all three are stated."""
        stated = {}
        for path in files:
            name = Path(self._name(path))
            stated[path] = named_split(str(name.parent if kind(path) in PICTURES else name.with_suffix("")))
        return stated if set(stated.values()) == set(SPLITS) else {}

    def read(self) -> Iterator[Picture]:
        files = sorted(self._found()[0], key=self._name)
        stated = self._stated(files)
        if stated:  # a picture that is in two splits stays in the first that is read
            files.sort(key=lambda path: -SPLITS.index(stated[path] or ""))
        self._without, empty = 0, True
        for path in files:
            name = self._name(path)
            if kind(path) in PICTURES:
                empty = False
                yield Picture(name, f"{printable(path)}:", {"file_name": name}, path.read_bytes(), stated.get(path))
                continue
            for number, place, row in _rows(path):
                field = _picture_field(row, place)
                if field is None:
                    self._without += 1
                    continue
                _check_texts(row, place)
                file = self._file(row[field], path.parent, place)
                if isinstance(row[field], dict):
                    del row[field]
                empty = False
                yield Picture(f"{name}#{number}", place, row, file, stated.get(path))
        if empty:
            raise DataError(
                f"{printable(self.path)}: none of its {self._without} row(s) has a picture; name it in the field image or file_name"
            )

    def _file(self, value: Any, folder: Path, place: str) -> bytes:
        """The file of the picture that a row holds, or names."""
        if isinstance(value, dict) and value["bytes"] is not None:
            return bytes(value["bytes"])
        named = value["path"] if isinstance(value, dict) else value
        root = self.images or folder
        path = Path(os.path.abspath(root / named))
        try:
            if path.is_relative_to(root):
                return path.read_bytes()
        except OSError:
            pass
        raise DataError(
            f"{place} names the picture {named!r}, and {printable(root)} holds no such file; put it there, or set images to its folder"
        )


def image_source(data: object, *, height: int, width: int, **fields: Any) -> PictureSource.Config:
    """The config of the source that ``data`` means (the module's text), for pictures of one size in pixels.

    A data set in memory is written into the cache, the files of its pictures included. Raises DataError for what is none of these.
    """
    size = {"height": height, "width": width, **fields}
    if isinstance(data, str) and data == "digits":
        return Digits.Config(**size)
    if isinstance(data, str | Path):
        return ImageRows.Config(path=os.path.abspath(os.path.expanduser(data)), **size)
    library: Any = sys.modules.get("datasets")
    if library is not None and isinstance(data, library.DatasetDict):
        data = library.DatasetDict({name: _with_files(part) for name, part in data.items()})
    elif library is not None and isinstance(data, library.Dataset):
        data = _with_files(data)
    return ImageRows.Config(path=dataset_source(data).path, **size)


def _with_files(dataset: Any) -> Any:
    """The data set with the files of its pictures in it, where it holds their paths."""
    from datasets import Dataset
    from datasets.table import embed_table_storage

    try:
        return Dataset(embed_table_storage(dataset.with_format("arrow")[:]))
    except OSError as error:
        raise DataError(f"a picture of the data set in memory cannot be read ({error}); put it there") from None


def _rows(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, place, row) of every row of a file; ``place`` opens a message."""
    if kind(path) == ".tar":
        yield from _tar(path)
    elif kind(path) == ".json":
        try:
            rows = json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{printable(path)} is not JSON ({error}); mend it") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{printable(path)} is no list of objects; write one object for each picture")
        yield from ((i, f"{printable(path)}, item {i},", row) for i, row in enumerate(rows))
    else:
        yield from read_rows(path)


def _tar(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError:
        raise DataError(f"reading {printable(path)} needs the package datasets: pip install 'orchard[hub]'") from None
    try:
        files = {"train": str(path)}
        rows = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True).decode(False)
        for number, row in enumerate(rows):
            del row["__url__"]  # where the file lies
            yield number, f"{printable(path)}, sample {row['__key__']!r},", row
    except Exception as error:  # datasets has no one error for a damaged file
        reason = str(error).partition("\n")[0]
        raise DataError(f"{printable(path)} cannot be read as WebDataset ({reason}); pack it anew") from None


def _picture_field(row: dict[str, Any], place: str) -> str | None:
    """The field that holds the picture, or names it; None where there is none."""
    held = [field for field, value in row.items() if isinstance(value, dict) and set(value) == {"bytes", "path"}]
    held = held or [field for field in ("image", "file_name") if isinstance(row.get(field), str)]
    if len(held) > 1:
        raise DataError(f"{place} has a picture in {' and '.join(held)}; keep one of them")
    return held[0] if held else None


def _check_texts(row: dict[str, Any], place: str) -> None:
    texts = {field: row[field] for field in TEXTS if field in row}
    try:
        turns = row.get("conversations", [])
        texts |= {f"conversations[{i}]": turn["value"].replace("<image>", "") for i, turn in enumerate(turns)}
    except (TypeError, KeyError, AttributeError):
        raise DataError(
            f'{place} its conversations are no list of {{"from": name, "value": text}}; write them so'
        ) from None
    for field, text in texts.items():
        if text is None or (isinstance(text, str) and not text.strip()):
            raise DataError(f"{place} the field {field!r} is empty; write it, or remove the row")
