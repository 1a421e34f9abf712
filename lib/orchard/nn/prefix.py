"""Decoding after embeddings that are no tokens (of a picture, say), and among some ids alone (codes of a picture, say).

    x = [prefix; E tokens]        logits_j = -inf for every id j that is not allowed, before the softmax

`orchard.nn.Decoder` reads embeddings before tokens already. A `Conditioned` decoder is what generation asks of a decoder, so
everything that generates takes one:

    stream(Conditioned(decoder, prefix=features, allowed=text_ids), tokens, 20, Sampling())

The mask is for drawing. In training it would hide from the model which ids are wrong.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.nn.transformer import Decoder, DecoderCache


class Conditioned:
    """A decoder whose sequences begin with `prefix`, and which gives ids outside `allowed` no chance. It shares the decoder's weights.

    `prefix` [rows or 1, length, dim]: one for each row of the tokens, or one for all. `allowed` [vocab]: True for an id that may be
    drawn. Both lie on the decoder's device. The prefix is read at once with the first tokens; positions count from its beginning.
    Raises ValueError for a prefix that is empty or of another width, a mask of another length, and one that allows nothing.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        prefix: Float[Tensor, "rows length dim"] | None = None,
        allowed: Bool[Tensor, "vocab"] | None = None,
    ) -> None:
        if prefix is not None and (prefix.shape[1] == 0 or prefix.shape[2] != decoder.dim):
            raise ValueError(
                f"prefix is {list(prefix.shape)}: give [rows, length, {decoder.dim}], at least one embedding of the decoder's width, "
                "or None"
            )
        if allowed is not None and (len(allowed) != decoder.vocab_size or not bool(allowed.any())):
            raise ValueError(
                f"allowed has {len(allowed)} ids, {int(allowed.sum())} of them True: give one value for each of the "
                f"{decoder.vocab_size} ids of the decoder, True for at least one, or None"
            )
        self.decoder, self.prefix, self.allowed = decoder, prefix, allowed
        self.vocab_size, self.embedding = decoder.vocab_size, decoder.embedding

    def features(
        self, tokens: Int[Tensor, "batch time"], cache: DecoderCache | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """What the output matrix reads, at the tokens; the prefix comes before them where the cache is empty or there is none.

        Raises ValueError for a prefix of another number of rows.
        """
        if self.prefix is None or (cache is not None and cache.position > 0):
            return self.decoder.features(tokens, cache)
        if self.prefix.shape[0] not in (1, tokens.shape[0]):
            raise ValueError(
                f"the prefix has {self.prefix.shape[0]} rows, the tokens {tokens.shape[0]}: give one prefix for each row, or one for all"
            )
        prefix = self.prefix.expand(tokens.shape[0], -1, -1)
        return self.decoder.features(tokens, cache, embeddings=prefix)[:, prefix.shape[1] :]

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """The decoder's logits, -inf where an id is not allowed."""
        logits = self.decoder.logits(features)
        return logits if self.allowed is None else logits.masked_fill(~self.allowed, float("-inf"))

    def new_cache(self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype) -> DecoderCache:
        """Empty caches for the prefix and up to `max_length` tokens after it. Raises ValueError as the decoder does."""
        length = max_length if self.prefix is None else self.prefix.shape[1] + max_length
        return self.decoder.new_cache(batch, length, device=device, dtype=dtype)
