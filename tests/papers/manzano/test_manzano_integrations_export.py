"""A tokenizer as a folder: what is loaded is what was saved, and one message for what does not belong together."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from manzano_own import tower
from manzano_tiny import LEVELS, PICTURE, pictures, tiny_image_decoder

from orchard.errors import BadInput, OrchardError
from orchard.papers.manzano.integrations.export import SavedTokenizer, load_tokenizer, save_tokenizer
from orchard.papers.manzano.integrations.vision import vision_tower
from orchard.papers.manzano.method import FSQ, HybridTokenizer, Size
from orchard.papers.manzano.method.models import image_decoder, regression_decoder, tokenizer


def saved(levels: list[int] = LEVELS) -> SavedTokenizer:
    cfg, drawer = (
        tokenizer(PICTURE, Size(8, 1, 2, 8), levels, 12, 16),
        image_decoder(PICTURE, Size(16, 2, 2), 6, len(levels)),
    )
    return SavedTokenizer(cfg, cfg.clone().build().eval(), drawer, tiny_image_decoder(), {"of": "a test"})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_reloaded_tokenizer_does_the_same_bit_for_bit(tmp_path: Path) -> None:
    made = saved()
    save_tokenizer(made, tmp_path / "deep" / "tok")
    again, x = load_tokenizer(tmp_path / "deep" / "tok"), pictures(5)
    (vectors, ids), (vectors2, ids2) = made.encode(x), again.encode(x)
    assert torch.equal(vectors, vectors2)
    assert torch.equal(ids, ids2)
    drawn = made.decode(ids, steps=3, guidance=1.5, generator=generator())
    assert torch.equal(drawn, again.decode(ids2, made, steps=3, guidance=1.5, generator=generator()))
    assert (drawn.shape, drawn.dtype) == (x.shape, torch.uint8)
    assert again.notes == {"of": "a test"}
    names = {path.name for path in (tmp_path / "deep").rglob("*")}
    assert names == {"config.json", "decoder.safetensors", "tok", "tokenizer.safetensors"}


def test_a_tower_of_others_goes_along(tmp_path: Path) -> None:
    tower(tmp_path / "clip", "clip")
    cfg = HybridTokenizer.Config(
        vision=vision_tower(tmp_path / "clip"), quantizer=FSQ.Config(levels=LEVELS), hidden_dim=12, dim=8
    )
    made, x = SavedTokenizer(cfg, cfg.clone().build()), torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8)
    save_tokenizer(made, tmp_path / "tok")
    shutil.rmtree(tmp_path / "clip")
    assert str(tmp_path) not in (tmp_path / "tok/config.json").read_text("utf-8")
    again = load_tokenizer(tmp_path / "tok")
    assert torch.equal(made.encode(x)[0], again.encode(x)[0])


def settings() -> tuple[str, bool, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")


def test_codes_are_made_in_float32_whatever_goes_on_around(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x, inside = saved(), pictures(300), []  # in two parts
    vectors, ids = made.encode(x)
    honest = HybridTokenizer.squares
    monkeypatch.setattr(HybridTokenizer, "squares", lambda *given: inside.append(settings()) or honest(*given))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = settings()
            assert torch.equal(made.encode(x)[0], vectors)
            assert torch.equal(made.encode(x)[1], ids)
            assert settings() == before == ("medium", True, True)
            assert set(inside) == {("highest", False, False)}
            assert not torch.equal(made.model.encode(x)[0].float(), vectors)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_are_the_same_on_a_gpu() -> None:
    made, x = saved(), pictures(300)
    ids = made.encode(x)[1]
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert torch.equal(made.to("cuda").encode(x)[1].cpu(), ids)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_is_given_to_it_wrongly() -> None:
    made = saved()
    with pytest.raises(BadInput, match=r"pictures \[2, 12, 12, 3\]: this tokenizer reads \[b, 12, 24, 3\]"):
        made.encode(torch.zeros(2, 12, 12, 3, dtype=torch.uint8))
    for bad, said in ((60, "ids run from 0 to 60, the codebook of levels"), (-1, "ids run from -1 to 0")):
        with pytest.raises(BadInput, match=said):
            made.decode(torch.tensor([[0, bad]]))
    with pytest.raises(BadInput, match="give whole numbers"):
        made.decode(torch.zeros(1, 2))
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(BadInput, match=r"codes of levels \[4, 5, 3\], these are of \[5, 4, 3\]"):
        made.decode(ids, saved([4, 5, 3]))
    four = image_decoder(PICTURE, Size(16, 2, 2), 6, code_dim=4).build()
    with pytest.raises(BadInput, match="draws 2 codes of 4 channels, these are 2 of 3"):
        made.decode(ids, four)
    with pytest.raises(BadInput, match="there is no decoder"):
        dataclasses.replace(made, decoder=None).decode(ids)
    assert made.decode(ids, regression_decoder(PICTURE, Size(8, 1, 2), 3).build()).shape == (1, 12, 24, 3)


def test_folders_that_are_no_tokenizer(tmp_path: Path) -> None:
    folder = save_tokenizer(saved(), tmp_path / "tok")
    with pytest.raises(BadInput, match="tok exists"):
        save_tokenizer(saved(), folder)
    with pytest.raises(BadInput, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    config = (folder / "config.json").read_text("utf-8")
    for name, text, said in (
        ("config.json", config.replace("tokenizer 1", "tokenizer 0"), "is not of the format"),
        ("config.json", config.replace("method.fsq", "method.fsk"), "only classes of the modules orchard"),
        ("config.json", config.replace('"hidden_dim": 12', '"hidden_dim": 13'), "does not hold what its config.json says"),
        ("decoder.safetensors", "", "decoder.safetensors is missing or damaged"),
    ):  # fmt: skip
        before = (folder / name).read_bytes()
        (folder / name).write_text(text, encoding="utf-8")
        with pytest.raises(OrchardError, match=said):
            load_tokenizer(folder)
        (folder / name).write_bytes(before)
    load_tokenizer(folder)
