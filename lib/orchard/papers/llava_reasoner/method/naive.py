"""Preference loss, votes and credit as loops over lists of floats: the specification of the fast forms.

log p      the score of a token less the logarithm of the sum of exp of all scores
loss       log(1 + exp(-beta (difference of differences)))
vote       weights added up by answer
AUROC      counted over all pairs
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Logits = Sequence[Sequence[float]]  # [time][vocab]


def token_log_prob(scores: Sequence[float], token: int) -> float:
    """Nats of one token from the scores of all."""
    top = max(scores)
    return scores[token] - top - math.log(sum(math.exp(score - top) for score in scores))


def weight(t: int, total: int, discount: str) -> float:
    """w_t of token t of `total`."""
    if discount == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t / total))
    if discount == "linear":
        return (total - t) / total
    return 1.0


def sequence_log_prob(logits: Logits, response: Sequence[int], discount: str = "none") -> float:
    """log p of a response: `logits[t]` are of `response[t]`."""
    total = 0.0
    for t, token in enumerate(response):
        total += weight(t, len(response), discount) * token_log_prob(logits[t], token)
    return total


def dpo_loss(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float, beta: float) -> float:
    """-log sigmoid(margin)."""
    margin = beta * (chosen - ref_chosen) - beta * (rejected - ref_rejected)
    return math.log(1 + math.exp(-margin))


def pair_loss(
    policy: Sequence[tuple[Logits, Logits]], reference: Sequence[tuple[Logits, Logits]],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], beta: float, discount: str = "none", gamma: float = 0.0,
) -> float:  # fmt: skip
    """Of pairs (chosen, rejected) with the logits of both models for both responses: preference term and supervised term."""
    preference, surprise, tokens = 0.0, 0.0, 0
    for of_policy, of_reference, responses in zip(policy, reference, pairs, strict=True):
        chosen, rejected = (sequence_log_prob(of_policy[i], responses[i], discount) for i in (0, 1))
        ref_chosen, ref_rejected = (sequence_log_prob(of_reference[i], responses[i], discount) for i in (0, 1))
        preference += dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
        surprise -= sequence_log_prob(of_policy[0], responses[0])
        tokens += len(responses[0])
    return preference / len(pairs) + gamma * surprise / max(1, tokens)


def truncated(text: str, words: int) -> str:
    """A text up to the space before word number `words`, counted from 0."""
    seen = 0
    for place, letter in enumerate(text):
        seen += letter == " "
        if letter == " " and seen == words:
            return text[:place]
    return text if words else ""


def vote(answers: Sequence[str | None], scores: Sequence[float], tau: float) -> str | None:
    """argmax_a sum_{i: a_i = a} exp(score_i / tau); of equals the one that came first."""
    winner, most = None, 0.0
    for answer in answers:
        if answer is None:
            continue
        total = 0.0
        for other, score in zip(answers, scores, strict=True):
            if other == answer:
                total += math.exp(score / tau)
        if total > most:
            winner, most = answer, total
    return winner


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The share of (positive, negative) in which the first is larger; equals are half."""
    hits = 0.0
    for a in positive:
        for b in negative:
            if a > b:
                hits += 1
            elif a == b:
                hits += 0.5
    return hits / (len(positive) * len(negative))
