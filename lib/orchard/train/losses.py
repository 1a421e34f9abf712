"""Losses of decoders, as functions ``loss(model, batch)``: what ``LanguageModel`` takes. Nats throughout.

next token        - 1/N sum_t log p(x_t | x_<t)        over all tokens of a batch of windows
tokens that count  the same sum over the N places that a mask marks: answers, documents without their padding
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.nn import Decoder

Loss = Callable[[Decoder, dict[str, Tensor]], Tensor]
"""The model and a batch as the loader makes it, on the model's device, to a scalar."""


def token_losses(model: Decoder, window: Int[Tensor, "batch time_and_one"]) -> Float[Tensor, "batch time"]:
    """Nats of each token given those before it in its window."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten(), reduction="none").view_as(
        window[:, 1:]
    )


def next_token_loss(model: Decoder, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Mean nats per token of ``batch["tokens"]`` [batch, time + 1]."""
    return token_losses(model, batch["tokens"]).mean()


def counted_logits(
    model: Decoder, tokens: Int[Tensor, "batch time_and_one"], counts: Bool[Tensor, "batch time"]
) -> Float[Tensor, "counted vocab"]:
    """Logits of the tokens that count, in order. ``counts[i, t]``: whether ``tokens[i, t + 1]`` does.

    The output matrix is multiplied with nothing else, which is most of the work where few tokens count.
    """
    return model.logits(model.features(tokens[:, :-1])[counts]).float()


def counted_losses(
    model: Decoder, tokens: Int[Tensor, "batch time_and_one"], counts: Bool[Tensor, "batch time"]
) -> Float[Tensor, "counted"]:
    """Nats of the tokens that count, in order; ``counts`` as in :func:`counted_logits`."""
    return F.cross_entropy(counted_logits(model, tokens, counts), tokens[:, 1:][counts], reduction="none")


def counted_loss(model: Decoder, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Mean nats over the tokens of ``batch["tokens"]`` that ``batch["counts"]`` marks; see :func:`counted_logits`."""
    return counted_losses(model, batch["tokens"], batch["counts"]).sum() / batch["counts"].sum()
