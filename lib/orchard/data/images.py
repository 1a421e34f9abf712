"""Pictures of one size with a row each: what is known of a picture (a caption, a question and its answer), and its pixels.

What becomes of a picture that was read: turned as its EXIF tag says; the first frame; transparent over white; 16-bit grey divided by
257; grey, palette and CMYK to RGB as Pillow does, without colour profiles; then `fit`, bicubic. "crop" scales both sides alike until
the size is covered and cuts what sticks out evenly, "stretch" scales each side by itself. At that size already, the pixels stay.

Splits are 90/5/5 by SHA-256 of the picture's file, so that all questions about a picture stay together. Where the data state three
splits of their own, those are kept, and a picture that is in two of them stays in test, else in validation. The manifest's SHA-256 is
over the row and the file of every picture; its `bytes` counts both.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from orchard.config import REQUIRED
from orchard.data.cache import DataError, cached, sha256
from orchard.data.source import SPLITS, Manifest, Row, Source, split_of


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one size and what is known of each, drawn by a generator or read by a source. Raises DataError for other shapes."""

    pixels: UInt8[np.ndarray, "pictures height width 3"]
    rows: list[dict[str, Any]]

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.shape[3:] != (3,) or len(self.pixels) != len(self.rows):
            raise DataError(
                f"Pictures got {self.pixels.dtype} pixels {list(self.pixels.shape)} and {len(self.rows)} rows: give uint8 "
                "[pictures, height, width, 3], and one row for each picture"
            )


class Picture(NamedTuple):
    """A picture as read; ``place`` opens a message about it, ``split`` is set where the data state one."""

    name: str
    place: str
    row: dict[str, Any]
    file: bytes
    split: str | None = None


class PictureSource(Source):
    """Base of the sources of pictures. A subclass gives ``read()`` where a source of text gives ``rows()``.

    A document of such a source is JSON: the SHA-256 of the picture's file, then its row.
    """

    class Config(Source.Config):
        height: int = REQUIRED  # of the pixels
        width: int = REQUIRED
        fit: str = "crop"  # or "stretch"

    cfg: Config

    def __init__(self, cfg: PictureSource.Config) -> None:
        super().__init__(cfg)
        if cfg.height < 1 or cfg.width < 1 or cfg.fit not in ("crop", "stretch"):
            raise DataError(
                f"pictures of {cfg.height} x {cfg.width} pixels, fit={cfg.fit!r}: give sides of at least 1, and crop or stretch"
            )
        self._bytes, self._elsewhere = 0, 0  # of all pictures; rows whose picture is in another split

    def read(self) -> Iterator[Picture]:
        """All pictures, in an order that depends on the data alone, stated splits as test, validation, train. Raises DataError."""
        raise NotImplementedError

    def rows(self) -> Iterator[Row]:
        splits: dict[str, str] = {}
        self._bytes, self._elsewhere = 0, 0
        for picture in self.read():
            digest = sha256(picture.file)
            split = picture.split or split_of(digest)
            if splits.setdefault(digest, split) != split:
                self._elsewhere += 1
                continue
            self._bytes += len(picture.file)
            yield Row(picture.name, json.dumps([digest, picture.row], default=str), key=digest, split=split)
        if empty := [split for split in SPLITS if split not in splits.values()]:
            raise DataError(
                f"{self.describe()['name']}: {len(splits)} picture(s) are too few to split 90/5/5, {' and '.join(empty)} would be "
                "empty; give more, or files or folders whose names say train, valid and test"
            )

    def _load(self) -> tuple[dict[str, list[Any]], Manifest]:
        splits, manifest = super()._load()
        return splits, dataclasses.replace(manifest, bytes=manifest.bytes + self._bytes)

    def pictures(self, split: str) -> Pictures:
        """The pictures of ``"train"``, ``"validation"`` or ``"test"``, made once and then mapped from the cache. Raises DataError."""
        import PIL

        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        size = (self.cfg.height, self.cfg.width, 3)

        def write(folder: Path) -> None:
            places: dict[str, np.ndarray] = {}
            for name in SPLITS:
                documents = self.documents(name)
                rows = json.dumps([json.loads(document.text)[1] for document in documents])
                (folder / f"{name}.json").write_text(rows, encoding="utf-8")
                file = folder / f"{name}.npy"
                pixels = np.lib.format.open_memmap(file, "w+", dtype=np.uint8, shape=(len(documents), *size))
                places |= {document.name: pixels[i] for i, document in enumerate(documents)}
            for picture in self.read():
                if picture.name in places:
                    places[picture.name][:] = pixels_of(picture.file, picture.place, size[0], size[1], self.cfg.fit)

        folder = cached("pictures", [self.manifest().sha256, size, self.cfg.fit, PIL.__version__], write)
        pixels = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
        return Pictures(pixels, json.loads((folder / f"{split}.json").read_text(encoding="utf-8")))


def pixels_of(file: bytes, place: str, height: int, width: int, fit: str) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture's file by the module's rules. Raises DataError, opened by ``place``, where it is damaged."""
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(file))
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow has no one error for a damaged file
        raise DataError(f"{place} the picture cannot be read ({error}); copy it anew, or remove it") from None
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


class Digits(PictureSource):
    """Scikit-learn's 1,797 handwritten digits, rows {"label": 0 ... 9}, their 0 ... 16 as 0 ... 255. Source: Alpaydin and Kaynak 1998."""

    class Config(PictureSource.Config):
        height: int = 8
        width: int = 8

    def stamp(self) -> Any:
        return "as first read"

    def describe(self) -> dict[str, Any]:
        rule = "90/5/5 by SHA-256 of the picture"
        return {"name": "digits", "licence": "CC BY 4.0 (UCI)", "split_rule": rule, "versions": {}}

    def read(self) -> Iterator[Picture]:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError("the digits are in scikit-learn: pip install scikit-learn, or give a path") from None
        found = load_digits()
        for i, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
            file = b"P5 8 8 255\n" + (pixels * 255 / 16).round().astype(np.uint8).tobytes()
            yield Picture(f"digit#{i}", f"digit {i}:", {"label": int(label)}, file)
