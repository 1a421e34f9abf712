"""Log-probabilities of token sequences, and the logistic loss of a preference between two of them.

    log p(y) = sum_t w_t log p(y_t | y_<t)                                                w_t = 1 without weights
    margin   = beta ([log p(y_w) - log p_ref(y_w)] - [log p(y_l) - log p_ref(y_l)])       y_w preferred, y_l not
    loss     = -log sigmoid(margin) = log(1 + exp(-margin))

Where the policy is the reference, the margin is 0, the loss log 2, and its gradient -beta / 2 for log p(y_w), +beta / 2 for log p(y_l).
Everything is summed in float32: in bfloat16 a sum of 100 log-probabilities keeps two digits.

logits [b, t, vocab] are those *of* the tokens [b, t]: what the model says one position earlier, `model(x[:, :-1])` for `x[:, 1:]`.
Source: Rafailov et al. 2023, arXiv 2305.18290 (direct preference optimisation).
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

_UNCOUNTED = -100  # no vocabulary has this id


def token_log_probs(
    logits: Float[Tensor, "b t vocab"], tokens: Int[Tensor, "b t"], counts: Bool[Tensor, "b t"]
) -> Float[Tensor, "b t"]:
    """Nats (0 or less) of each token that counts, in float32; 0 without gradient where a token does not count.

    A token that does not count may have any id. Raises ValueError for a counted id outside the vocabulary.
    """
    vocab = logits.shape[-1]
    counted = tokens[counts]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < vocab:
        raise ValueError(
            f"tokens that count run from {int(counted.min())} to {int(counted.max())}, the logits are for {vocab} ids: use the "
            "tokenizer of the model, and leave padding out of `counts`"
        )
    targets = tokens.long().masked_fill(~counts, _UNCOUNTED).flatten()
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none", ignore_index=_UNCOUNTED)
    return -losses.view(tokens.shape)


def sequence_log_probs(
    logits: Float[Tensor, "b t vocab"],
    tokens: Int[Tensor, "b t"],
    counts: Bool[Tensor, "b t"],
    weights: Float[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b"]:
    """The sum over the tokens that count, not their mean; `weights` multiply each token. Raises ValueError as `token_log_probs` does."""
    found = token_log_probs(logits, tokens, counts)
    return found.sum(dim=1) if weights is None else (found * weights).sum(dim=1)


def dpo_loss(
    chosen: Float[Tensor, "b"],
    rejected: Float[Tensor, "b"],
    ref_chosen: Float[Tensor, "b"],
    ref_rejected: Float[Tensor, "b"],
    beta: float,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The loss of each pair, in nats, and its margin, from the log-probabilities of the policy and of the reference.

    The margin is the difference of the two implicit rewards, `beta` included. Raises ValueError for a `beta` that is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}: the strength of a preference is above 0, for example 0.1")
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected)).float()
    return -F.logsigmoid(margin), margin
