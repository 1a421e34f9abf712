"""``text_source(DATA)``: which source a notebook's DATA parameter means, or data that are in memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from orchard.data.cache import DataError
from orchard.data.embedded import EmbeddedText
from orchard.data.hub import HubText
from orchard.data.local import LocalText
from orchard.data.memory import dataset_source
from orchard.data.reading import printable
from orchard.data.source import Source

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")


def text_source(data: object, **fields: Any) -> Source.Config:
    """The config of the source that ``data`` means, with ``fields`` set on it.

    ``"embedded"``; a path that exists (made absolute, so that other processes find it); ``"owner/name"`` on the hub; a
    ``datasets.Dataset`` or ``DatasetDict`` (see `orchard.data.memory`).
    DataError for anything else, and for what looks like a path (it ends in a suffix or starts with ``.``, ``/`` or
    ``~``) and does not exist. AttributeError for a field that the source does not have. No file is read.
    """
    if isinstance(data, os.PathLike):
        data = os.fspath(data)
    if not isinstance(data, str):
        return dataset_source(data, **fields)
    if data == "embedded":
        return EmbeddedText.Config(**fields)
    path = Path(data).expanduser()
    if data and path.exists():
        path = path.resolve()
        if str(path) != printable(path):
            raise DataError(f"the path {printable(path)} is no UTF-8, so that a run cannot name it: rename its parts")
        return LocalText.Config(path=str(path), **fields)
    looks_like_path = data.startswith((".", "/", "~")) or SUFFIX.search(data) or "\\" in data
    if HUB_ID.fullmatch(data) and not looks_like_path:
        return HubText.Config(name=data, **fields)
    fix = 'give an existing file or folder, "embedded", or a hub id "owner/name"'
    if data and (looks_like_path or "/" in data):
        raise DataError(f"DATA = {data!r} does not exist (looked for {printable(path.resolve())}); {fix}")
    raise DataError(f"DATA = {data!r} is neither a path that exists nor a hub id; {fix}")
