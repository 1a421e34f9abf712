"""Preference pairs from outcomes: a model's own chains, told apart by whether their answers match a short annotation.

    accuracy of a question = right chains / all its chains            kept where 0.25 <= accuracy <= 0.85
    pairs of a question    = at most 3 of {right chains} x {wrong chains}, at random

A question that is always right has nothing to reject; one that is hardly ever right is hard, or its annotation is wrong.

Not published, and our choice: a chain that was drawn twice counts twice for the accuracy and is once in the pairs; a chain without a
readable answer is wrong, and at most one pair of a question rejects such a chain, since otherwise the pairs teach the format.

Labels alone decide, so whatever differs between right and wrong chains is learned: style and length too. `alike` keeps the pairs that
agree in both, `random_labels` keeps the chains and throws away which one is right. Both are controls.
Source: Zhang et al. 2025, arXiv 2410.16198, section 3.3.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

Response = Sequence[int] | str  # ids, or text
Outcome = bool | None  # right, wrong, or None: no answer could be read
Match = Callable[[Response, Response], bool]


@dataclass(frozen=True)
class Rule:
    """Which questions and how many pairs. Raises ValueError for a window that is empty or outside 0 ... 1, and for less than one pair."""

    window: tuple[float, float] = (0.25, 0.85)
    most: int = 3
    most_unparsable: int = 1

    def __post_init__(self) -> None:
        low, high = self.window
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Rule.window is {self.window}: give two accuracies, 0 <= low <= high <= 1")
        if self.most < 1 or self.most_unparsable < 0:
            raise ValueError(
                f"Rule(most={self.most}, most_unparsable={self.most_unparsable}): at least 1 pair of a question, and 0 or more of them "
                "with a chain that has no readable answer"
            )

    def keeps(self, accuracy: float) -> bool:
        """Whether a question of this accuracy lies in the window; both ends do."""
        return self.window[0] <= accuracy <= self.window[1]


@dataclass(frozen=True)
class Pair:
    """Two chains of one question, by its number."""

    question: int
    chosen: Response
    rejected: Response
    unparsable: bool = False  # whether the rejected one has no readable answer


def accuracies(outcomes: Sequence[Sequence[Outcome]]) -> list[float]:
    """The share of right chains of each question; a chain without an answer is wrong. Raises ValueError for a question without chains."""
    for i, row in enumerate(outcomes):
        if not row:
            raise ValueError(f"question {i} has no chains: sample at least one, or leave the question out")
    return [sum(outcome is True for outcome in row) / len(row) for row in outcomes]


def in_window(outcomes: Sequence[Sequence[Outcome]], rule: Rule | None = None) -> list[int]:
    """The numbers of the questions that the window keeps. Raises ValueError as `accuracies` does."""
    rule = rule or Rule()
    return [i for i, accuracy in enumerate(accuracies(outcomes)) if rule.keeps(accuracy)]


def pairs_from_outcomes(
    responses: Sequence[Sequence[Response]],
    outcomes: Sequence[Sequence[Outcome]],
    random: randomness.Random,
    rule: Rule | None = None,
    match: Match | None = None,
) -> list[Pair]:
    """The pairs of all questions, in their order. `match(chosen, rejected)` says which pairs may be; None: all of them.

    Raises ValueError where a question has another number of outcomes than of chains, or none.
    """
    rule = rule or Rule()
    if len(responses) != len(outcomes):
        raise ValueError(
            f"{len(responses)} questions with chains and {len(outcomes)} with outcomes: give one row of each for a question"
        )
    for i, (row, judged) in enumerate(zip(responses, outcomes, strict=True)):
        if len(row) != len(judged):
            raise ValueError(
                f"question {i} has {len(row)} chains and {len(judged)} outcomes: give one outcome for each"
            )
    found: list[Pair] = []
    for i in in_window(outcomes, rule):
        found.extend(_of_question(i, responses[i], outcomes[i], random, rule, match))
    return found


def _of_question(
    question: int, responses: Sequence[Response], outcomes: Sequence[Outcome], random: randomness.Random, rule: Rule,
    match: Match | None,
) -> list[Pair]:  # fmt: skip
    once = _distinct(responses, outcomes)
    right = [response for response, outcome in once if outcome is True]
    wrong = [(response, outcome is None) for response, outcome in once if outcome is not True]
    candidates = [Pair(question, chosen, rejected, unread) for chosen in right for rejected, unread in wrong]
    random.shuffle(candidates)
    kept: list[Pair] = []
    unparsable = 0
    for pair in candidates:
        if len(kept) == rule.most:
            break
        if pair.unparsable and unparsable == rule.most_unparsable:
            continue
        if match is not None and not match(pair.chosen, pair.rejected):
            continue
        unparsable += pair.unparsable
        kept.append(pair)
    return kept


def _distinct(responses: Sequence[Response], outcomes: Sequence[Outcome]) -> list[tuple[Response, Outcome]]:
    """Every chain once, in the order in which it was drawn first."""
    seen: dict[Hashable, tuple[Response, Outcome]] = {}
    for response, outcome in zip(responses, outcomes, strict=True):
        key = response if isinstance(response, str) else tuple(response)
        seen.setdefault(key, (response, outcome))
    return list(seen.values())


def length(response: Response) -> int:
    """Words of a text, or ids."""
    return len(response.split()) if isinstance(response, str) else len(response)


def alike(style: Callable[[Response], Hashable], tolerance: int = 2) -> Match:
    """Pairs of one style whose lengths differ by at most `tolerance`: what outcomes teach beyond both. Raises ValueError below 0."""
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}: lengths differ by 0 tokens or more")

    def match(chosen: Response, rejected: Response) -> bool:
        return abs(length(chosen) - length(rejected)) <= tolerance and style(chosen) == style(rejected)

    return match


def random_labels(pairs: Sequence[Pair], random: randomness.Random) -> list[Pair]:
    """The same chains, with a fair coin for which of the two is chosen."""
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if random.random() < 0.5 else pair for pair in pairs
    ]


def mean_lengths(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of the chosen and of the rejected chains: sums of log-probabilities favour length. Raises ValueError without pairs."""
    if not pairs:
        raise ValueError("mean lengths of no pairs: give at least one")
    chosen = sum(length(pair.chosen) for pair in pairs) / len(pairs)
    return chosen, sum(length(pair.rejected) for pair in pairs) / len(pairs)
