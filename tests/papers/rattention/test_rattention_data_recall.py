"""Associative recall: the sequences are what they claim to be, near and far are so, and every size can be asked for."""

from __future__ import annotations

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.rattention.data.recall import NEAR, generate, vocab_size


@pytest.mark.parametrize(("pairs", "filler"), [(3, 0), (12, 128), (32, 5)])
def test_every_answer_is_the_value_of_its_key(pairs: int, filler: int) -> None:
    part = generate(np.random.default_rng(0), 5, pairs, filler, keys=32)
    assert part.tokens.shape == (5, 4 * pairs + filler)
    assert part.tokens.max() < vocab_size(32)
    question = np.take_along_axis(part.tokens, part.answers - 1, axis=1)
    assert np.array_equal(question, np.take_along_axis(part.tokens, part.needles, axis=1))  # the key again
    assert np.array_equal(
        np.take_along_axis(part.tokens, part.answers, axis=1), np.take_along_axis(part.tokens, part.needles + 1, axis=1)
    )
    assert (question < 32).all()
    assert all(len(set(row)) == pairs for row in question)  # every key is asked for once
    gap = part.answers - 1 - part.needles
    assert gap[:, :NEAR].max() <= 6  # inside a window of 8, which looks 7 back
    assert gap[:, NEAR:].min() >= filler + 2 * NEAR + 2 * NEAR


def test_what_is_trained_and_what_is_tested_differ_and_repeat() -> None:
    first, again, other = (generate(np.random.default_rng(seed), 4, 8, 16, keys=32).tokens for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    order = generate(np.random.default_rng(0), 64, 8, 16, keys=32).needles[:, NEAR:]
    assert len(np.unique(order, axis=0)) > 50  # the far questions come in an order of their own


@pytest.mark.parametrize("pairs", [2, 33])
def test_a_size_that_cannot_be_is_refused(pairs: int) -> None:
    with pytest.raises(BadInput, match="give 3 to 32"):
        generate(np.random.default_rng(0), 1, pairs, 4, keys=32)
