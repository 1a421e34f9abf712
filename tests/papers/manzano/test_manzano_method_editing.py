"""Editing: who sees the reference, in training and when drawing; errors inside and outside the edit."""

from __future__ import annotations

import pytest
import torch
from manzano_tiny import VOCABULARY, quantizer, tiny_image_decoder, tiny_language_model

from orchard.nn import Sampling
from orchard.papers.manzano.method.editing import REFERENCES, edit, edit_errors, edit_sequences
from orchard.papers.manzano.method.unified import SLOT


@pytest.mark.parametrize("name", REFERENCES)
def test_each_arm_sees_the_reference_where_its_name_says(name: str) -> None:
    reference = REFERENCES[name]
    sequences = edit_sequences(VOCABULARY, [[1], [2, 3]], torch.zeros(2, 2, dtype=torch.long), reference, slots=2)
    assert int((sequences.kinds == SLOT).sum()) == (4 if reference.language_model else 0)
    llm, decoder = tiny_language_model(), tiny_image_decoder(reference=True)

    def made(pixels: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        parts = (llm, decoder, quantizer(), VOCABULARY, [[1], [2, 3]], pixels, vectors, reference)
        return edit(*parts, Sampling(), generator, steps=2)

    pixels, vectors = torch.randn(2, 12, 24, 3), torch.randn(2, 2, 16)
    first = made(pixels, vectors)
    assert first.shape == (2, 12, 24, 3)
    assert torch.allclose(made(-pixels, vectors), first) != reference.decoder
    assert torch.allclose(made(pixels, -vectors), first) != reference.language_model


def test_errors_inside_and_outside() -> None:
    wanted, changed = torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, dtype=torch.bool)
    changed[0, :2] = True
    made = wanted + 1
    made[0, :2] = 3
    inside, outside = edit_errors(made, wanted, changed)
    assert inside[0] == 9
    assert inside[1].isnan()
    assert outside.tolist() == [1, 1]
