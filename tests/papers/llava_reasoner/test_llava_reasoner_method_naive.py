"""The fast forms are the loops: loss with every discount and term, votes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.nn.sequence import sequence_log_probs, token_log_probs
from orchard.papers.llava_reasoner.method import Objective, naive, pair_columns, pair_loss, vote_weights, weighted_vote
from orchard.papers.llava_reasoner.method.dpo import DISCOUNTS, discount_weights

LENGTHS = (4, 2, 1, 3)  # of two chosen and two rejected responses


def responses() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 6, (4, 4)), torch.arange(4) < torch.tensor(LENGTHS)[:, None]


def by_pair(rows: list[Any]) -> list[tuple[Any, Any]]:
    """[chosen; rejected] as pairs, each row without its padding."""
    cut = [row[:length] for row, length in zip(rows, LENGTHS, strict=True)]
    return [(cut[0], cut[2]), (cut[1], cut[3])]


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_the_loss_of_pairs(discount: Any, gamma: float) -> None:
    tokens, counts = responses()
    policy, reference = torch.randn(4, 4, 6), torch.randn(4, 4, 6)
    columns = pair_columns(token_log_probs(reference, tokens, counts), counts, discount)
    fast = pair_loss(token_log_probs(policy, tokens, counts), counts, columns, Objective(0.2, discount, gamma))
    logits = (by_pair(model.tolist()) for model in (policy, reference))
    slow = naive.pair_loss(*logits, by_pair(tokens.tolist()), 0.2, discount, gamma)
    assert fast.total.item() == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_the_log_probability_of_a_response(discount: Any) -> None:
    (tokens, counts), logits = responses(), torch.randn(4, 4, 6)
    fast = sequence_log_probs(logits, tokens, counts, discount_weights(counts, discount))
    for i, length in enumerate(LENGTHS):
        slow = naive.sequence_log_prob(logits[i].tolist(), tokens[i, :length].tolist(), discount)
        assert fast[i].item() == pytest.approx(slow, abs=1e-5)


def test_votes() -> None:
    source = random.Random(0)
    for _ in range(200):
        count = source.randint(1, 9)
        answers = [source.choice(["7", "8", "9", None]) for _ in range(count)]
        given = [source.gauss(0, 2) for _ in range(count)]
        tau = source.choice([0.5, 1.0, 10.0])
        chosen = weighted_vote(answers, vote_weights(torch.tensor(given, dtype=torch.float64), tau))
        expected = naive.vote(answers, given, tau)
        assert (None if chosen is None else answers[chosen]) == expected
