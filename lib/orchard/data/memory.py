"""Text from a ``datasets.Dataset`` in memory: its rows are written once as parquet into the cache, and read from there as any local file.

So other processes find them, and what a run depends on is the text, not the object.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchard.data.cache import DataError, cached
from orchard.data.local import LocalText

ROWS_AT_ONCE = 1000


def dataset_source(data: Any, **fields: Any) -> LocalText.Config:
    """The config of a source with the rows of a ``Dataset``, or of a ``DatasetDict``, whose parts are files named as its splits.

    Raises DataError for anything else, and for a streamed data set, whose content is not known before it is read.
    """
    library: Any = sys.modules.get("datasets")  # where it was not imported, no object is of it
    if library is not None and isinstance(data, library.Dataset):
        parts = {"rows": data}
    elif library is not None and isinstance(data, library.DatasetDict):
        parts = {str(name): part for name, part in data.items()}
    elif library is not None and isinstance(data, library.IterableDataset | library.IterableDatasetDict):
        raise DataError(
            "DATA is a streamed data set: take as many rows as are needed, datasets.Dataset.from_list(list(data.take(10_000)))"
        )
    else:
        raise DataError(
            f'DATA is a {type(data).__name__}: give a path, "embedded", a hub id "owner/name", or a datasets.Dataset'
        )

    if empty := [name for name, part in parts.items() if not len(part)]:
        raise DataError(f"the data set in memory has no rows ({', '.join(empty)}): give one that does")

    def write(folder: Path) -> None:
        import pyarrow.parquet

        for name, part in parts.items():
            with pyarrow.parquet.ParquetWriter(folder / f"{name}.parquet", next(_tables(part)).schema) as writer:
                for table in _tables(part):
                    writer.write_table(table)

    folder = cached("datasets", {name: _sha256(part) for name, part in parts.items()}, write)
    return LocalText.Config(path=str(folder if len(parts) > 1 else folder / f"{next(iter(parts))}.parquet"), **fields)


def _tables(dataset: Any) -> Iterator[Any]:
    """The rows in their order as Arrow tables, without what `datasets` notes about them."""
    for table in dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        yield table.replace_schema_metadata(None)


def _sha256(dataset: Any) -> str:
    """SHA-256 (hex) of names, types and values of all columns."""
    digest = hashlib.sha256()
    for table in _tables(dataset):
        digest.update(f"{table.schema}\n{table.to_pylist()!r}\n".encode())
    return digest.hexdigest()
