"""Sources: what a document is, splits that share nothing, duplicates, manifests, and one clear error for each fault."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchard.data import SPLITS, DataError, EmbeddedText, HubText, LocalText, Source, text_source
from orchard.data import cache as cache_module
from orchard.data.local import pieces
from orchard.data.source import Row, folded, named_split, split_of, split_rows, without_duplicates
from orchard.paths import cache_dir, root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settle(*paths: Path) -> None:
    """Date files back: manifests of files changed within the last two seconds are not cached."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


def texts(source: Source) -> dict[str, list[str]]:
    return {split: [d.text for d in source.documents(split)] for split in SPLITS}


def every_text(source: Source) -> list[str]:
    return sorted(text for found in texts(source).values() for text in found)


# --- documents -----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab =\n", max_size=3000) | st.text(max_size=3000))
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


def test_pieces_end_at_blank_lines_else_at_line_ends_else_anywhere() -> None:
    blocks = "".join("word " * 20 + "\n" * (1 + i % 2) for i in range(2000))
    parts = pieces(blocks)
    assert len(parts) > 100
    assert all(part.endswith("\n\n") for part in parts[:-1])
    assert all(part.endswith("y\n") for part in pieces(("x" * 99 + "y\n") * 1000)[:-1])
    assert [len(part) for part in pieces("x" * 1000)] == [256, 256, 256, 232]
    assert all(4096 <= len(part) <= 4 * 4096 for part in pieces("line of text\n\n" * 200_000)[:-1])


def test_wikitext_articles() -> None:
    article = " \n = {} = \n \n Text of {} . \n \n = = Section = = \n \n More = text . \n"
    parts = pieces("".join(article.format(name, name) for name in ("One", "Two", "Three")))
    assert len(parts) == 3
    assert [part.split("\n")[1] for part in parts] == [" = One = ", " = Two = ", " = Three = "]
    assert "Section" in parts[0]


def test_rows_take_text_else_all_strings_else_the_named_field(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "n": i, "answer": f"a{i}"} for i in range(200)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    joined = LocalText.Config(path=str(path)).build()
    assert every_text(joined) == sorted(f"q{i}\na{i}" for i in range(200))
    named = LocalText.Config(path=str(path), text_field="answer").build()
    assert every_text(named) == sorted(f"a{i}" for i in range(200))
    write_rows(path, [{"text": f"t{i}", "other": "x"} for i in range(200)])
    assert every_text(LocalText.Config(path=str(path)).build()) == sorted(f"t{i}" for i in range(200))


def test_parquet_equals_jsonl(tmp_path: Path) -> None:
    rows = [{"text": f"ligne numéro {i}", "extra": "x"} for i in range(200)]
    write_rows(tmp_path / "rows.jsonl", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    one, two = (LocalText.Config(path=str(tmp_path / f"rows.{kind}")).build() for kind in ("jsonl", "parquet"))
    assert texts(one) == texts(two)


def test_many_files_are_documents_few_are_cut(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i:02}.txt").write_text("".join(f"file {i}, line {j}\n" for j in range(500)))
    whole = text_source(str(tmp_path)).build()
    assert whole.manifest().rows == 60
    assert all(split_of(d.name) == split for split in SPLITS for d in whole.documents(split))
    for i in range(50):
        (tmp_path / f"{i:02}.txt").unlink()
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.txt").write_text("hidden")
    cut = text_source(str(tmp_path)).build()
    documents = [d for split in SPLITS for d in cut.documents(split)]
    assert len(documents) > 60
    assert not any("README" in d.name or "hidden" in d.name for d in documents)


# --- splits and duplicates -----------------------------------------------------------------------------------------


def test_split_shares() -> None:
    splits = [split_of(f"name {i}") for i in range(20_000)]
    assert [round(splits.count(split) / 20_000, 2) for split in SPLITS] == [0.90, 0.05, 0.05]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=6), min_size=1, max_size=80))
def test_no_two_splits_share_a_document(values: list[str]) -> None:
    kept = without_duplicates([Row(str(i), text, key=str(i)) for i, text in enumerate(values)])
    assert [folded(row.text) for row in kept] == list(dict.fromkeys(folded(v) for v in values if v.strip()))
    try:
        splits = split_rows(kept, "rows")
    except DataError:
        return
    found = [{folded(d.text) for d in splits[split]} for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found))


def test_a_document_in_two_splits_is_noticed() -> None:
    rows = [Row("a", "same text", "k", "train"), Row("b", "same  text", "k", "test"), Row("c", "c", "k", "validation")]
    with pytest.raises(AssertionError, match="b is in two splits"):
        split_rows(rows, "rows")


