"""Continuing text with a decoder: the prompt in pieces, then token by token from the caches.

    p_t = softmax(logits_t / temperature), kept to the top_k likeliest tokens and to the nucleus of mass top_p

Reading a prompt of T tokens in pieces of C holds activations of C tokens, whatever T is. What then stays is the caches:
constant for layers with a window or a state, T tokens for global attention, by its definition.
Sources: Holtzman et al. 2020, arXiv 1904.09751 (nucleus); Fan et al. 2018, arXiv 1805.04833 (top k).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""(ids so far [batch, time], logits of the next token [batch, vocab]) -> logits [batch, vocab]; -inf forbids a token."""


@runtime_checkable
class Decodes(Protocol):
    """What is asked of a decoder here."""

    vocab_size: int
    embedding: Any

    def features(self, tokens: Any, cache: Any = None) -> Tensor: ...
    def logits(self, features: Tensor) -> Tensor: ...
    def new_cache(self, batch: int, max_length: int, *, device: Any, dtype: Any) -> Any: ...


# Tokens of a prompt that are read at once. Their activations are what a long prompt costs beyond the caches. 16k tokens
# through 3 local layers and a global one of dim 64 took 3.1 / 2.9 / 3.2 / 3.4 s on one CPU core in pieces of 128 / 512 /
# 1024 / 4096, and 1.3 s at once: the global layer then needs no mask. Who has the memory passes a longer piece.
PREFILL_CHUNK = 512


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits. Temperature 0 takes the likeliest; the filters are applied in the
    order top_k, top_p to the softmax at that temperature. Raises ValueError for a value outside its range."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature}: it must be >= 0; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: keep at least 1 token, or None for all of them")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: it is a probability mass in (0, 1], or None for all of it")

    def probabilities(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """What the next token is drawn from, in fp32; temperature must not be 0."""
        chances = (logits.float() / self.temperature).softmax(dim=-1)
        if self.top_k is not None and self.top_k < chances.shape[-1]:
            least = chances.topk(self.top_k, dim=-1).values[:, -1:]
            chances = chances.masked_fill(chances < least, 0.0)
            chances = chances / chances.sum(dim=-1, keepdim=True)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = chances.sort(dim=-1, descending=True)
            before = ordered.cumsum(dim=-1) - ordered  # the likeliest token stays: nothing is before it
            ordered = ordered.masked_fill(before >= self.top_p, 0.0)
            chances = torch.zeros_like(chances).scatter(-1, order, ordered)
        return chances

    def draw(self, logits: Float[Tensor, "batch vocab"], generator: torch.Generator | None) -> Int[Tensor, "batch 1"]:
        """The next token of every row."""
        if self.temperature == 0:
            return logits.argmax(dim=-1, keepdim=True)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)


def stream(
    decoder: Decodes,
    tokens: Int[Tensor, "batch time"],
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    stop_token: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    logits_processor: LogitsProcessor | None = None,
) -> Iterator[Int[Tensor, "batch 1"]]:
    """The new tokens one after the other, as they are made. `logits_processor` may change the logits before each draw.

    After `stop_token` a row repeats it; the iterator ends when every row has stopped. Without a stop token the host
    never waits for the device. Raises ValueError for an empty prompt, ids outside the vocabulary, a prompt that with
    the new tokens is longer than the rotary embedding allows, `max_new_tokens` < 0, or `prefill_chunk` < 1.
    """
    _check(decoder, tokens, max_new_tokens, prefill_chunk)
    options = (sampling, generator, stop_token, prefill_chunk, logits_processor)
    return _steps(decoder, tokens, max_new_tokens, *options) if max_new_tokens else iter(())


@torch.no_grad()
def _steps(
    decoder: Decodes,
    tokens: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None,
    stop_token: int | None,
    prefill_chunk: int,
    logits_processor: LogitsProcessor | None,
) -> Iterator[Tensor]:
    weight = decoder.embedding.weight
    batch, time = tokens.shape
    cache = decoder.new_cache(batch, time + max_new_tokens, device=weight.device, dtype=weight.dtype)
    for piece in tokens.split(prefill_chunk, dim=1):
        last = decoder.features(piece, cache)[:, -1]  # no logits but those after the last token
    stopped = torch.zeros(batch, 1, dtype=torch.bool, device=tokens.device)
    for made in range(1, max_new_tokens + 1):
        logits = decoder.logits(last)
        if logits_processor is not None:
            logits = _processed(logits_processor, tokens, logits)
        new = sampling.draw(logits, generator).to(tokens.dtype)
        if stop_token is not None:
            new = new.masked_fill(stopped, stop_token)
            stopped = stopped | (new == stop_token)
        yield new
        if logits_processor is not None:
            tokens = torch.cat([tokens, new], dim=1)
        if made == max_new_tokens or (stop_token is not None and bool(stopped.all())):
            return
        last = decoder.features(new, cache)[:, -1]


def _processed(logits_processor: LogitsProcessor, tokens: Tensor, logits: Tensor) -> Tensor:
    changed = logits_processor(tokens, logits)
    if changed.shape != logits.shape:
        raise ValueError(
            f"logits_processor gave {tuple(changed.shape)} for logits {tuple(logits.shape)}: give one logit per token of "
            "the vocabulary"
        )
    stuck = changed.isneginf().all(dim=-1).nonzero().flatten().tolist()
    if stuck:
        raise ValueError(
            f"logits_processor forbids every token after {tokens.shape[1]} tokens, in rows {stuck}: allow one"
        )
    return changed


def generate_each(
    decoder: Decodes,
    prompts: Sequence[Int[Tensor, "_"]],
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    stop_token: int | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    logits_processor: LogitsProcessor | None = None,
) -> list[Int[Tensor, "_"]]:
    """Continue prompts of different lengths; each result is what the prompt gives alone.

    Prompts of equal length are decoded together, without padding. A result ends with its first `stop_token` after the
    prompt. Raises ValueError as `stream` does, and without prompts.
    """
    if not prompts:
        raise ValueError("generate got no prompts: give at least one")
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(i)
    results: dict[int, Tensor] = {}
    for time, members in groups.items():
        batch = torch.stack([prompts[i] for i in members])
        options = (sampling, generator, stop_token, prefill_chunk, logits_processor)
        new = stream(decoder, batch, max_new_tokens, *options)
        whole = torch.cat([batch, *new], dim=1)
        for i, row in zip(members, whole, strict=True):
            ends = (row[time:] == stop_token).nonzero() if stop_token is not None else row.new_empty(0)
            results[i] = row[: time + int(ends[0]) + 1] if len(ends) else row
    return [results[i] for i in range(len(prompts))]


def _check(decoder: Decodes, tokens: Tensor, max_new_tokens: int, prefill_chunk: int) -> None:
    if max_new_tokens < 0 or prefill_chunk < 1:
        raise ValueError(
            f"generate(max_new_tokens={max_new_tokens}, prefill_chunk={prefill_chunk}): give at least 0 new tokens, "
            "and read at least 1 token of the prompt at once"
        )
    if tokens.numel() == 0:
        raise ValueError(
            f"generate got an empty prompt {tuple(tokens.shape)}: give at least one token, such as the tokenizer's bos"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= decoder.vocab_size:
        raise ValueError(
            f"token ids of the prompt run from {low} to {high}, but Decoder.Config.vocab_size is {decoder.vocab_size}: "
            "use the tokenizer that the model was trained with"
        )
