"""Every compared model from plain numbers, and the published shapes on the meta device."""

from __future__ import annotations

import pytest
import torch

from orchard.papers.manzano.method import Vocabulary
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.papers.manzano.method.models import (
    LANGUAGE_MODELS,
    PAPER_LEVELS,
    PAPER_PICTURE,
    VIT_L,
    Picture,
    language_model,
    tokenizer,
)


def test_the_tokens_of_pictures() -> None:
    assert [Picture(side, side).tokens for side in (36, 48, 60, 72)] == [9, 16, 25, 36]
    assert Picture(12, 36).tokens == 3
    assert PAPER_PICTURE.tokens == Picture(672, 672, patch=16).tokens == 196


def test_the_published_tokenizer() -> None:
    with torch.device("meta"):
        tok = tokenizer(PAPER_PICTURE, VIT_L, PAPER_LEVELS, hidden_dim=4096, dim=2048).build()
        x = tok.squares(torch.empty(1, 588, 588, 3))
    assert tok.continuous.hidden.in_features == tok.discrete.project.in_features == x.shape[2]
    assert x.shape == (1, 196, 9216)
    assert tok.continuous(x).shape == (1, 196, 2048)
    assert codebook_size(PAPER_LEVELS) == 64_000
    assert sum(p.numel() for p in tok.vision.parameters()) == pytest.approx(303e6, rel=0.01)  # ViT-L/14, blocks


@pytest.mark.parametrize(("name", "billions"), [("300M", 0.3), ("1B", 1.0), ("3B", 3.0), ("30B", 30.0)])
def test_language_models_are_near_their_names(name: str, billions: float) -> None:
    with torch.device("meta"):
        decoder = language_model(LANGUAGE_MODELS[name], Vocabulary(32_768, 64_000)).build()
    assert decoder.num_parameters(embedding=False) / 1e9 == pytest.approx(billions, rel=0.05)
    assert decoder.vocab_size == 96_770
