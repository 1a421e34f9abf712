"""Preference training on pairs of chains: which part of a response is trained, with which weight, and the loss.

    body     = response without its end-of-turn token, cut to its first 90 words
    log p(y) = sum_{t < T} w_t log p(y_t | x, V, y_<t)        w_t = 1,  1/2 (1 + cos(pi t / T)),  (T - t) / T
    m        = beta ([log p(y_w) - log p_ref(y_w)] - [log p(y_l) - log p_ref(y_l)])
    L        = -log sigmoid(m) - gamma mean_t log p(y_w,t)

Sums, not means. A response longer than the cut loses its `### Answer:`, and none trains where to stop. Both responses and both models are
cut and weighted alike. The released code has both discounts and the term of gamma and uses neither: w_t = 1, gamma = 0. Either discount
sums to (T + 1) / 2 over a response: half of the weight goes.

A batch of b pairs has 2 b rows, [chosen; rejected]. The reference is two columns [b, 2], computed once: tower and connector are frozen.
Source: Zhang et al. 2025, arXiv 2410.16198, section 3.3 and appendix (truncation); its released code, LLaVA-Reasoner-DPO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orchard.nn.sequence import dpo_loss

Discount = Literal["none", "cosine", "linear"]
DISCOUNTS: tuple[Discount, ...] = ("none", "cosine", "linear")
FLOOR = 90  # words that a ratio leaves in any case


@dataclass(frozen=True)
class Truncation:
    """How many words of a response are kept: the first `words`; or the share `ratio` of its own, but `floor` at least; or all of them.

    Words are what stands between single spaces, as in the released code: a line break divides nothing. Raises ValueError for both at
    once, and for values out of range.
    """

    words: int | None = None
    ratio: float | None = None
    floor: int = FLOOR

    def __post_init__(self) -> None:
        if self.words is not None and self.ratio is not None:
            raise ValueError(
                f"Truncation(words={self.words}, ratio={self.ratio}): give one of them, or none to keep all"
            )
        if (self.words is not None and self.words < 0) or self.floor < 0:
            raise ValueError(f"Truncation(words={self.words}, floor={self.floor}): numbers of words are 0 or more")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"Truncation.ratio is {self.ratio}: it is a share of the response, between 0 and 1")

    @classmethod
    def released(cls, value: int | float) -> Truncation:
        """The one number of the released code: words above 1, a ratio below, all of the response at 1. Raises ValueError for 0 or less."""
        if value == 1:
            return cls()
        return cls(words=int(value)) if value > 1 else cls(ratio=value)

    @classmethod
    def relative(cls, share: float, mean_words: float) -> Truncation:
        """The same cut for all, as a share of the mean length: 0.7, 0.9 and 1.1 are the paper's 70, 90 and 110 near a mean of 100."""
        return cls(words=round(share * mean_words))

    def kept(self, count: int) -> int:
        """Words that stay of `count`."""
        if self.words is not None:
            return min(count, self.words)
        if self.ratio is not None:
            return min(count, max(self.floor, int(self.ratio * count)))
        return count

    def text(self, response: str) -> str:
        """A response up to its last word that is kept."""
        words = response.split(" ")
        return " ".join(words[: self.kept(len(words))])

    def ids(self, response: Sequence[int]) -> list[int]:
        """The same for ids of which each is a word."""
        return list(response[: self.kept(len(response))])


def trained_part(
    response: Sequence[int], end: int, truncation: Truncation | None = None, keep_end: bool = False
) -> list[int]:
    """The ids of a response that preference training reads: its end-of-turn token is taken off before it is cut.

    `keep_end` puts it back after the cut, where the response had one: what TRL trains. Each id is a word here; responses of a subword
    tokenizer are cut as text before.
    """
    ended = len(response) > 0 and response[-1] == end
    body = list(response[:-1]) if ended else list(response)
    if truncation is not None:
        body = truncation.ids(body)
    return [*body, end] if ended and keep_end else body


def discount_weights(counts: Bool[Tensor, "b t"], discount: Discount = "none") -> Float[Tensor, "b t"]:
    """w_t of every token that counts, 0 elsewhere; t is its number within the response, T how many the response has.

    Raises ValueError for a discount of another name.
    """
    if discount not in DISCOUNTS:
        raise ValueError(f"discount is {discount!r}: choose one of {', '.join(DISCOUNTS)}")
    place = (counts.cumsum(dim=1) - 1).float()
    total = counts.sum(dim=1, keepdim=True).clamp(min=1).float()
    if discount == "cosine":
        weights = (1 + torch.cos(math.pi * place / total)) / 2
    elif discount == "linear":
        weights = (total - place) / total
    else:
        weights = torch.ones_like(place)
    return torch.where(counts, weights, 0.0)


@dataclass(frozen=True)
class Objective:
    """beta, the discount of tokens, and gamma, the weight of the supervised term. Raises ValueError for a gamma below 0."""

    beta: float = 0.1
    discount: Discount = "none"
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"Objective.gamma is {self.gamma}: the weight of the supervised term is 0 or more")


@dataclass(frozen=True)
class PairLosses:
    """What a batch of pairs gives. Rewards and margins are in nats times beta; the margin may rise while both rewards fall."""

    total: Float[Tensor, ""]
    preference: Float[Tensor, "b"]
    supervised: Float[Tensor, ""]  # mean nats per token of the chosen responses
    chosen_reward: Float[Tensor, "b"]  # beta (log p - log p_ref)
    rejected_reward: Float[Tensor, "b"]

    @property
    def margin(self) -> Float[Tensor, "b"]:
        return self.chosen_reward - self.rejected_reward

    @property
    def accuracy(self) -> Float[Tensor, ""]:
        """The share of pairs whose chosen response has the larger reward; a tie is half a hit, so training begins at 0.5."""
        return ((self.margin > 0).float() + (self.margin == 0).float() / 2).mean()


def pair_columns(
    log_probs: Float[Tensor, "two_b t"], counts: Bool[Tensor, "two_b t"], discount: Discount = "none"
) -> Float[Tensor, "b 2"]:
    """Weighted sums of [chosen; rejected] as two columns: what is kept of the reference. Raises ValueError for an odd number of rows."""
    if len(log_probs) % 2:
        raise ValueError(f"a batch of {len(log_probs)} rows: pairs are one batch, [chosen; rejected], of even length")
    sums = (log_probs.float() * discount_weights(counts, discount)).sum(dim=1)
    return torch.stack(sums.chunk(2), dim=1)


def pair_loss(
    log_probs: Float[Tensor, "two_b t"],
    counts: Bool[Tensor, "two_b t"],
    reference: Float[Tensor, "b 2"],
    objective: Objective,
) -> PairLosses:
    """The loss of b pairs from token log-probabilities of the policy and the columns of its reference, weighted alike.

    Raises ValueError for an odd number of rows, and for a beta that is not above 0.
    """
    policy = pair_columns(log_probs, counts, objective.discount)
    preference, _ = dpo_loss(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1], objective.beta)
    half = len(policy)
    supervised = -(log_probs[:half] * counts[:half]).sum() / counts[:half].sum().clamp(min=1)
    rewards = objective.beta * (policy - reference)
    return PairLosses(
        preference.mean() + objective.gamma * supervised, preference, supervised, rewards[:, 0], rewards[:, 1]
    )
