"""The auto-encoder of the dual-encoder arm: shapes, order of squares, gradients."""

from __future__ import annotations

import pytest
from manzano_tiny import LEVELS, pictures

from orchard.papers.manzano.method.models import autoencoder
from orchard.papers.manzano.method.tokenizer import unit_pixels


def test_pictures_to_codes_and_back() -> None:
    model, shown = autoencoder(6, 8, LEVELS).build(), unit_pixels(pictures(3))
    made, ids = model(shown)
    assert made.shape == (3, 12, 24, 3)
    assert ids.shape == (3, 8)
    (made - shown).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_codes_are_numbered_row_by_row() -> None:
    model = autoencoder(6, 8, [1000]).set(num_layers=0).build()  # without context but for one pixel
    shown = unit_pixels(pictures(1))
    before = model(shown)[1]
    shown[:, 8:10, 14:16] *= -1  # inside the square in row 1, column 2
    assert (model(shown)[1] != before).nonzero().tolist() == [[0, 6]]


def test_squares_that_do_not_fill_the_picture() -> None:
    with pytest.raises(ValueError, match="pictures of 12 x 24, its squares are 5 pixels a side"):
        autoencoder(5, 8, LEVELS).build()(unit_pixels(pictures(1)))
