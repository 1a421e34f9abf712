"""Token rewards, swaps at the first wrong token and the AUROC, by hand and against their chances."""

from __future__ import annotations

import pytest
import torch

from orchard.papers.llava_reasoner.method import naive, scores, token_rewards
from orchard.papers.llava_reasoner.method.credit import auroc, first_error_auroc, swap_accuracy, swap_margins


def test_rewards_sum_to_the_score() -> None:
    policy, reference = -torch.rand(3, 4), -torch.rand(3, 4)
    counts = torch.arange(4) < torch.tensor([[4], [2], [0]])
    rewards = token_rewards(policy.bfloat16(), reference.bfloat16(), counts)
    assert rewards.dtype == torch.float32
    assert (rewards[~counts] == 0).all()
    torch.testing.assert_close(
        rewards.sum(dim=1), scores(policy.bfloat16(), reference.bfloat16(), counts), atol=2e-2, rtol=0
    )
    rewards = token_rewards(policy, reference, counts)
    torch.testing.assert_close(rewards.sum(dim=1), scores(policy, reference, counts))


def test_a_swap_is_the_difference_of_two_rewards() -> None:
    policy, reference = torch.randn(6, 9), torch.randn(6, 9)
    right, wrong = torch.arange(6), torch.arange(6) + 3
    found = swap_margins(policy, reference, right, wrong)
    rewards = policy.log_softmax(dim=-1) - reference.log_softmax(dim=-1)
    rows = torch.arange(6)
    torch.testing.assert_close(found, rewards[rows, right] - rewards[rows, wrong], atol=1e-5, rtol=1e-5)
    shifted = swap_margins(policy + 3.0, reference - 1.0, right, wrong)  # what cancels
    torch.testing.assert_close(shifted, found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(swap_margins(policy, reference, wrong, right), -found)


def test_swap_accuracy_counts_a_tie_as_half() -> None:
    assert swap_accuracy(torch.tensor([1.0, -1.0, 0.0, 2.0])) == 0.625
    assert (
        swap_accuracy(
            swap_margins(torch.ones(3, 5), torch.ones(3, 5), torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3]))
        )
        == 0.5
    )


def test_auroc_by_hand_by_loops_and_at_its_limits() -> None:
    assert auroc(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])) == 1.0
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0, 1.0])) == 0.5
    assert auroc(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 2.0])) == (1 + 0.5) / 4
    positive, negative = torch.randint(0, 6, (20,)).float(), torch.randint(0, 5, (30,)).float()
    expected = naive.auroc(positive.tolist(), negative.tolist())
    assert auroc(positive, negative) == pytest.approx(expected)
    assert auroc(negative, positive) == pytest.approx(1 - expected)


def test_first_errors_against_the_tokens_before_them() -> None:
    rewards = torch.tensor([[0.5, 0.2, -1.0, -9.0], [0.0, 0.3, 0.1, 0.0], [-2.0, 0.0, 0.0, 0.0]])
    counts = torch.tensor([[True, True, True, True], [False, True, True, False], [True, False, False, False]])
    # -r of first errors: 1.0, -0.1, 2.0; of tokens before them: -0.5, -0.2, -0.3; what comes after is not looked at
    assert first_error_auroc(rewards, counts, torch.tensor([2, 2, 0])) == 1.0
    # 0.5 (nothing comes before it), 0.1 and 2.0 against 0.3, the one token before an error
    assert first_error_auroc(-rewards.abs(), counts, torch.tensor([0, 2, 0])) == pytest.approx(2 / 3)


def test_rewards_that_know_nothing_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(400, 12, generator=generator)
    first = torch.randint(1, 12, (400,), generator=generator)
    everything = torch.ones(400, 12, dtype=torch.bool)
    assert first_error_auroc(rewards, everything, first) == pytest.approx(0.5, abs=0.05)
    rewards[torch.arange(400), first] -= 1.0  # two unit normals, one apart: Phi(1 / sqrt 2) = 0.760
    assert first_error_auroc(rewards, everything, first) == pytest.approx(0.760, abs=0.04)


def test_errors() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"chains \[1\] are the same"):
        swap_margins(logits, logits, torch.tensor([0, 1]), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="no chains"):
        swap_accuracy(torch.zeros(0))
    with pytest.raises(ValueError, match="0 positives and 2 negatives"):
        auroc(torch.zeros(0), torch.zeros(2))
    counts = torch.tensor([[True, True, False], [True, True, True]])
    for column in (2, 3, -1):
        with pytest.raises(ValueError, match=rf"chains \[0\] is at columns \[{column}\]"):
            first_error_auroc(torch.zeros(2, 3), counts, torch.tensor([column, 1]))
