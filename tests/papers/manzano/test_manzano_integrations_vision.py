"""Vision towers of transformers in the tokenizer: the states that transformers gives, and one message for what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from manzano_own import language_model, tower

from orchard.errors import BadInput
from orchard.papers.manzano.integrations.vision import Tower, vision_tower
from orchard.papers.manzano.method import FSQ, HybridTokenizer
from orchard.papers.manzano.method.tokenizer import unit_pixels

KINDS = ["siglip", "clip", "dinov2"]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_states_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = tower(tmp_path / kind, kind)
    ours: Tower = vision_tower(tmp_path / kind).build()
    pictures = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v) for v in (([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]) if kind == "clip" else ([0.5] * 3, [0.5] * 3)))  # fmt: skip
    pixel_values = ((pictures / 255 - mean) / std).permute(0, 3, 1, 2)
    if kind == "clip":
        expected = theirs(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    elif kind == "siglip":
        expected = theirs.vision_model(pixel_values).last_hidden_state
    else:
        expected = theirs(pixel_values).last_hidden_state[:, 1 + theirs.config.num_register_tokens :]
    torch.testing.assert_close(ours(unit_pixels(pictures)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_learns_in_a_tokenizer_of_another_size(tmp_path: Path, kind: str) -> None:
    tower(tmp_path / kind, kind)
    vision = vision_tower(tmp_path / kind, 36, 24)
    tok = HybridTokenizer.Config(vision=vision, quantizer=FSQ.Config(levels=[5, 4, 3]), hidden_dim=12, dim=8).build()
    vectors, ids = tok.encode(torch.randint(0, 256, (2, 36, 24, 3), dtype=torch.uint8))
    assert (vectors.shape, ids.shape) == ((2, 6, 8), (2, 6))
    vectors.square().sum().backward()
    patches = next(p for name, p in tok.vision.named_parameters() if "patch_embedding" in name or "projection" in name)
    assert patches.grad is not None
    assert bool(patches.grad.any())
    with pytest.raises(BadInput, match=r"\[batch, 36, 24, 3\]"):
        tok.vision(torch.zeros(1, 24, 24, 3))


def test_what_does_not_fit(tmp_path: Path) -> None:
    tower(tmp_path / "clip", "clip")
    with pytest.raises(BadInput, match="38 x 24 pixels for a tower with patches of 4"):
        vision_tower(tmp_path / "clip", 38, 24).build()
    with pytest.raises(BadInput, match="holds a llama, no vision tower"):
        vision_tower(language_model(tmp_path / "llama"))
    cfg = vision_tower(tmp_path / "clip")
    (tmp_path / "clip/config.json").write_text((tmp_path / "clip/config.json").read_text() + "\n")
    with pytest.raises(BadInput, match="has changed"):
        cfg.build()