def test_near_duplicates_go() -> None:
    lines = [f"this is the long line with the number {i}" for i in range(20)]
    near, other = [*lines[:18], "x" * 40, "y" * 40], [*lines[:10], *(f"{i}" * 40 for i in range(10))]
    rows = [Row(name, "\n".join(text), name) for name, text in (("a", lines), ("b", near), ("c", other))]
    assert [row.name for row in without_duplicates(rows)] == ["a", "c"]


def test_file_names_decide_only_when_they_state_all_three_splits(tmp_path: Path) -> None:
    for name, count in (("train", 50), ("valid", 7), ("test", 9)):
        rows = [{"text": f"{name} {i}"} for i in range(count)]
        write_rows(tmp_path / f"{name}.jsonl", [*rows, {"text": "test 0"}])
    source = text_source(str(tmp_path)).build()
    assert source.manifest().splits == {"train": 50, "validation": 7, "test": 9}  # the copy of "test 0" stays in test
    assert source.manifest().dropped == 3
    assert "names of the files" in source.manifest().split_rule
    (tmp_path / "valid.jsonl").unlink()
    pooled = text_source(str(tmp_path)).build()
    assert pooled.manifest().rows == 59
    assert any(text.startswith("test") for text in texts(pooled)["train"])


def test_named_split() -> None:
    names = ["wiki.train", "valid", "x-val-00001", "dev", "test_b", "training", "train_test", "notes"]
    expected = ["train", "validation", "validation", "validation", "test", None, None, None]
    assert [named_split(name) for name in names] == expected


def test_too_few_documents(tmp_path: Path) -> None:
    write_rows(tmp_path / "few.jsonl", [{"text": "one"}, {"text": "two"}])
    with pytest.raises(DataError, match=r"few.jsonl: 2 document\(s\) are too few to split 90/5/5"):
        text_source(str(tmp_path / "few.jsonl")).build().manifest()


# --- manifests -----------------------------------------------------------------------------------------------------


def test_manifest_depends_on_the_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "set").mkdir(parents=True)
        write_rows(folder / "set" / "rows.jsonl", [{"text": f"row {i}"} for i in range(100)])
    monkeypatch.chdir(here)
    one = text_source("set").build().manifest()
    monkeypatch.chdir(tmp_path)
    assert text_source("there/set").build().manifest() == one
    assert one.bytes == sum(len(f"row {i}") for i in range(100))
    write_rows(there / "set" / "rows.jsonl", [{"text": f"row {i}"} for i in range(99)] + [{"text": "row x"}])
    assert text_source("there/set").build().manifest().sha256 != one.sha256
    assert text_source("there/set").fingerprint() == text_source("here/set").fingerprint()


def test_manifest_is_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {i}"} for i in range(100)])
    config = LocalText.Config(path=str(path))
    first = config.build().manifest()
    assert not cache_dir().exists()  # too recent to be told from a change that is about to come
    settle(path)
    reads = []
    monkeypatch.setattr(LocalText, "rows", lambda self, rows=LocalText.rows: (reads.append(1), rows(self))[1])
    assert [config.build().manifest() for _ in range(3)] == [first] * 3
    assert len(reads) == 1
    path.write_text(path.read_text().replace("row 7", "ROW 7"))
    assert config.build().manifest() != first


