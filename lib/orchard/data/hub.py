"""Text from the Hugging Face hub, through ``datasets``; a row is a document (its text as in ``orchard.data.local``).

Rows are streamed in the order they are published until there are ``max_bytes`` of text, so a corpus of terabytes costs
no more than is used. If the set publishes train, validation and test they are kept (90, 5 and 5 % of ``max_bytes``);
otherwise the rows of ``train``, or of its first split, are split by a hash of their text. The manifest is cached, so
that an unchanged config needs no network; give ``revision`` a commit to say which version is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from orchard.config import REQUIRED
from orchard.data.cache import DataError
from orchard.data.local import row_text
from orchard.data.source import SHARES, SPLITS, Row, Source, named_split

SECONDS = 10.0  # how long the hub may take to say whether it has a data set


class HubText(Source):
    """Text from a data set ``owner/name`` on the hub (rules in the module's text)."""

    class Config(Source.Config):
        name: str = REQUIRED
        subset: str | None = None
        revision: str | None = None
        text_field: str | None = None
        max_bytes: int = 64_000_000

    cfg: Config

    def __init__(self, cfg: HubText.Config) -> None:
        super().__init__(cfg)
        self._licence, self._own_splits, self._without_text = "", False, 0

    def stamp(self) -> Any:
        return "as first read"

    def describe(self) -> dict[str, Any]:
        by_hash = "90/5/5 by SHA-256 of the row's text"
        return {
            "name": self.cfg.name,
            "licence": self._licence or "not stated by the hub: see the data set's card",
            "split_rule": "as published" if self._own_splits else by_hash,
            "versions": {"revision": self.cfg.revision or "newest when first read"},
            "left_out": [f"{self._without_text} row(s) without text are left out"] if self._without_text else [],
        }

    def _asked(self, call: Callable[[], Any]) -> Any:
        """``call()``, any failure of which becomes one message."""
        try:
            return call()
        except DataError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            cfg = self.cfg
            raise DataError(
                f"cannot load {cfg.name!r} from the hub ({type(error).__name__}: {reason}). It is not a file or folder "
                "here either. Without a network, or if the id is wrong, point DATA at local files (.txt, .jsonl, "
                '.parquet or a folder of them), or use DATA = "embedded"'
            ) from None

    def rows(self) -> Iterator[Row]:
        try:
            import datasets
            from huggingface_hub import HfApi
        except ImportError:
            raise DataError(
                f"loading {self.cfg.name!r} from the hub needs the package datasets: pip install 'orchard[hub]'; "
                "or point DATA at local files (.txt, .jsonl, .parquet or a folder of them)"
            ) from None
        cfg, self._without_text = self.cfg, 0
        # asked first because load_dataset tries again and again for half a minute when there is no network
        info = self._asked(lambda: HfApi().dataset_info(cfg.name, revision=cfg.revision, timeout=SECONDS))
        self._licence = str(getattr(getattr(info, "card_data", None), "license", None) or "")
        published = self._asked(
            lambda: datasets.load_dataset(cfg.name, cfg.subset, revision=cfg.revision, streaming=True)
        )
        own = {split: name for name in published if (split := named_split(name))}
        self._own_splits = set(own) == set(SPLITS)
        if self._own_splits:
            for split in reversed(SPLITS):  # of duplicates the first is kept: not the one in train
                yield from self._stream(published[own[split]], own[split], int(SHARES[split] * cfg.max_bytes), split)
        else:
            name = own.get("train") or next(iter(published))
            yield from self._stream(published[name], name, cfg.max_bytes, None)

    def row_document(self, row: dict[str, Any], path: Path, place: str) -> str:
        """The text of the document that a row is, as in ``LocalText``; ``path`` is the data set's name. Raises DataError."""
        return row_text(row, self.cfg.text_field or ("text" if "text" in row else None), place)

    def _stream(self, rows: Iterable[dict[str, Any]], name: str, limit: int, split: str | None) -> Iterator[Row]:
        taken, number, iterator = 0, 0, iter(rows)
        while taken < limit:
            row = self._asked(lambda: next(iterator, None))
            if row is None:
                return
            number += 1
            text = self.row_document(row, Path(self.cfg.name), f"{self.cfg.name}, {name} row {number},")
            if not text.strip():
                self._without_text += 1
                continue
            taken += len(text.encode())
            yield Row(f"{name}#{number}", text, key=text, split=split)
