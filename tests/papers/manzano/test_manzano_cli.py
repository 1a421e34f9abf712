"""`orchard manzano`: a folder of pictures with captions comes back as decoded pictures; one message for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from manzano_own import language_model, picture_folder
from PIL import Image
from safetensors import safe_open

from orchard.cli import main
from orchard.papers.manzano.cli import FIRST, bench
from orchard.papers.manzano.integrations.causal_lm import load_unified
from orchard.papers.manzano.integrations.export import SavedTokenizer, load_tokenizer, save_tokenizer
from orchard.papers.manzano.method.models import Picture, Size, tokenizer
from orchard.runs import Store

QUICK = ["--size", "tiny", "--steps", "4", "--batch", "8"]


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["manzano", *map(str, words), "--device", "cpu"])
    return int(ended.value.code or 0)


def test_pictures_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out, kept = picture_folder(tmp_path / "pictures"), tmp_path / "tok", ["--store", tmp_path / "store"]
    train = ["tokenizer", "train", "--images", images, *QUICK, *kept, "--out"]
    assert command(*train, out) == 0
    said = capsys.readouterr().out
    for part in ("tokenizer ", "codes ", "image decoder ", "nats a byte of held-out texts", f"written to {out}"):
        assert part in said
    runs = {run.id for run in Store(tmp_path / "store").ls()}
    assert command(*train, tmp_path / "again") == 0  # computes nothing
    assert {run.id for run in Store(tmp_path / "store").ls()} == runs
    for file in out.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    with Image.open(out / "decoded.png") as grid:
        assert grid.size == (4 * 2 * 26, grid.height)  # originals of 24 pixels beside decoded ones, with edges
        assert grid.getpixel((2, 2)) != grid.getpixel((28, 2))

    assert command("tokenizer", "encode", "--tokenizer", out, "--images", images, "--out", tmp_path / "codes") == 0
    with safe_open(tmp_path / "codes", framework="pt") as file:
        assert file.get_tensor("ids").shape == (120, load_tokenizer(out).model.n)
        assert file.get_tensor("vectors").shape == (120, 4, 16)
    decode = ["tokenizer", "decode", "--ids", tmp_path / "codes", "--steps", "2", "--out", tmp_path / "drawn", "--tokenizer"]  # fmt: skip
    assert command(*decode, out) == 0
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert (len(drawn), drawn[0], drawn[119]) == (120, "00000_0.png", "00119_119.png")

    capsys.readouterr()
    model = language_model(tmp_path / "model", "qwen2")
    unify = ["unify", "--backbone", model, "--images", images, "--steps", "3", "--batch", "4", *kept]
    assert command(*unify, "--tokenizer", out, "--out", tmp_path / "both") == 0
    said = capsys.readouterr().out
    assert "is read as" in said
    assert "nats a target of held-out pictures" in said
    assert (tmp_path / "both/drawn.png").is_file()
    assert load_unified(tmp_path / "both").vocabulary.codes == 1000


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert command(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, model = picture_folder(tmp_path / "pictures"), language_model(tmp_path / "model", positions=12)
    kept = ["--store", tmp_path / "store"]
    train = ["tokenizer", "train", *QUICK, *kept, "--images"]
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        cfg = tokenizer(Picture(24, 24), Size(16, 1, 2, 32), [8, 5, 5, 5], 32, 16)
        save_tokenizer(SavedTokenizer(cfg, cfg.clone().build()), tmp_path / name)
    encode = ["tokenizer", "encode", "--tokenizer", tmp_path / "one", "--images", images]
    assert command(*encode, "--out", tmp_path / "codes") == 0
    before = sorted(path for path in tmp_path.rglob("*") if tmp_path / "store" not in path.parents)
    new = ["--out", tmp_path / "new"]
    assert "exists: choose a new folder" in refused(capsys, *train, images, "--out", tmp_path / "one")
    assert "does not exist" in refused(capsys, *train, tmp_path / "none", *new)
    assert "--levels 8,x: give whole numbers" in refused(capsys, *train, images, *new, "--levels", "8,x")
    assert "levels[1] is 1" in refused(capsys, *train, images, *new, "--levels", "8,1,5")
    assert "patch is 4" in refused(capsys, *train, images, *new, "--side", "50")
    decode = ["tokenizer", "decode", "--ids"]
    assert "has codes of another tokenizer" in refused(
        capsys, *decode, tmp_path / "codes", "--tokenizer", tmp_path / "two", *new
    )
    assert "holds no codes" in refused(capsys, *decode, images / "metadata.jsonl", "--tokenizer", tmp_path / "one", *new)  # fmt: skip
    assert "holds no tokenizer" in refused(capsys, "tokenizer", "encode", "--tokenizer", images, "--images", images, *new)  # fmt: skip
    assert "exists, or its folder cannot be written" in refused(capsys, *encode, "--out", tmp_path / "codes")
    unify = ["unify", "--images", images, "--tokenizer", tmp_path / "one", *new, *kept, "--backbone"]
    assert "holds no model" in refused(capsys, *unify, images)
    assert "reads 12 tokens, a picture alone is 6" in refused(capsys, *unify, model)
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "store" not in path.parents) == before
    (images / "5.jpg").write_bytes(b"no picture")
    assert "line 6, the picture cannot be read" in refused(capsys, *train, images, *new)


def test_speed_is_shown_as_ratios_within_a_round() -> None:
    names = {"tokenizer": "codes", "codes": "without", "decoder": "MMDiT (diffusers)"}
    rows = [
        {"part": part, "name": name, "items": 8, "round": turn, "seconds": seconds * (turn + 1), "reason": "", "hardware": "a CPU"}
        for part in FIRST for name, seconds in ((FIRST[part], 2.0), (names[part], 6.0)) for turn in range(3)
    ]  # fmt: skip
    rows.append(rows[0] | {"name": "a peer", "seconds": None, "reason": "not installed"})
    ((title, _, table, _),) = bench(lambda name: pd.DataFrame(rows))
    assert "on a CPU" in title
    assert table["times_slower"].dropna().tolist() == [1.0, 3.0] * 3
    assert table["per_second"].dropna().tolist() == pytest.approx([2.0, 8 / 12] * 3)
    assert table["reason"].dropna().tolist() == ["not installed"]
