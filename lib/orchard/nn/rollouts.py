"""Many continuations of each prompt, with the log-probability of every token that was drawn.

    y_1 ... y_n ~ p(. | prefix, prompt)        the prompt is read once, and its cache repeated n times

`log_probs` are the model's own, at temperature 1 and without top k and top p, among the allowed ids: what `token_log_probs` gives for a
forward pass of the same `Conditioned` decoder. What was drawn from is sharper or flatter where the temperature is not 1.

Prompts [q, t], or a list of prompts of unequal length: those of one length are continued together, without padding before a prompt.
Tokens [q, n, time], padded on the right.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.nn.attention import Cache
from orchard.nn.generation import PREFILL_CHUNK, Sampling
from orchard.nn.prefix import Conditioned
from orchard.nn.sequence import token_log_probs
from orchard.nn.transformer import Decoder

AnyCache = TypeVar("AnyCache", bound=Cache)


@dataclass(frozen=True)
class Rollouts:
    """What was drawn. A row ends with its first stop token, which counts; what follows is padding: more stop tokens, log-probability 0."""

    tokens: Int[Tensor, "q n time"]
    counts: Bool[Tensor, "q n time"]
    log_probs: Float[Tensor, "q n time"]  # float32, nats

    def rows(self) -> list[list[list[int]]]:
        """For each prompt its n continuations as ids, without padding."""
        lengths = self.counts.sum(dim=-1).tolist()
        return [
            [ids[:length] for ids, length in zip(*pair, strict=True)]
            for pair in zip(self.tokens.tolist(), lengths, strict=True)
        ]


@torch.no_grad()
def rollouts(
    decoder: Decoder,
    prompts: Int[Tensor, "q t"] | Sequence[Int[Tensor, "_"]],
    n: int,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    prefix: Float[Tensor, "q p d"] | None = None,
    allowed: Bool[Tensor, "vocab"] | None = None,
    stop_token: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> Rollouts:
    """Draw `n` continuations of up to `max_new_tokens` for each prompt, after its row of `prefix` and among `allowed` ids.

    Everything lies on the decoder's device, where the results are too. They depend on the generator and on the order of the prompts.
    Raises ValueError without prompts, for an empty one, for another number of prefixes than prompts, for `n`, `max_new_tokens` or
    `prefill_chunk` below 1, for ids outside the vocabulary, and as `Conditioned` and `Decoder.new_cache` do.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) < 1:
        raise ValueError(
            f"rollouts got prompts of {lengths} tokens: give at least one prompt, each of at least one token"
        )
    if n < 1 or max_new_tokens < 1 or prefill_chunk < 1:
        raise ValueError(
            f"rollouts(n={n}, max_new_tokens={max_new_tokens}, prefill_chunk={prefill_chunk}): each must be at least 1"
        )
    if prefix is not None and len(prefix) != len(lengths):
        raise ValueError(f"rollouts got {len(prefix)} prefixes for {len(lengths)} prompts: give one for each, or None")
    members: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        members.setdefault(length, []).append(i)
    parts = []
    for rows in members.values():
        before = None if prefix is None else prefix[rows]
        conditioned = Conditioned(decoder, prefix=before, allowed=allowed)
        batch = torch.stack([prompts[i] for i in rows])
        parts.append(_continued(conditioned, batch, n, max_new_tokens, sampling, generator, stop_token, prefill_chunk))
    order = torch.tensor([i for rows in members.values() for i in rows]).argsort().tolist()
    return _joined(parts, order, stop_token)


def _continued(
    conditioned: Conditioned, prompts: Tensor, n: int, most: int, sampling: Sampling,
    generator: torch.Generator | None, stop_token: int | None, prefill_chunk: int,
) -> Rollouts:  # fmt: skip
    """Rollouts of prompts of one length."""
    count, time = prompts.shape
    weight = conditioned.embedding.weight
    cache = conditioned.new_cache(count, time + most, device=weight.device, dtype=weight.dtype)
    for piece in prompts.split(prefill_chunk, dim=1):
        last = conditioned.features(piece, cache)[:, -1]
    cache, last = repeated(cache, count, n), last.repeat_interleave(n, dim=0)
    alive = torch.ones(count * n, 1, dtype=torch.bool, device=prompts.device)
    tokens, counts, log_probs = [], [], []
    for made in range(1, most + 1):
        logits = conditioned.logits(last)
        new = sampling.draw(logits, generator).to(prompts.dtype)
        if stop_token is not None:
            new = new.masked_fill(~alive, stop_token)
        tokens.append(new)
        counts.append(alive)
        log_probs.append(token_log_probs(logits[:, None], new, alive))
        if stop_token is not None:
            alive = alive & (new != stop_token)
        if made == most or not bool(alive.any()):
            break
        last = conditioned.features(new, cache)[:, -1]
    whole = (torch.cat(parts, dim=1).unflatten(0, (count, n)) for parts in (tokens, counts, log_probs))
    return Rollouts(*whole)


def repeated(cache: AnyCache, batch: int, n: int) -> AnyCache:
    """A cache of `batch` sequences as one of batch * n, each sequence n times in a row; the given one stays as it is.

    Every tensor of a cache has one row per sequence. Raises TypeError for one that has not.
    """
    new = copy.copy(cache)
    for name, held in vars(cache).items():
        if isinstance(held, Cache):
            setattr(new, name, repeated(held, batch, n))
        elif isinstance(held, list):
            setattr(new, name, [repeated(part, batch, n) for part in held])
        elif isinstance(held, Tensor):
            if held.ndim == 0 or len(held) != batch:
                raise TypeError(
                    f"{type(cache).__name__}.{name} is {list(held.shape)} for {batch} sequences: a cache can be repeated whose "
                    "tensors have one row per sequence"
                )
            setattr(new, name, held.repeat_interleave(n, dim=0))
    return new


def _joined(parts: list[Rollouts], order: list[int], stop_token: int | None) -> Rollouts:
    """The rows of all parts in the order of the prompts. Parts differ in length only where a stop token ends them."""
    time = max(part.tokens.shape[2] for part in parts)
    filler = 0 if stop_token is None else stop_token
    tokens = torch.cat([F.pad(part.tokens, (0, time - part.tokens.shape[2]), value=filler) for part in parts])
    counts = torch.cat([F.pad(part.counts, (0, time - part.counts.shape[2]), value=False) for part in parts])
    log_probs = torch.cat([F.pad(part.log_probs, (0, time - part.log_probs.shape[2])) for part in parts])
    return Rollouts(tokens[order], counts[order], log_probs[order])
