"""Pictures: every kind of source, what becomes of a picture, splits and manifests, and one clear error for each fault."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchard.data import SPLITS, DataError, Digits, ImageRows, Pictures, PictureSource, image_source
from orchard.data.cache import sha256
from orchard.data.images import pixels_of
from orchard.data.source import split_of

COUNT = 60


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))


def picture(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes | str | list[dict[str, Any]]]) -> Path:
    """Files by name: bytes, text, or rows as JSON lines; dated back, since manifests of files just written are not cached."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, (time.time() - 60, time.time() - 60))
    return folder


def files(count: int = COUNT) -> dict[str, Any]:
    return {f"p{i}.png": encoded(picture(i)) for i in range(count)}


def captions(count: int = COUNT, field: str = "file_name") -> list[dict[str, Any]]:
    return [{field: f"p{i}.png", "caption": f"picture {i}"} for i in range(count)]


def source(data: object, **fields: Any) -> PictureSource:
    built: PictureSource = image_source(data, height=4, width=6, **fields).build()
    return built


def check(found: PictureSource, said: str = "caption") -> None:
    """The 60 pictures, each with its caption, split by the hash of their files."""
    seen = []
    for split in SPLITS:
        pictures = found.pictures(split)
        for pixels, row in zip(pictures.pixels, pictures.rows, strict=True):
            i = int(str(row[said]).split()[-1])
            assert np.array_equal(pixels, picture(i))
            seen.append(i)
    assert sorted(seen) == list(range(COUNT))


# --- sources ------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_with_and_without_rows(tmp_path: Path) -> None:
    plain = source(write(tmp_path / "plain", files()))
    rows = [row for split in SPLITS for row in plain.pictures(split).rows]
    assert sorted(row["file_name"] for row in rows) == sorted(files())
    check(source(write(tmp_path / "told", files() | {"metadata.jsonl": captions()})))


def test_llava_rows_with_their_pictures_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "images/deep", files())
    rows: list[dict[str, Any]] = [
        {
            "id": i,
            "image": f"deep/p{i}.png",
            "conversations": [{"from": "human", "value": "<image>\nwhich?"}, {"from": "gpt", "value": f"picture {i}"}],
        }
        for i in range(COUNT)
    ]
    rows.append({"id": "text alone", "conversations": [{"from": "human", "value": "hello"}]})
    write(tmp_path, {"rows/llava.json": json.dumps(rows), "rows/llava.jsonl": rows})
    for name in ("llava.json", "llava.jsonl"):
        found = source(tmp_path / "rows" / name, images=str(tmp_path / "images"))
        check(found, "id")
        with pytest.warns(UserWarning, match=r"1 row\(s\) without a picture are left out"):
            manifest = found.manifest()
        assert manifest.rows == COUNT


def test_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(COUNT):
            for suffix, data in (("png", encoded(picture(i))), ("txt", f"picture {i}".encode())):
                about = tarfile.TarInfo(f"{i:04}.{suffix}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    check(source(tmp_path / "a.tar"), "txt")


def test_data_sets_in_memory_and_parquet(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, load_dataset
    from datasets import Image as ImageFeature

    held = {"picture": [{"bytes": encoded(picture(i)), "path": None} for i in range(COUNT)]}
    told = {"caption": [f"picture {i}" for i in range(COUNT)]}
    in_memory = Dataset.from_dict(held | told).cast_column("picture", ImageFeature())
    check(source(in_memory))
    in_memory.to_parquet(tmp_path / "rows.parquet")
    check(source(tmp_path / "rows.parquet"))

    folder = write(tmp_path / "folder", files() | {"metadata.jsonl": captions()})
    named = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "hf"))
    check(source(named))  # it holds paths of files
    parts = {"train": range(40), "validation": range(40, 50), "test": range(50, 60)}
    divided = source(DatasetDict({split: named.select(part) for split, part in parts.items()}))
    check(divided)
    assert [len(divided.pictures(split).rows) for split in SPLITS] == [40, 10, 10]
    (folder / "p7.png").unlink()
    with pytest.raises(DataError, match=r"a picture of the data set in memory cannot be read .*p7\.png"):
        image_source(named, height=4, width=6)


