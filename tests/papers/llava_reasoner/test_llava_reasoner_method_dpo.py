"""Truncation, end token, discount weights and the loss: hand-computed cases and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from orchard.papers.llava_reasoner.method import Objective, Truncation, naive, pair_columns, pair_loss, trained_part
from orchard.papers.llava_reasoner.method.dpo import DISCOUNTS, discount_weights
from orchard.papers.llava_reasoner.method.prompts import marked_answer

END = 99


@pytest.mark.parametrize(
    ("truncation", "count", "kept"),
    [
        (Truncation(), 300, 300),
        (Truncation(words=90), 89, 89),
        (Truncation(words=90), 91, 90),
        (Truncation(words=0), 5, 0),
        (Truncation(ratio=0.5), 300, 150),
        (Truncation(ratio=0.5), 120, 90),  # the floor
        (Truncation(ratio=0.5), 40, 40),  # never more than there is
        (Truncation(ratio=0.5, floor=0), 41, 20),
        (Truncation.released(90), 91, 90),
        (Truncation.released(1), 300, 300),
        (Truncation.released(0.7), 200, 140),
        (Truncation.released(0.7), 100, 90),
        (Truncation.relative(0.9, 26.4), 30, 24),
    ],
)
def test_words_that_are_kept(truncation: Truncation, count: int, kept: int) -> None:
    assert truncation.kept(count) == kept
    assert truncation.ids(range(count)) == list(range(kept))
    words = [f"w{i}" for i in range(count)]
    assert truncation.text(" ".join(words)) == " ".join(words[:kept])


def test_words_stand_between_single_spaces() -> None:
    text = "One bar.\nTwo bars, say."
    assert Truncation(words=2).text(text) == "One bar.\nTwo"
    assert Truncation(words=4).text(text) == text
    assert Truncation(words=2).text(text) == naive.truncated(text, 2)
    assert Truncation(words=3).text("a  b c") == "a  b"  # nothing between two spaces is a word as well
    assert Truncation().text("") == Truncation(words=0).text("a b") == ""


def test_a_long_response_loses_its_answer() -> None:
    chain = "red 3 ; blue 5 ; 3 + 5 = 8 ### answer : 8"
    assert marked_answer(Truncation(words=15).text(chain)) == "8"
    assert marked_answer(Truncation(words=14).text(chain)) is None


def test_the_end_token_is_taken_off_before_the_cut() -> None:
    whole = [1, 2, 3, END]
    assert trained_part(whole, END) == [1, 2, 3]
    assert trained_part([1, 2, 3], END) == [1, 2, 3]  # it was cut off when it was drawn
    assert trained_part(whole, END, Truncation(words=3)) == [1, 2, 3]
    assert trained_part(whole, END, Truncation(words=2)) == [1, 2]
    assert trained_part(whole, END, Truncation(words=2), keep_end=True) == [1, 2, END]
    assert trained_part([1, 2, 3], END, keep_end=True) == [1, 2, 3]
    assert trained_part([END], END) == trained_part([], END) == []


def test_discount_weights_by_hand() -> None:
    counts = torch.tensor([[False, True, True, True, True], [True, False, False, False, False]])
    cosine = [0.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    torch.testing.assert_close(discount_weights(counts, "cosine"), torch.tensor([cosine, [1.0, 0, 0, 0, 0]]))
    linear = torch.tensor([[0, 1.0, 0.75, 0.5, 0.25], [1.0, 0, 0, 0, 0]])
    torch.testing.assert_close(discount_weights(counts, "linear"), linear)
    assert discount_weights(counts).tolist() == counts.float().tolist()


@pytest.mark.parametrize("discount", ["cosine", "linear"])
def test_discounts_sum_to_half_of_one_more_than_the_length(discount: str) -> None:
    for total in (1, 2, 7, 100):
        counts = torch.ones(1, total, dtype=torch.bool)
        assert discount_weights(counts, discount).sum().item() == pytest.approx((total + 1) / 2, abs=1e-4)  # type: ignore[arg-type]
    assert discount_weights(torch.zeros(1, 3, dtype=torch.bool), discount).tolist() == [[0, 0, 0]]  # type: ignore[arg-type]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs of responses of different lengths; what does not count is 0, as log-probabilities come."""
    counts = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
    return torch.where(counts, -torch.rand(4, 5), 0.0), counts


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_at_the_reference_the_loss_is_log_two_and_gradients_are_half_of_beta(discount: str) -> None:
    log_probs, counts = batch()
    reference = pair_columns(log_probs, counts, discount)  # type: ignore[arg-type]
    log_probs.requires_grad_()
    found = pair_loss(log_probs, counts, reference, Objective(beta=0.1, discount=discount))  # type: ignore[arg-type]
    assert found.total.item() == pytest.approx(math.log(2), abs=1e-6)
    assert found.accuracy.item() == 0.5
    (found.preference.sum()).backward()
    expected = torch.tensor([[-0.05], [-0.05], [0.05], [0.05]]) * discount_weights(counts, discount)  # type: ignore[arg-type]
    torch.testing.assert_close(log_probs.grad, expected, atol=1e-6, rtol=0)


def test_rewards_margin_and_accuracy_by_hand() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-4.0, 0.0], [-3.0, -3.0], [-1.0, 0.0]])
    counts = log_probs != 0
    assert pair_columns(log_probs, counts).tolist() == [[-3.0, -6.0], [-4.0, -1.0]]
    reference = torch.tensor([[-5.0, -5.0], [-3.0, -1.0]])
    found = pair_loss(log_probs, counts, reference, Objective(beta=0.5))
    assert found.chosen_reward.tolist() == [1.0, -0.5]
    assert found.rejected_reward.tolist() == [-0.5, 0.0]
    assert found.margin.tolist() == [1.5, -0.5]
    assert found.accuracy.item() == 0.5
    expected = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(0.5))]
    torch.testing.assert_close(found.preference, torch.tensor(expected))
    assert found.supervised.item() == pytest.approx(7 / 3)  # three tokens of the chosen responses


def test_the_supervised_term_is_added_with_its_weight_and_trains_chosen_tokens_alone() -> None:
    log_probs, counts = batch()
    reference = pair_columns(log_probs, counts)
    log_probs.requires_grad_()
    found = pair_loss(log_probs, counts, reference, Objective(gamma=0.3))
    assert found.total.item() == pytest.approx(math.log(2) + 0.3 * found.supervised.item(), abs=1e-6)
    found.supervised.backward()
    expected = torch.where(counts, -1 / 7, 0.0)
    expected[2:] = 0
    torch.testing.assert_close(log_probs.grad, expected)


def test_nothing_kept_teaches_nothing() -> None:
    counts = torch.zeros(2, 3, dtype=torch.bool)
    log_probs = torch.zeros(2, 3, requires_grad=True)
    found = pair_loss(log_probs, counts, torch.zeros(1, 2), Objective(gamma=1.0))
    assert found.total.item() == pytest.approx(math.log(2))
    found.total.backward()
    assert log_probs.grad is not None
    assert (log_probs.grad == 0).all()


def test_errors() -> None:
    for wrong in ({"words": 3, "ratio": 0.5}, {"words": -1}, {"ratio": 1.0}, {"ratio": 0.0}, {"floor": -1}):
        with pytest.raises(ValueError, match="Truncation"):
            Truncation(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of even length"):
        pair_columns(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"gamma is -1"):
        Objective(gamma=-1.0)
    with pytest.raises(ValueError, match="beta is 0"):
        pair_loss(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), torch.zeros(1, 2), Objective(beta=0.0))