def test_text_edited_behind_its_manifest_is_noticed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {i}"} for i in range(100)])
    settle(path)
    config, stat = LocalText.Config(path=str(path)), path.stat()
    config.build().manifest()
    path.write_text(path.read_text().replace("row 7", "ROW 7"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"rows.jsonl has changed since its manifest was made; run this again"):
        config.build().documents("train")
    assert config.build().documents("train")


def test_damaged_and_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {i}"} for i in range(100)])
    settle(path)
    config = LocalText.Config(path=str(path))
    first = config.build().manifest()
    (stored,) = cache_dir().glob("manifests/*/manifest.json")
    stored.write_text(stored.read_text().replace('"rows": 100', '"rows": 999'))
    with pytest.warns(UserWarning, match="damaged"):
        assert config.build().manifest() == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="ORCHARD_CACHE"):
        config.build().manifest()


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_module.cached("things", 1, fail)
    folder = cache_module.location("things", 1)
    leftover = folder.with_name(f"{folder.name}.tmp-1")  # of a process that was killed
    leftover.mkdir()
    done = cache_module.cached("things", 1, lambda folder: (folder / "part").write_text("whole") and None)
    assert (done / "part").read_text() == "whole"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_embedded_corpus() -> None:
    config = EmbeddedText.Config()
    source = config.build()
    manifest = source.manifest()
    assert config.build().manifest() == manifest
    assert 7_500_000 < manifest.bytes <= 8_000_000
    assert manifest.rows > 300
    assert {"python", "numpy", "scipy", "pandas", "matplotlib"} <= set(manifest.versions)
    assert "/" not in manifest.name + manifest.sha256
    documents = {split: source.documents(split) for split in SPLITS}
    assert all(split_of(d.name) == split for split in SPLITS for d in documents[split])
    found = [{folded(d.text) for d in documents[split]} for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == manifest.rows
    names = [d.name for split in SPLITS for d in documents[split]]
    assert not any(part in ("tests", "test", "idlelib") for name in names for part in name.split("/"))
    assert {name.split("/")[0] for name in names} == set(manifest.versions)
    sizes = {split: sum(len(d.text.encode()) for d in documents[split]) for split in SPLITS}
    assert all(200_000 < sizes[split] <= 400_000 for split in ("validation", "test"))
    smaller = EmbeddedText.Config(max_bytes=200_000).build()
    assert all({d.name for d in smaller.documents(split)} < set(names) for split in SPLITS)


def test_embedded_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out, and comments that open several files."""
    (tmp_path / "tests").mkdir()
    for i in range(100):
        licence = f"# Copyright {1990 + i}\n# by nobody\n\n" if i % 2 else f"# file {'x' * i}\n"
        (tmp_path / f"m{i}.py").write_bytes(f"{licence}value = {i}\r\n".encode())
    for name, content in (("tests/a.py", b"x"), ("latin.py", b"\xe9"), ("large.py", b"#" * 200_001), ("a.txt", b"x")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(EmbeddedText, "_folders", lambda self: {"python": str(tmp_path)})
    rows = {row.name: row.text for row in EmbeddedText.Config().build().rows()}
    assert sorted(rows) == sorted(f"python/m{i}.py" for i in range(100))
    assert rows["python/m7.py"] == "value = 7\n"
    assert rows["python/m8.py"] == "# file xxxxxxxx\nvalue = 8\n"
    monkeypatch.setattr(EmbeddedText, "_folders", lambda self: {"python": str(tmp_path / "tests" / "none")})
    with pytest.raises(DataError, match="no Python source was found"):
        EmbeddedText.Config(max_bytes=10).build().manifest()


def test_dataset(tmp_path: Path) -> None:
    import datasets

    write_rows(tmp_path / "rows.jsonl", [{"text": f"row {i}"} for i in range(100)])
    source = text_source(str(tmp_path / "rows.jsonl")).build()
    table = source.dataset("test")
    assert isinstance(table, datasets.Dataset)
    assert table["text"][:] == texts(source)["test"]


# --- which source, and errors --------------------------------------------------------------------------------------


def test_text_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert text_source("embedded", max_bytes=5) == EmbeddedText.Config(max_bytes=5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert text_source("owner/name") == LocalText.Config(path=str(tmp_path / "owner" / "name"))
    assert text_source("owner/other-1.5", subset="x") == HubText.Config(name="owner/other-1.5", subset="x")
    with pytest.raises(AttributeError, match="max_byte"):
        text_source("embedded", max_byte=1)


@pytest.mark.parametrize("data", ["missing.txt", "./missing", "../a/b", "~/missing", "/missing", "a/b/c", "a/b.jsonl"])
def test_a_path_that_does_not_exist(data: str) -> None:
    with pytest.raises(DataError, match=r"DATA = '.*' does not exist \(looked for /.*\); give an existing"):
        text_source(data)


@pytest.mark.parametrize("data", ["embeded", "", "a b"])
def test_neither_path_nor_id(data: str) -> None:
    with pytest.raises(DataError, match=r"is neither a path that exists nor a hub id"):
        text_source(data)


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl is empty"),
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8: byte 0xe9 at offset 3"),
        ("a.jsonl", GOOD + b'{"text": ', r"a\.jsonl, line 2, is not JSON"),
        ("a.jsonl", GOOD + b"[1]\n", r"a\.jsonl, line 2, is a JSON list"),
        ("a.jsonl", GOOD + b'{"n": 1, "m": 2}\n', r"a\.jsonl, line 2, has no field of text; its fields: n, m"),
        ("a.jsonl", GOOD + b'{"text": "\\ud800"}\n', r"a\.jsonl, line 2, holds an unpaired surrogate"),
        ("a.parquet", b"PAR1 not parquet", r"a\.parquet cannot be read as parquet"),
        ("a.docx", b"words", r"suffix '\.docx'; readable are \.txt"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        text_source(str(tmp_path / name)).build().manifest()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_bad_fields_and_folders(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.jsonl", [{"text": "x", "n": 1}]))
    with pytest.raises(DataError, match=r"line 1, has no field 'body' \(text_field\); its fields: text, n"):
        LocalText.Config(path=path, text_field="body").build().manifest()
    with pytest.raises(DataError, match="'n' holds int, not text"):
        LocalText.Config(path=path, text_field="n").build().manifest()
    write_rows(tmp_path / "number.jsonl", [{"text": "x", "other": "y"}, {"text": 5, "other": "y"}])
    with pytest.raises(DataError, match=r"number\.jsonl, line 2,: the field 'text' holds int, not text"):
        LocalText.Config(path=str(tmp_path / "number.jsonl")).build().manifest()
    (tmp_path / "number.jsonl").unlink()
    pd.DataFrame({"text": ["x"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet, row 1, has no field 'body'"):
        LocalText.Config(path=str(tmp_path / "b.parquet"), text_field="body").build().manifest()
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(DataError, match="has only plain text"):
        LocalText.Config(path=str(tmp_path / "c.txt"), text_field="text").build().manifest()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no text: found \.png"):
        text_source(str(tmp_path / "images")).build().manifest()
    with pytest.raises(DataError, match="there is no split 'dev'; the splits are train, validation, test"):
        EmbeddedText.Config().build().documents("dev")


# --- hub -----------------------------------------------------------------------------------------------------------


def test_hub_without_network() -> None:
    with pytest.raises(DataError, match=r"'owner/nothing' from the hub .* point DATA at local files") as caught:
        text_source("owner/nothing").build().manifest()
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


def test_hub_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"'owner/name' from the hub needs the package datasets: pip install"):
        text_source("owner/name").build().manifest()


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    class Info:
        card_data = type("Card", (), {"license": "odc-by"})

    calls = []

    def load(*args: object, **kwargs: object) -> object:
        calls.append((args, kwargs))
        names = ["train"] if args[1] is None else ["train", "validation", "test"]
        rows = {name: datasets.Dataset.from_dict({"text": [f"{name} {i:04}" for i in range(900)]}) for name in names}
        return datasets.IterableDatasetDict({name: table.to_iterable_dataset() for name, table in rows.items()})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, *a, **k: Info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    config = text_source("owner/name", revision="abc", max_bytes=4000)
    manifest = config.build().manifest()
    assert (manifest.rows, manifest.bytes, manifest.licence) == (400, 4000, "odc-by")
    assert manifest.versions == {"revision": "abc"}
    assert calls == [(("owner/name", None), {"revision": "abc", "streaming": True})]
    assert config.build().manifest() == manifest
    assert len(calls) == 1  # from the cache, no network
    null = {"text": [None if i % 9 == 0 else f"row {i:06}" for i in range(900)], "url": ["u"] * 900}
    partly = {"train": datasets.Dataset.from_dict(null).to_iterable_dataset()}
    with monkeypatch.context() as context:
        context.setattr(datasets, "load_dataset", lambda *a, **k: datasets.IterableDatasetDict(partly))
        with pytest.warns(UserWarning, match=r"owner/partly: 50 row\(s\) without text are left out"):
            manifest = text_source("owner/partly", max_bytes=4000).build().manifest()
    assert (manifest.rows, manifest.left_out) == (400, ["50 row(s) without text are left out"])
    published = text_source("owner/name", subset="s", max_bytes=4000).build()
    assert published.manifest().split_rule == "as published"
    assert all(text.startswith(split) for split, found in texts(published).items() for text in found)


# --- places --------------------------------------------------------------------------------------------------------


def test_root_and_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "a" / "b").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[project]\nname = "orchard"\n')
    (project / "a" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (project / "a" / "b" / "pyproject.toml").write_text("not = [toml")
    monkeypatch.chdir(project / "a" / "b")
    assert root() == project
    monkeypatch.delenv("ORCHARD_CACHE")
    assert cache_dir() == project / ".orchard" / "cache"
    monkeypatch.chdir(tmp_path)
    assert (root() / "pyproject.toml").is_file() or root() == Path.home() / ".cache" / "orchard"
