"""`orchard sbp run`: one message for each thing that is wrong, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from test_sbp_data_text import jsonl

from orchard.cli import main

QUICK = [
    "--documents", "30", "--cap", "24", "--tokenizer", "bytes", "--pretrain-steps", "6", "--tuning-steps", "4", "--batch", "8",
    "--k", "3", "--exceedance", "0.3", "--sampling-batch", "128", "--tokens", "200", "--device", "cpu",
]  # fmt: skip


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["sbp", "run", *arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("orchard: ")
    return lines[0]


def test_one_command_does_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(90):
        jsonl(folder / "one.jsonl", 1, i)
        (folder / f"{i}.md").write_text((folder / "one.jsonl").read_text()[10:-3], encoding="utf-8")
    (folder / "one.jsonl").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["sbp", "run", str(folder), str(tmp_path / "deep" / "out.parquet"), *QUICK, "--licence", "MIT"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "deep" / "out.parquet")
    assert table["seed_name"].str.endswith(".md").all()
    for part in ("pair ", "tune ", "synthesise ", "filter ", "mix ", "the licence of the text is: MIT", "written: "):
        assert part in said


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(jsonl(tmp_path / "a.jsonl", 80))
    before = sorted(tmp_path.rglob("*"))
    out = str(tmp_path / "out")
    assert "does not exist" in refused([str(tmp_path / "none.txt"), out], capsys)
    (tmp_path / "empty.txt").touch()
    assert "is empty" in refused([str(tmp_path / "empty.txt"), out], capsys)
    (tmp_path / "empty.txt").unlink()
    assert "needs at least 201 documents" in refused([text, out, *QUICK, "--k", "200"], capsys)
    assert "holds no model" in refused([text, out, "--model", str(tmp_path)], capsys)
    assert "--save-model" in refused([text, out, "--save-model", str(tmp_path / "m")], capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_out_that_exists_or_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(jsonl(tmp_path / "a.jsonl", 80))
    (tmp_path / "out.json").write_text("mine", encoding="utf-8")
    assert "out.json exists: choose another OUT" in refused([text, str(tmp_path / "out")], capsys)
    assert (tmp_path / "out.json").read_text("utf-8") == "mine"
    (tmp_path / "file").touch()
    assert "cannot be written" in refused([text, str(tmp_path / "file" / "out")], capsys)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "cannot be written" in refused([text, str(tmp_path / "locked" / "out")], capsys)
