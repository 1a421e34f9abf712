"""Figures of 02: what they compute, and that every one of them can be drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.papers.manzano.figures import looks, training

TEXTS = ("text_loss", "image_loss")


def test_cosines_see_the_same_square_and_no_habit_of_a_place() -> None:
    x = torch.randn(4000, 3, 8, generator=torch.Generator().manual_seed(0))
    habit = 10 * torch.arange(3.0)[:, None]
    found = training.cosines(x + habit, 2 * x - habit)
    torch.testing.assert_close(found, torch.eye(3), atol=0.05, rtol=0)
    assert training.cosines(x, x.flip(0))[0, 0].abs() < 0.05


def test_alignment_does_not_mind_a_rotation() -> None:
    x = torch.randn(500, 3, 8, generator=torch.Generator().manual_seed(0))
    turned = x @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    assert training.alignment(x, 3 * turned + 1) == pytest.approx(1, abs=1e-5)
    assert training.alignment(x, x.flip(0)) < 0.1


def test_what_is_read() -> None:
    rows = [
        {"seed": 1, "stream": name, "adapter": f"{shown}{adapter}", "accuracy": 0.5}
        for name in ("read k2", "objects k2") for adapter in looks.ADAPTERS for shown in ("", training.OTHER)
    ]  # fmt: skip
    made = training.read_through(pd.DataFrame(rows), [(0.9, "gate")])
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == [
        "characters of the strip, 2 a token", "objects of a caption",
    ]  # fmt: skip
    assert "gate" in [text.get_text() for text in made.legends[0].get_texts()]


def test_shares_of_a_batch() -> None:
    table = pd.DataFrame({
        "kind": ["edits", "generation", "text", "understanding"], "share": [0, 0.4, 0.2, 0.4], "text_targets": 240.0,
        "image_targets": 360.0,
    })  # fmt: skip
    said = [text.get_text() for text in training.mixture(table).axes[0].texts]
    assert said == ["understanding\n40%", "generation\n40%", "text\n20%", "text\n40%", "image\n60%", "text\n67%", "image\n33%"]  # fmt: skip


def test_curves_codes_and_ceilings() -> None:
    rows = [
        {"seed": 0, "part": "tokenizer", "step": step, "measure": f"{adapter}/read k1/loss", "value": 3.0 - step}
        for adapter in looks.ADAPTERS for step in (1, 2)
    ]  # fmt: skip
    rows += [
        {"seed": 0, "part": arm, "step": step, "measure": measure, "value": 1.0}
        for arm in ("hybrid", "blind") for measure in TEXTS for step in (1, 2)
    ]  # fmt: skip
    rows += [{"seed": 0, "part": "image decoder of hybrid codes", "step": 1, "measure": "validation_loss", "value": 0.1}]  # fmt: skip
    curves = pd.DataFrame(rows)
    training.stages(curves, [1]).draw_without_rendering()
    made = training.arms(curves)
    assert {text.get_text() for text in made.legends[0].get_texts()} == {"hybrid tokenizer", "blind"}
    use = pd.DataFrame({"codes": "hybrid", "position": range(9), "perplexity": 4.0, "used": 7, "size": 1000})
    assert training.code_use(use).axes[0].get_title(loc="left") == "hybrid: 7 of 1,000 codes used"
    kept = pd.DataFrame({"codes": ["hybrid"], "drawn by": "decoder", "overall": 0.5, "objects": 0.6, "characters": np.nan})  # fmt: skip
    training.ceilings(kept).draw_without_rendering()
    space = pd.DataFrame({"tokenizer": "a", "continuous": [0, 0, 1, 1], "discrete": [0, 1, 0, 1], "cosine": 0.5})
    training.common_space(space).draw_without_rendering()


def test_gallery_frames_say_what_is_right() -> None:
    pixels = np.zeros((12, 12, 3), dtype=np.uint8).tobytes().hex()
    table = pd.DataFrame({"arm": "hybrid", "number": [0, 1], "prompt": "a circle", "score": [1.0, 0.0], "pixels": pixels})  # fmt: skip
    made = training.gallery(table, 12, 12, count=2)
    first, second = (axes.spines["left"].get_edgecolor() for axes in made.axes)
    assert first != second
    assert made.axes[0].get_ylabel() == "hybrid tokenizer"


def test_arms_in_words() -> None:
    table = looks.arms_in_words(["hybrid", "und_only", "blind"])
    assert table["writes codes of"].tolist() == ["hybrid", "-", "-"]
    assert table["reads of a picture"].tolist() == ["continuous vectors", "continuous vectors", "nothing"]
