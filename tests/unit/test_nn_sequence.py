"""Log-probabilities of sequences and the DPO loss: hand-computed values, closed forms of loss and gradient, errors."""

from __future__ import annotations

import math

import pytest
import torch

from orchard.nn.sequence import dpo_loss, sequence_log_probs, token_log_probs


def test_hand_computed_tokens_and_sums() -> None:
    logits = torch.tensor([[[1.0, 3.0, 4.0], [1.0, 1.0, 2.0], [9.0, 9.0, 9.0]]]).log()
    tokens, counts = torch.tensor([[1, 2, -7]]), torch.tensor([[True, True, False]])
    found = token_log_probs(logits, tokens, counts)
    torch.testing.assert_close(found, torch.tensor([[math.log(3 / 8), math.log(1 / 2), 0.0]]))
    torch.testing.assert_close(sequence_log_probs(logits, tokens, counts), torch.tensor([math.log(3 / 16)]))
    weights = torch.tensor([[2.0, 0.5, 100.0]])
    expected = torch.tensor([2 * math.log(3 / 8) + 0.5 * math.log(1 / 2)])
    torch.testing.assert_close(sequence_log_probs(logits, tokens, counts, weights), expected)


def test_it_is_the_log_softmax_in_float32_whatever_the_logits_are() -> None:
    logits, tokens = torch.randn(3, 5, 11).bfloat16(), torch.randint(0, 11, (3, 5))
    found = token_log_probs(logits, tokens, torch.ones(3, 5, dtype=torch.bool))
    assert found.dtype == torch.float32
    expected = logits.float().log_softmax(dim=-1).gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(found, expected)


def test_what_does_not_count_has_no_gradient_even_where_it_is_forbidden() -> None:
    logits = torch.randn(1, 3, 4)
    logits[0, 1, :2] = float("-inf")
    logits.requires_grad_()
    counts = torch.tensor([[True, False, True]])
    sequence_log_probs(logits, torch.tensor([[0, 1, 2]]), counts).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, 1] == 0).all()
    assert (logits.grad[0, 0] != 0).all()


def test_no_counted_token_at_all_sums_to_zero() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert sequence_log_probs(torch.randn(2, 3, 4), torch.full((2, 3), 9), none).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("beta", [0.03, 0.1, 0.5])
def test_at_the_reference_the_loss_is_log_two_and_the_gradient_half_of_beta(beta: float) -> None:
    chosen = torch.tensor([-3.0, -50.0], requires_grad=True)
    rejected = torch.tensor([-1.0, -70.0], requires_grad=True)
    loss, margin = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta)
    torch.testing.assert_close(loss.detach(), torch.full((2,), math.log(2)), atol=1e-6, rtol=0)
    assert margin.tolist() == [0.0, 0.0]
    loss.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.full((2,), -beta / 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(rejected.grad, torch.full((2,), beta / 2), atol=1e-6, rtol=0)


def test_loss_and_gradient_away_from_the_reference() -> None:
    values = [torch.tensor([x], requires_grad=True) for x in (-2.0, -7.0, -4.0, -5.0)]
    loss, margin = dpo_loss(*values, beta=0.1)
    assert margin.item() == pytest.approx(0.1 * ((-2 + 4) - (-7 + 5)))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.4)))
    loss.sum().backward()
    slope = -0.1 / (1 + math.exp(0.4))  # -beta sigmoid(-margin)
    assert [v.grad.item() for v in values if v.grad is not None] == pytest.approx([slope, -slope, -slope, slope])


def test_a_hopeless_pair_has_a_finite_loss() -> None:
    far = torch.tensor([-1e4])
    loss, _ = dpo_loss(far, -far, torch.zeros(1), torch.zeros(1), 1.0)
    assert loss.item() == pytest.approx(2e4)


def test_errors() -> None:
    with pytest.raises(ValueError, match="tokens that count run from 1 to 4, the logits are for 4 ids"):
        token_log_probs(torch.randn(1, 2, 4), torch.tensor([[1, 4]]), torch.ones(1, 2, dtype=torch.bool))
    zero = torch.zeros(1)
    for beta in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"beta is .*above 0"):
            dpo_loss(zero, zero, zero, zero, beta)
