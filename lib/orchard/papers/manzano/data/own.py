"""Pictures of the reader's own, in the place of a world: what learns from scenes learns from them.

A folder of pictures with `metadata.jsonl`, parquet or tars as `orchard.data.image_rows` reads them. A row has a `caption` (or `text`,
`txt`), or a `question` and its `answer`.
"""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from orchard.config import REQUIRED, Configurable
from orchard.data import DataError
from orchard.data.image_rows import image_source
from orchard.data.images import Pictures, PictureSource, pixels_of

CAPTIONS = ("caption", "text", "txt")
LOOKED_AT = 200  # pictures, for their size


class OwnPictures(Configurable):
    """Pictures with texts. It answers as a `SceneWorld` does to what needs no records."""

    class Config(Configurable.Config):
        source: PictureSource.Config = REQUIRED

    def __init__(self, cfg: OwnPictures.Config) -> None:
        self.source: PictureSource = cfg.source.build()

    def scenes(self, split: str) -> Pictures:
        """The pictures of a split and their rows. Raises DataError as the source does."""
        return self.source.pictures(split)

    def pixels(self, scenes: Pictures) -> UInt8[np.ndarray, "pictures height width 3"]:
        """In memory."""
        return np.array(scenes.pixels)

    def texts(self, split: str) -> list[tuple[str, str]]:
        """Of every picture a question and its answer, or an empty prompt and its caption. Raises DataError for a row without text."""
        found = []
        for row in self.scenes(split).rows:
            captions = [row[name] for name in CAPTIONS if isinstance(row.get(name), str)]
            if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
                found.append((row["question"], row["answer"]))
            elif captions:
                found.append(("", captions[0]))
            else:
                raise DataError(
                    f"the picture {row.get('file_name', row)!r} has no text: write a metadata.jsonl beside the pictures, a line "
                    '{"file_name": "1.png", "caption": "..."} for each'
                )
        return found


def all_pictures(
    path: str | Path, height: int, width: int
) -> tuple[list[str], UInt8[np.ndarray, "pictures height width 3"]]:
    """Names and pixels of every picture of a path, whatever its split, with or without text. Raises DataError."""
    read = list(image_source(path, height=height, width=width).build().read())
    names = [str(p.row.get("file_name", p.name)) for p in read]
    return names, np.stack([pixels_of(p.file, p.place, height, width, "crop") for p in read])


def usual_side(path: str | Path) -> int:
    """Pixels of the shorter side of pictures, the median of the first. Raises DataError."""
    sides = []
    for picture in islice(image_source(path, height=1, width=1).build().read(), LOOKED_AT):
        pixels_of(picture.file, picture.place, 1, 1, "crop")  # says which one is damaged
        sides.append(min(Image.open(io.BytesIO(picture.file)).size))
    return int(np.median(sides))


def beside(
    originals: UInt8[np.ndarray, "pictures height width 3"],
    made: UInt8[np.ndarray, "pictures height width 3"],
    columns: int = 4,
) -> Image.Image:
    """A grid of pairs: an original, and what was made of it on its right."""
    edge = [(0, 0), (1, 1), (1, 1), (0, 0)]
    pairs = np.concatenate([np.pad(part, edge, constant_values=255) for part in (originals, made)], axis=2)
    blank = np.full((-len(pairs) % columns, *pairs.shape[1:]), 255, dtype=np.uint8)
    return Image.fromarray(rearrange(np.concatenate((pairs, blank)), "(r k) h w c -> (r h) (k w) c", k=columns))