def test_digits() -> None:
    digits: PictureSource = Digits.Config().build()
    manifest = digits.manifest()
    assert (manifest.rows, manifest.name, manifest.licence) == (1797, "digits", "CC BY 4.0 (UCI)")
    train = digits.pictures("train")
    assert train.pixels.shape[1:] == (8, 8, 3)
    assert train.pixels.max() == 255
    assert {row["label"] for row in train.rows} == set(range(10))
    larger = image_source("digits", height=16, width=16).build()
    assert larger.pictures("test").pixels.shape[1:] == (16, 16, 3)
    assert larger.manifest().sha256 == manifest.sha256


# --- splits and manifests -----------------------------------------------------------------------------------------


def test_the_manifest_knows_every_picture_and_row_and_no_path(tmp_path: Path) -> None:
    told = files() | {"metadata.jsonl": captions()}
    first, second = (source(write(tmp_path / name / "same", told)).manifest() for name in ("a", "b"))
    assert first == second
    assert first.rows == COUNT
    assert first.bytes > sum(len(data) for data in files().values())
    assert "picture's file" in first.split_rule
    changed = told | {"p3.png": encoded(picture(999))}
    assert source(write(tmp_path / "c/same", changed)).manifest().sha256 != first.sha256
    changed = told | {"metadata.jsonl": [*captions()[:-1], {"file_name": "p59.png", "caption": "another"}]}
    assert source(write(tmp_path / "d/same", changed)).manifest().sha256 != first.sha256


