"""Credit of tokens: does the preference model know where a chain goes wrong?

    r_t    = log p_dpo(y_t | x, V, y_<t) - log p_sft(y_t | x, V, y_<t)
    swap   = is r(right token) > r(wrong token), at the place of the first wrong one            chance: 1/2
    AUROC  = P(-r of a first wrong token > -r of a token before one)                            chance: 1/2

The sum of r_t is the verifier's score. The paper shows r_t as colours. Both measures need the first wrong token, which is known where
chains can be replayed. Tokens of different places and kinds (a number, a colour, a semicolon) differ in r for other reasons, which the
AUROC counts in; a swap compares two tokens at one place. There both normalisers cancel, and the difference is one of logits.

policy, reference: logits [b, vocab] or log-probabilities [b, t]; ties are half a hit everywhere.
Source: Zhang et al. 2025, arXiv 2410.16198, section on credit assignment; the two measures are ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_rewards(
    policy: Float[Tensor, "b t"], reference: Float[Tensor, "b t"], counts: Bool[Tensor, "b t"]
) -> Float[Tensor, "b t"]:
    """r_t in nats from token log-probabilities, in float32; 0 where a token does not count."""
    return torch.where(counts, policy.float() - reference.float(), 0.0)


def swap_margins(
    policy: Float[Tensor, "b vocab"],
    reference: Float[Tensor, "b vocab"],
    right: Int[Tensor, "b"],
    wrong: Int[Tensor, "b"],
) -> Float[Tensor, "b"]:
    """r(right) - r(wrong) from the logits of both models at the place of the first wrong token.

    Raises ValueError where both tokens are the same.
    """
    same = (right == wrong).nonzero().flatten().tolist()
    if same:
        raise ValueError(
            f"the right and the wrong token of chains {same} are the same: nothing to swap, leave them out"
        )
    moved = policy.float() - reference.float()
    return (moved.gather(1, right.long()[:, None]) - moved.gather(1, wrong.long()[:, None]))[:, 0]


def swap_accuracy(margins: Float[Tensor, "b"]) -> float:
    """The share of chains whose right token gained more. Raises ValueError without chains."""
    if not len(margins):
        raise ValueError("the swap accuracy of no chains: give at least one with a first wrong token")
    return float(((margins > 0).double() + (margins == 0).double() / 2).mean())


def auroc(positive: Float[Tensor, "p"], negative: Float[Tensor, "q"]) -> float:
    """The chance that a positive is larger than a negative (Mann and Whitney's U over p q). Raises ValueError without one of them."""
    if not len(positive) or not len(negative):
        raise ValueError(
            f"an AUROC of {len(positive)} positives and {len(negative)} negatives: give at least one of each"
        )
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive)
    up_to = torch.searchsorted(ordered, positive, right=True)
    return float((below + up_to).double().mean() / (2 * len(negative)))


def first_error_auroc(
    rewards: Float[Tensor, "b t"], counts: Bool[Tensor, "b t"], first_wrong: Int[Tensor, "b"]
) -> float:
    """-r of each chain's first wrong token against -r of its tokens before that, all chains together.

    `first_wrong[i]` is a column of `rewards`. Raises ValueError where that token does not count, or none comes before any of them.
    """
    columns = torch.arange(rewards.shape[1], device=rewards.device)
    wrong = columns == first_wrong[:, None]
    outside = (~(wrong & counts).any(dim=1)).nonzero().flatten().tolist()
    if outside:
        raise ValueError(
            f"the first wrong token of chains {outside} is at columns {first_wrong[outside].tolist()}, where no token of the "
            "response counts: give its column in `rewards`"
        )
    before = counts & (columns < first_wrong[:, None])
    return auroc(-rewards[wrong], -rewards[before])
