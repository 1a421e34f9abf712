"""What is in a folder of text, and in its files, is read or named: links, compression, encodings, rows without text, odd names."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest

from orchard.data import SPLITS, DataError, LocalText, Source, text_source
from orchard.data.reading import printable, read_text, walk

TEXTS = [f"text with the number {i}, which nobody wrote" for i in range(200)]
pytestmark = pytest.mark.filterwarnings("ignore:.*(left out|not read|cannot be opened)")
HERE = Path("here")  # every test stands in a folder of its own


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    HERE.mkdir()


def jsonl(texts: list[Any]) -> str:
    return "".join(json.dumps({"text": text, "url": f"https://example.org/{i}"}) + "\n" for i, text in enumerate(texts))


def found(path: Path | str = HERE) -> list[str]:
    """The texts of a source, sorted."""
    source: Source = text_source(str(path)).build()
    return sorted(document.text for split in SPLITS for document in source.documents(split))


# --- rows without text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "blank"])
def test_rows_without_text_are_left_out_and_counted(kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"text": text if i % 4 else None, "url": f"https://example.org/{i}"} for i, text in enumerate(TEXTS)
    ]
    if kind == "blank":
        for row in rows[::4]:
            row["text"] = " \n"
    path = HERE / ("a.parquet" if kind == "parquet" else "a.jsonl")
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match=r"50 row\(s\) without text are left out"):
        assert found() == sorted(text for i, text in enumerate(TEXTS) if i % 4)
    manifest = text_source(str(HERE)).build().manifest()
    assert (manifest.rows, manifest.dropped, manifest.left_out) == (150, 0, ["50 row(s) without text are left out"])


def test_the_files_decide_one_by_one_which_field_is_the_text() -> None:
    (HERE / "a.jsonl").write_text(jsonl(TEXTS[:100]))
    (HERE / "b.jsonl").write_text("".join(json.dumps({"question": text, "n": 1}) + "\n" for text in TEXTS[100:]))
    assert found() == sorted(TEXTS)


@pytest.mark.parametrize(("field", "named"), [("text", "of text"), ("body", r"'body' \(text_field\)")])
def test_a_row_without_the_field_that_others_have_is_an_error(field: str, named: str) -> None:
    path = HERE / "a.jsonl"
    path.write_text(
        "".join(json.dumps({field: text} if i != 7 else {"url": "u"}) + "\n" for i, text in enumerate(TEXTS))
    )
    config = LocalText.Config(path=str(path), text_field=None if field == "text" else field)
    with pytest.raises(DataError, match=rf"a\.jsonl, line 8, has no field {named}; its fields: url"):
        config.build().manifest()


def test_no_row_has_text() -> None:
    (HERE / "a.jsonl").write_text(jsonl([None, "", None]))
    with pytest.raises(DataError, match="here: none of its 3 rows has text; give rows that do, or text_field"):
        text_source("here").build().manifest()


# --- folders -------------------------------------------------------------------------------------------------------


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    far = tmp_path / "far"
    (far / "deep").mkdir(parents=True)
    (far / "deep" / "b.jsonl").write_text(jsonl(TEXTS[100:]))
    (HERE / "real").mkdir()
    (HERE / "real" / "a.jsonl").write_text(jsonl(TEXTS[:100]))
    without = {document.name for split in SPLITS for document in text_source("here").build().documents(split)}
    links = {"a_link": far, "more": far / "deep", "an_alias": HERE / "real", "up": HERE, "loop": HERE / "a_link"}
    for name, target in links.items():
        (HERE / name).symlink_to(target.absolute())
    files, closed = walk(HERE)
    assert (files, closed) == ([HERE / "real" / "a.jsonl", HERE / "a_link" / "deep" / "b.jsonl"], [])
    assert found() == sorted(TEXTS)
    names = {document.name for split in SPLITS for document in text_source("here").build().documents(split)}
    assert without < names  # a link renames nothing that is there without it
    assert {name.split("#")[0] for name in names} == {"real/a.jsonl", "a_link/deep/b.jsonl"}


def test_what_cannot_be_opened_is_named() -> None:
    (HERE / "a.jsonl").write_text(jsonl(TEXTS))
    (HERE / "gone.jsonl").symlink_to("nowhere")
    (HERE / "round.jsonl").symlink_to("round.jsonl")
    (HERE / ".hidden").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"here: 2 folder\(s\) or link\(s\) cannot be opened: gone.jsonl, round.jsonl"):
        assert found() == sorted(TEXTS)


def test_a_folder_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (HERE / "a.jsonl").write_text(jsonl(TEXTS))
    (HERE / "closed").mkdir()
    listed = Path.iterdir

    def iterdir(self: Path) -> Any:
        if self.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert text_source("here").build().manifest().left_out == ["1 folder(s) or link(s) cannot be opened: closed"]
    with pytest.raises(
        DataError, match=r"closed holds no text: found 1 folder\(s\) or link\(s\) cannot be opened: closed;"
    ):
        text_source("here/closed").build().manifest()


def test_files_of_other_kinds_are_named() -> None:
    (HERE / "a.jsonl").write_text(jsonl(TEXTS))
    for name in (
        "b.json",
        "c.json",
        "table.parquet.gz",
        "Makefile",
        "README.md",
        "README.json",
        "LICENSE",
        ".cache.json",
    ):
        (HERE / name).write_text("[]")
    remark = "4 file(s) of other kinds are not read: .gz, .json, without suffix"
    with pytest.warns(UserWarning, match=re.escape(f"here: {remark}")):
        assert found() == sorted(TEXTS)
    assert text_source("here").build().manifest().left_out == [remark]
    assert text_source("here/a.jsonl").build().manifest().left_out == []
    for path in HERE.iterdir():
        os.utime(path, (1, 1))
    text_source("here").build().manifest()  # into the cache
    (HERE / "d.csv").touch()
    assert text_source("here").build().manifest().left_out == [remark.replace("4", "5").replace(".gz", ".csv, .gz")]


def test_a_warning_comes_from_the_cache_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (HERE / "a.jsonl").write_text(jsonl([*TEXTS, None]))
    os.utime(HERE / "a.jsonl", (1, 1))
    with pytest.warns(UserWarning, match="without text"):
        text_source("here").build().manifest()
    monkeypatch.setattr(LocalText, "rows", lambda self: pytest.fail("read again"))
    with pytest.warns(UserWarning, match="without text"):
        text_source("here").build().manifest()


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_that_are_no_utf8() -> None:
    odd = os.fsdecode(b"caf\xe9.jsonl")
    try:
        (HERE / odd).write_text(jsonl(TEXTS))
    except OSError:
        pytest.skip("this file system takes no such name")
    source = text_source("here").build()
    assert found() == sorted(TEXTS)
    assert {d.name.split("#")[0] for split in SPLITS for d in source.documents(split)} == {r"caf\xe9.jsonl"}
    with pytest.raises(DataError, match=r"the path .*/here/caf\\xe9.jsonl is no UTF-8, .*: rename its parts"):
        text_source(f"here/{odd}")
    (HERE / odd).write_bytes(b"\xff\xff")
    with pytest.raises(DataError) as caught:
        source.manifest()
    assert r"caf\xe9.jsonl is not UTF-8: byte 0xff at offset 0" in str(caught.value).encode().decode()
    assert printable("naïve.txt") == "naïve.txt"


# --- compression and encodings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_shards(suffix: str) -> None:
    def packed(text: str) -> bytes:
        data = text.encode()
        return gzip.compress(data) if suffix == ".gz" else pyarrow.Codec("zstd").compress(data, asbytes=True)

    (HERE / "train.jsonl").write_text(jsonl(TEXTS[:50]))
    (HERE / f"train-1.jsonl{suffix}").write_bytes(packed(jsonl(TEXTS[50:80])) + packed(jsonl(TEXTS[80:100])))
    (HERE / f"valid.jsonl{suffix}").write_bytes(packed(jsonl(TEXTS[100:150])))
    (HERE / f"test.JSONL{suffix.upper()}").write_bytes(packed(jsonl(TEXTS[150:])))
    (HERE / f"README.md{suffix}").write_bytes(packed("about"))
    source = text_source("here").build()
    assert source.manifest().splits == {"train": 100, "validation": 50, "test": 50}
    assert source.manifest().left_out == []
    assert found() == sorted(TEXTS)
    assert found(HERE / f"train-1.jsonl{suffix}") == sorted(TEXTS[50:100])
    plain, shrunk = HERE.parent / "plain.txt", HERE.parent / f"plain.txt{suffix}"
    plain.write_text("\n\n".join(TEXTS))
    shrunk.write_bytes(packed("\n\n".join(TEXTS)))
    assert found(shrunk) == found(plain)
    shrunk.write_bytes(packed("\n\n".join(TEXTS))[:-20])
    with pytest.raises(DataError, match=rf"plain.txt\{suffix} cannot be decompressed \(.*\); copy or make it anew"):
        text_source(str(shrunk)).build().manifest()
    (HERE.parent / f"a{suffix}").write_bytes(packed("x"))
    with pytest.raises(
        DataError, match=rf"has the suffix '\{suffix}'; readable are \.txt .* \(all but parquet with \.gz"
    ):
        text_source(f"a{suffix}").build().manifest()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_names_the_encoding(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (HERE / "a.txt").write_bytes((mark + "\r\n\r\n".join(TEXTS)).encode(encoding))
    (HERE / "b.jsonl").write_bytes((mark + jsonl(["ümlaut 𝄞"])).encode(encoding))
    assert read_text(HERE / "a.txt") == "\n\n".join(TEXTS)
    assert "ümlaut 𝄞" in found()


def test_text_with_many_nuls_is_refused() -> None:
    path = HERE / "a.txt"
    for data in ("\n".join(TEXTS).encode("utf-16-le"), "\n".join(TEXTS).encode("utf-16").decode("latin1").encode()):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.txt holds \d+ NUL characters among \d+: it is no text, or UTF-16"):
            text_source("here").build().manifest()
    path.write_text("\n\n".join(TEXTS) + "\0")
    assert any(text.endswith("\0") for text in found())
    path.write_bytes("\n".join(TEXTS).encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"a\.txt is not UTF-16: byte .* at offset \d+; convert the file$"):
        text_source("here").build().manifest()
    path.unlink()
    (HERE / "a.jsonl").write_bytes(jsonl(TEXTS).encode() + b"\0" * 4096)
    with pytest.raises(DataError, match=r"a\.jsonl, line 201, is not JSON"):
        text_source("here").build().manifest()


def test_json_that_is_nested_too_deeply() -> None:
    deep = '{"text":"x","meta":' + "[" * 200_000 + "]" * 200_000 + "}\n"
    (HERE / "a.jsonl").write_text(jsonl(TEXTS) + deep)
    with pytest.raises(DataError, match=r"a\.jsonl, line 201, is JSON that is nested too deeply .*; mend or remove"):
        text_source("here").build().manifest()


# --- data in memory, and short names -------------------------------------------------------------------------------


def test_a_dataset_in_memory() -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": [*TEXTS, None], "n": list(range(201))})
    config = text_source(data)
    manifest = config.build().manifest()
    assert (manifest.rows, manifest.left_out) == (200, ["1 row(s) without text are left out"])
    assert sorted(d.text for split in SPLITS for d in config.build().documents(split)) == sorted(TEXTS)
    again = datasets.Dataset.from_list([*data.to_list(), {"text": "y", "n": 0}]).select(range(201))
    assert text_source(again) == config  # another object, the same content
    assert text_source(data.shuffle(seed=1)) != config
    changed = text_source(data.map(lambda row: {"text": (row["text"] or "").upper()})).build().manifest()
    assert changed.sha256 != manifest.sha256
    body = text_source(data.rename_column("text", "body"), text_field="body").build().manifest()
    assert body.sha256 == manifest.sha256


def test_a_dataset_in_memory_with_its_own_splits() -> None:
    import datasets

    parts = {"train": TEXTS[:100], "validation": TEXTS[100:150], "test_sft": TEXTS[150:]}
    data = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": part}) for name, part in parts.items()})
    manifest = text_source(data).build().manifest()
    assert manifest.splits == {"train": 100, "validation": 50, "test": 50}
    assert manifest.left_out == []


def test_what_is_no_data() -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": TEXTS})
    with pytest.raises(
        DataError, match=r"is a streamed data set: take as many rows as are needed, datasets.Dataset.from"
    ):
        text_source(data.to_iterable_dataset())
    with pytest.raises(DataError, match=r"in memory has no rows \(rows\)"):
        text_source(data.select([]))
    with pytest.raises(DataError, match=r'DATA is a list: give a path, "embedded", a hub id'):
        text_source(TEXTS)
    (HERE / "a.jsonl").write_text(jsonl(TEXTS))
    assert text_source(HERE) == text_source("here")


def test_two_corpora_of_one_name_have_two_short_names() -> None:
    for folder, change in (("A", str), ("B", str.upper)):
        (HERE / folder / "text").mkdir(parents=True)
        (HERE / folder / "text" / "rows.jsonl").write_text(jsonl([change(text) for text in TEXTS]))
    first, second = (text_source(f"here/{folder}/text").build().manifest() for folder in ("A", "B"))
    assert first.name == second.name == "text"
    assert first.sha256[:8] != second.sha256[:8]