def test_an_edited_picture_is_seen(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", files() | {"metadata.jsonl": captions()})
    before = source(folder).manifest()
    (folder / "p0.png").write_bytes(encoded(picture(1000)))
    assert source(folder).manifest().sha256 != before.sha256
    assert any((source(folder).pictures(split).pixels == picture(1000)).all((1, 2, 3)).any() for split in SPLITS)


def test_questions_about_one_picture_stay_together(tmp_path: Path) -> None:
    rows = [row | {"question": f"{q}?"} for row in captions() for q in range(3)]
    found = source(write(tmp_path / "data", files() | {"metadata.jsonl": rows}))
    by_split = [{row["file_name"] for row in found.pictures(split).rows} for split in SPLITS]
    assert sum(map(len, by_split)) == COUNT
    assert found.manifest().rows == 3 * COUNT


def test_splits_of_the_names_are_kept_and_share_no_picture(tmp_path: Path) -> None:
    parts = {"train": range(30), "valid": range(28, 40), "test": range(38, 50)}
    pictures: dict[str, Any] = {
        f"{part}/{part}{i}.png": encoded(picture(i)) for part, ids in parts.items() for i in ids
    }
    found = source(write(tmp_path / "pictures", pictures))
    with pytest.warns(UserWarning, match=r"4 row\(s\) are left out, since their picture is in another split"):
        manifest = found.manifest()
    assert manifest.splits == {"train": 28, "validation": 10, "test": 12}
    assert manifest.split_rule == "as the names state"
    rows = {f"{part}/metadata.jsonl": [{"file_name": f"{part}{i}.png"} for i in ids] for part, ids in parts.items()}
    told = source(write(tmp_path / "told", pictures | rows))
    with pytest.warns(UserWarning, match="in another split"):
        assert told.manifest().splits == manifest.splits


# --- what becomes of a picture ------------------------------------------------------------------------------------


def pixels(
    image: np.ndarray | Image.Image, kind: str = "PNG", size: tuple[int, int] | None = None, **options: Any
) -> np.ndarray:
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    height, width = size or (made.height, made.width)
    return pixels_of(encoded(made, kind, **options), "here:", height, width, "crop")


def test_other_kinds_of_pixels_become_rgb() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    assert np.array_equal(pixels(grey), np.stack([grey] * 3, axis=2))
    assert np.array_equal(pixels(grey.astype(np.uint16) * 257), np.stack([grey] * 3, axis=2))
    alpha = np.dstack([picture(0), np.full((4, 6), 255, np.uint8)])
    assert np.array_equal(pixels(alpha), picture(0))
    alpha[0, 0, 3] = 0
    alpha[0, 1] = (0, 0, 0, 51)
    assert pixels(alpha)[0, :2].tolist() == [[255, 255, 255], [204, 204, 204]]
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    palette.putpalette([10, 20, 30])
    assert pixels(palette)[0, 0].tolist() == [10, 20, 30]
    assert pixels(palette, transparency=0)[0, 0].tolist() == [255, 255, 255]
    assert pixels(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")[0, 0].tolist() == [255, 0, 0]
    assert pixels(Image.new("1", (2, 2), 1))[0, 0].tolist() == [255, 255, 255]


def test_exif_turns_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert np.array_equal(pixels(picture(0), size=(6, 4), exif=exif), np.rot90(picture(0), -1))


def test_crop_keeps_shapes_and_stretch_keeps_borders() -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    file = encoded(wide)
    assert (pixels_of(file, "", 4, 4, "crop") == 200).all()
    stretched = pixels_of(file, "", 4, 12, "stretch")
    assert np.array_equal(stretched, wide)
    assert pixels_of(file, "", 8, 6, "stretch")[:, 0].max() < 100


# --- faults -------------------------------------------------------------------------------------------------------


def test_pictures_check_their_shapes() -> None:
    with pytest.raises(DataError, match=r"uint8 pixels \[2, 4, 6, 3\] and 1 rows"):
        Pictures(np.zeros((2, 4, 6, 3), np.uint8), [{}])


def test_sizes_and_splits_that_are_not() -> None:
    for size in ({"height": 0, "width": 4}, {"height": 4, "width": 4, "fit": "pad"}):
        with pytest.raises(DataError, match="give sides of at least 1, and crop or stretch"):
            Digits.Config(**size).build()
    with pytest.raises(DataError, match="no split 'dev'"):
        Digits.Config().build().pictures("dev")


ONE = {"p0.png": encoded(picture(0))}


@pytest.mark.parametrize(
    ("content", "path", "message"),
    [
        ({}, "gone", "gone does not exist; give an existing file or folder"),
        ({"d/notes.txt": "x"}, "d", r"the folder .*/d holds no picture: found \.txt; readable are \.png"),
        ({"a.csv": "x"}, "a.csv", r"a\.csv holds no rows of pictures; readable are"),
        (ONE, "", r"1 picture\(s\) are too few to split 90/5/5, .* would be empty; give more"),
        ({"m.jsonl": [{"file_name": "p.png"}]}, "m.jsonl", r"line 1, names the picture 'p\.png', and .* holds no such file"),
        ({"m.jsonl": [{"file_name": "../p.png"}], "../p.png": b"x"}, "m.jsonl", "holds no such file; .* set images"),
        (ONE | {"m.jsonl": [{"file_name": "p0.png", "caption": " "}]}, "", "line 1, the field 'caption' is empty; write it"),
        (ONE | {"m.jsonl": [{"file_name": "p0.png", "answer": None}]}, "", "line 1, the field 'answer' is empty"),
        (
            ONE | {"l.json": json.dumps([{"image": "p0.png", "conversations": [{"from": "human", "value": "<image>\n"}]}])},
            "l.json", r"l\.json, item 0, the field 'conversations\[0\]' is empty",
        ),
        (
            ONE | {"l.json": json.dumps([{"image": "p0.png", "conversations": ["hello"]}])},
            "l.json", "item 0, its conversations are no list of",
        ),
        ({"l.json": "{}"}, "l.json", "is no list of objects"),
        ({"l.json": "["}, "l.json", "is not JSON"),
        ({"m.jsonl": [{"img": "p0.png"}]}, "", r"none of its 1 row\(s\) has a picture; name it in the field image"),
        (ONE | {"m.jsonl": [{"image": "p0.png", "file_name": "p0.png"}]}, "", "has a picture in image and file_name; keep one"),
        ({"a.tar": b"no tar"}, "a.tar", r"a\.tar cannot be read as WebDataset"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, content: dict[str, Any], path: str, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, content)
    with pytest.raises(DataError, match=message):
        source(folder / path).manifest()


@pytest.mark.parametrize("damaged", [b"", b"no picture", encoded(picture(0))[:60], encoded(picture(0), "JPEG")[:-40]])
def test_a_damaged_picture_is_named(tmp_path: Path, damaged: bytes) -> None:
    found = source(write(tmp_path / "data", files() | {"p7.png": damaged, "metadata.jsonl": captions()}))
    with pytest.raises(DataError, match=r"line 8, the picture cannot be read .*; copy it anew, or remove it"):
        found.pictures("train")


def test_other_things_than_data() -> None:
    with pytest.raises(DataError, match="DATA is a int"):
        image_source(3, height=4, width=4)


def test_the_hash_of_a_picture_says_its_split(tmp_path: Path) -> None:
    found = ImageRows.Config(path=str(write(tmp_path / "data", files())), height=4, width=6).build()
    for split in SPLITS:
        assert all(split_of(sha256(files()[row["file_name"]])) == split for row in found.pictures(split).rows)
