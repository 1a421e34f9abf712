"""The preference model as a judge of chains that the supervised model wrote.

    score(y)       = log p_dpo(y | x, V) - log p_sft(y | x, V)              beta would change no ranking
    best of N      = argmax_i score(y_i)
    weighted vote  = argmax_a sum_{i: a_i = a} exp(score(y_i) / tau)
    majority       = the same with weight 1 (self-consistency)
    likelihood     = the same with weight p_sft(y_i): the baseline that breaks ties as well
    oracle         = is any of the N right

The weight of the published vote is not known. A softmax over the N scores at temperature tau differs from exp(score / tau) by one factor
for the whole question: the vote is the same, so tau is the one thing to choose.

Candidates come from the supervised model, and from questions that no pair was made of. A chain without a readable answer has no vote.
What is chosen is the number of a chain: with votes the first chain that gave the winning answer, so ties go to what was drawn first.
Source: Zhang et al. 2025, arXiv 2410.16198, section on the DPO model as verifier.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Answers = Sequence[Hashable | None]  # equal answers vote together; None: no answer could be read


def scores(
    policy: Float[Tensor, "b t"],
    reference: Float[Tensor, "b t"],
    counts: Bool[Tensor, "b t"],
    per_token: bool = False,
    first: int | None = None,
) -> Float[Tensor, "b"]:
    """The score of every chain from token log-probabilities, untruncated: the sum over its tokens.

    `per_token`: their mean. `first`: over that many tokens alone, as the pairs were cut. Raises ValueError for `first` below 1.
    """
    if first is not None and first < 1:
        raise ValueError(f"first is {first}: a score needs at least 1 token, or None for all of them")
    if first is not None:
        counts = counts & (counts.cumsum(dim=1) <= first)
    total = ((policy.float() - reference.float()) * counts).sum(dim=1)
    return total / counts.sum(dim=1).clamp(min=1) if per_token else total


def vote_weights(scores: Float[Tensor, "*batch n"], tau: float = 1.0) -> Float[Tensor, "*batch n"]:
    """exp(score / tau) up to one factor for each row, so that they sum to 1, in float64. Raises ValueError unless tau is above 0."""
    if not tau > 0:
        raise ValueError(f"tau is {tau}: the temperature of a vote is above 0; towards 0 the best chain decides alone")
    return (scores.double() / tau).softmax(dim=-1)


def best_of(scores: Float[Tensor, "n"] | Sequence[float]) -> int:
    """The number of the chain with the largest score, the first of equals. Raises ValueError without chains."""
    values = _floats(scores)
    if not values:
        raise ValueError("the best of no chains: give at least one score")
    return max(range(len(values)), key=lambda i: (values[i], -i))


def weighted_vote(answers: Answers, weights: Float[Tensor, "n"] | Sequence[float]) -> int | None:
    """The number of the first chain that gave the winning answer; None where no chain has an answer.

    Of answers of equal weight the one that came first wins. Raises ValueError for another number of weights, or a weight below 0.
    """
    values = _floats(weights)
    if len(values) != len(answers):
        raise ValueError(f"{len(answers)} answers and {len(values)} weights: give one weight for each answer")
    if not all(value >= 0 for value in values):
        raise ValueError(
            "a weight of a vote is below 0 or no number: scores are no weights, give vote_weights(scores, tau)"
        )
    first: dict[Hashable, int] = {}
    total: dict[Hashable, float] = {}
    for i, (answer, value) in enumerate(zip(answers, values, strict=True)):
        if answer is not None:
            first.setdefault(answer, i)
            total[answer] = total.get(answer, 0.0) + value
    if not total:
        return None
    return first[max(total, key=lambda answer: (total[answer], -first[answer]))]


def majority_vote(answers: Answers) -> int | None:
    """Self-consistency: every chain has one vote."""
    return weighted_vote(answers, [1.0] * len(answers))


def likelihood_vote(answers: Answers, log_probs: Float[Tensor, "n"]) -> int | None:
    """Every chain votes with the probability that the supervised model gives it (`log_probs`, sums in nats)."""
    return weighted_vote(answers, vote_weights(log_probs))


def oracle(correct: Sequence[bool]) -> int | None:
    """The number of the first right chain; None where all are wrong."""
    return next((i for i, right in enumerate(correct) if right), None)


def judged(
    answers: Answers,
    correct: Sequence[bool],
    scores: Float[Tensor, "n"],
    log_probs: Float[Tensor, "n"],
    size: int,
    tau: float = 1.0,
) -> dict[str, bool]:
    """Whether each rule is right on one question from its first `size` chains.

    `scores` are of the verifier, `log_probs` of the supervised model. Raises ValueError for more chains than there are, or none.
    """
    if not 1 <= size <= len(answers) or not len(answers) == len(correct) == len(scores) == len(log_probs):
        raise ValueError(
            f"size is {size} with {len(answers)} answers, {len(correct)} verdicts, {len(scores)} scores, {len(log_probs)} "
            "log-probabilities: give one of each for every chain, and 1 to all of the chains"
        )
    shown = answers[:size]
    chosen = {
        "single": 0,
        "majority": majority_vote(shown),
        "likelihood": likelihood_vote(shown, log_probs[:size]),
        "weighted": weighted_vote(shown, vote_weights(scores[:size], tau)),
        "best": best_of(scores[:size]),
        "oracle": oracle(correct[:size]),
    }
    return {rule: i is not None and bool(correct[i]) for rule, i in chosen.items()}


def _floats(values: Tensor | Sequence[float]) -> list[float]:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)
