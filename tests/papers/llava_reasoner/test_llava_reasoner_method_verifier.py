"""Scores, best of N and votes on cases that were worked out by hand, and their limits."""

from __future__ import annotations

import math

import pytest
import torch

from orchard.papers.llava_reasoner.method import best_of, scores, vote_weights, weighted_vote
from orchard.papers.llava_reasoner.method.verifier import judged, likelihood_vote, majority_vote, oracle


def test_scores_whole_per_token_and_of_the_first_tokens() -> None:
    policy = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -7.0, 5.0]])
    reference = torch.tensor([[-2.0, -2.0, -1.0], [-1.0, -5.0, 8.0]])
    counts = torch.tensor([[True, True, True], [True, True, False]])
    assert scores(policy, reference, counts).tolist() == [-1.0, -5.0]
    torch.testing.assert_close(scores(policy, reference, counts, per_token=True), torch.tensor([-1 / 3, -2.5]))
    assert scores(policy, reference, counts, first=1).tolist() == [1.0, -3.0]
    assert scores(policy, reference, counts, first=9).tolist() == [-1.0, -5.0]
    assert scores(policy, reference, counts, per_token=True, first=2).tolist() == [0.5, -2.5]


def test_the_first_tokens_are_those_that_count() -> None:
    counts = torch.tensor([[False, True, True]])
    found = scores(torch.tensor([[7.0, 1.0, 2.0]]), torch.zeros(1, 3), counts, first=1)
    assert found.tolist() == [1.0]
    assert scores(
        torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), per_token=True
    ).tolist() == [0.0]


def test_the_model_itself_as_verifier_scores_zero_and_its_vote_is_the_majority() -> None:
    log_probs, counts = -torch.rand(5, 4), torch.ones(5, 4, dtype=torch.bool)
    none = scores(log_probs, log_probs, counts)
    assert none.tolist() == [0.0] * 5
    answers = ["8", "7", "7", None, "8"]
    assert weighted_vote(answers, vote_weights(none)) == majority_vote(answers) == 0
    assert best_of(none) == 0


def test_weights_are_a_softmax_and_any_shift_of_the_scores_is_the_same_vote() -> None:
    given = torch.tensor([0.0, math.log(3.0), -1e6])
    torch.testing.assert_close(vote_weights(given), torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64))
    torch.testing.assert_close(vote_weights(given * 10, tau=10.0), vote_weights(given))
    torch.testing.assert_close(vote_weights(given + 1e4), vote_weights(given), atol=1e-3, rtol=0)
    assert vote_weights(torch.randn(2, 3)).sum(dim=-1).tolist() == pytest.approx([1.0, 1.0])


def test_temperature_goes_from_the_best_chain_to_the_majority() -> None:
    answers, given = ["7", "8", "8", "8"], torch.tensor([4.0, 1.0, 0.0, 1.0])
    assert weighted_vote(answers, vote_weights(given, tau=0.01)) == best_of(given) == 0
    assert weighted_vote(answers, vote_weights(given, tau=1000.0)) == majority_vote(answers) == 1
    assert weighted_vote(answers, vote_weights(given, tau=1.0)) == 0  # e^4 = 54.6 against 1 + 2 e = 6.4
    assert weighted_vote(answers, vote_weights(given, tau=10.0)) == 1  # 1.49 against 1 + 2 * 1.105


def test_ties_go_to_what_was_drawn_first_and_the_first_chain_of_an_answer_stands_for_it() -> None:
    assert majority_vote(["7", "8", "8", "7"]) == 0
    assert majority_vote([None, "8", "7", "7"]) == 2
    assert majority_vote(["7", "8"]) == 0  # of two a majority is the single sample
    assert best_of([1.0, 3.0, 3.0]) == 1


def test_a_chain_without_an_answer_has_no_vote() -> None:
    assert weighted_vote([None, None, "7"], [5.0, 5.0, 0.1]) == 2
    assert majority_vote([None, None]) is None
    assert majority_vote([]) is None
    assert weighted_vote(["7"], [0.0]) == 0


def test_the_likelihood_breaks_ties_and_survives_tiny_probabilities() -> None:
    assert likelihood_vote(["7", "8"], torch.tensor([-9.0, -2.0])) == 1
    assert likelihood_vote(["7", "8", "8"], torch.tensor([-400.0, -401.0, -401.0])) == 0  # 1 against 2 / e
    assert likelihood_vote(["7", "8", "8", "8"], torch.tensor([-400.0, -401.0, -401.0, -401.0])) == 1


def test_every_rule_on_one_question() -> None:
    answers = ["7", "8", "7", "9", None]
    correct = [False, True, False, False, False]
    given, likelihood = torch.tensor([0.0, 2.0, 0.0, 3.0, 9.0]), torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
    wrong = dict.fromkeys(("single", "majority", "likelihood", "weighted", "best", "oracle"), False)
    assert judged(answers, correct, given, likelihood, size=1) == wrong
    three = {**wrong, "weighted": True, "best": True, "oracle": True}  # e^2 = 7.4 against 2
    assert judged(answers, correct, given, likelihood, size=3) == three
    assert judged(answers, correct, given, likelihood, size=3, tau=100.0) == {**three, "weighted": False}
    assert judged(answers, correct, given, likelihood, size=5) == {**wrong, "oracle": True}


def test_no_answer_at_all_is_wrong_by_every_rule() -> None:
    found = judged([None, None], [False, False], torch.zeros(2), torch.zeros(2), size=2)
    assert set(found.values()) == {False}


def test_more_chains_never_hurt_the_oracle() -> None:
    correct = [False, False, True, False]
    answers = ["1", "2", "3", "4"]
    right = [judged(answers, correct, torch.zeros(4), torch.zeros(4), size)["oracle"] for size in (1, 2, 3, 4)]
    assert right == [False, False, True, True]
    assert oracle(correct) == 2
    assert oracle([False]) is None


def test_errors() -> None:
    with pytest.raises(ValueError, match="first is 0"):
        scores(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), first=0)
    for tau in (0.0, -1.0):
        with pytest.raises(ValueError, match="tau is"):
            vote_weights(torch.zeros(2), tau)
    with pytest.raises(ValueError, match="best of no chains"):
        best_of([])
    with pytest.raises(ValueError, match="2 answers and 1 weights"):
        weighted_vote(["7", "8"], [1.0])
    for weight in (-1.0, math.nan):
        with pytest.raises(ValueError, match="scores are no weights"):
            weighted_vote(["7", "8"], [1.0, weight])
    for size in (0, 3):
        with pytest.raises(ValueError, match=f"size is {size} with 2 answers"):
            judged(["7", "8"], [True, False], torch.zeros(2), torch.zeros(2), size)
