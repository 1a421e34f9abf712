"""Sampling documents: many prompts of different lengths at once, from one cache.

    y_t = min {v : p(0) + ... + p(v) > u_t}      p = p(. | prompt, y_<t)      u_t ~ U[0, 1)

Prompts are sorted by length and decoded in batches. A batch reads as many tokens as its shortest prompt has in one pass, equal ones
once; then, token by token, a row whose prompt is not over takes its next prompt token, every other row what it has drawn. Nothing is
padded, and every row has its own uniform numbers, so each document is what its prompt and its numbers give alone: batch size and
neighbours do not matter but for rounding. Rows that have ended leave the batch. `torch.multinomial` draws a number for every entry of
the vocabulary, which took a fifth of the time; inversion takes one per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from orchard.nn import Decoder, Sampling
from orchard.nn.transformer import DecoderCache

CHECK = 8  # tokens between two looks at who has ended: the only times the host waits for the device
CACHE_BYTES = {"cuda": 16 * 2**30, "cpu": 2 * 2**30}  # of a batch, at most

Decode = Callable[[list[np.ndarray], Decoder, int, Sampling, Tensor, int], np.ndarray]


@torch.no_grad()
def sample_documents(
    model: Decoder,
    prompts: Sequence[Integer[np.ndarray, "_"]],
    cap: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop: int,
    at_once: int = 4096,
    decode: Decode | None = None,
) -> tuple[list[Integer[np.ndarray, "_"]], np.ndarray]:
    """At most ``cap`` new tokens for every prompt, ``stop`` left out, in the order of the prompts; and whether each met ``stop``.

    ``generator`` is one of the model's device. A batch has ``at_once`` rows at most, and fewer where their caches would not fit.
    ``decode``: how a batch is decoded, instead of from one cache (`runs.speed` has the naive way).
    """
    device = model.embedding.weight.device
    uniforms = torch.rand(len(prompts), cap, generator=generator, device=device, dtype=torch.float64)
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    bodies: list[np.ndarray] = [np.empty(0, np.int64)] * len(prompts)
    ended = np.zeros(len(prompts), dtype=bool)
    # On a GPU as everywhere where documents are scored: bf16 products, and caches that hold what they give.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for rows in _batches(lengths, min(at_once, _fitting(model, int(lengths.max(initial=1)) + cap))):
            drawn = uniforms[torch.from_numpy(rows)]
            new = (decode or _sampled)([prompts[i] for i in rows], model, cap, sampling, drawn, stop)
            for i, row in zip(rows, new, strict=True):
                ends = np.flatnonzero(row == stop)
                ended[i] = len(ends) > 0
                bodies[i] = row[: ends[0]] if len(ends) else row
    return bodies, ended


def _fitting(model: Decoder, length: int) -> int:
    """Rows whose caches fit."""
    most = CACHE_BYTES.get(model.embedding.weight.device.type, CACHE_BYTES["cpu"])
    return max(1, most // model.cache_bytes(length, _cache_dtype(model).itemsize))


def _cache_dtype(model: Decoder) -> torch.dtype:
    weight = model.embedding.weight
    return torch.bfloat16 if weight.device.type == "cuda" else weight.dtype


def _batches(lengths: Int64[np.ndarray, "prompts"], at_once: int) -> Iterator[Int64[np.ndarray, "_"]]:
    """Numbers of prompts, sorted by length. What one is longer than the shortest of its batch, it reads token by token; smaller batches of
    more equal lengths were not faster (512 prompts of 5 to 200 tokens: 5.0 s of processor time as one batch, 5.9 s as four)."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), at_once):
        yield order[start : start + at_once]


def _sampled(
    prompts: list[np.ndarray],
    model: Decoder,
    cap: int,
    sampling: Sampling,
    uniforms: Float64[Tensor, "prompts cap"],
    stop: int,
) -> Int64[np.ndarray, "prompts cap"]:
    """New tokens, ``stop`` after the end."""
    device = model.embedding.weight.device
    sizes = np.array([len(prompt) for prompt in prompts])
    shortest, longest, count = int(sizes.min()), int(sizes.max()), len(prompts)
    forced = np.zeros((count, longest), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        forced[i, : len(prompt)] = prompt
    tokens, length = torch.from_numpy(forced).to(device), torch.from_numpy(sizes).to(device)
    features, cache = _read(model, forced[:, :shortest], longest + cap)
    made = torch.full((count, cap), stop, dtype=torch.int64, device=device)
    row = torch.arange(count, device=device)  # of `made`, for every row that is still in the batch
    done = torch.zeros(count, dtype=torch.bool, device=device)
    for place in range(shortest, longest + cap):
        age = place - length  # which new token of its row this is
        at = age.clamp(0, cap - 1)
        new = draw(model.logits(features), sampling, uniforms.gather(1, at[:, None])[:, 0])
        if place < longest:
            new = torch.where(age < 0, tokens[:, place], new)
        live = (age >= 0) & ~done
        made[row, at] = torch.where(live, new, made[row, at])
        done = done | (live & ((new == stop) | (age == cap - 1)))
        if place + 1 == longest + cap:
            break
        if (place - shortest) % CHECK == CHECK - 1:
            left = int((~done).sum())
            if left == 0:
                break
            if 2 * left <= len(done):  # all such copies together are smaller than the cache
                stay = torch.nonzero(~done)[:, 0]
                row, done, new, length = row[stay], done[stay], new[stay], length[stay]
                tokens, uniforms = tokens[stay], uniforms[stay]
                _keep_rows(cache, stay)
        features = model.features(new[:, None], cache)[:, -1]
    return made.cpu().numpy()


def _read(
    model: Decoder, prompts: Int64[np.ndarray, "rows shortest"], length: int
) -> tuple[Float[Tensor, "rows dim"], DecoderCache]:
    """What the output matrix reads after each prompt, and the cache to go on with. Equal rows are read once."""
    device = model.embedding.weight.device
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(prompt.tobytes(), len(numbers)) for prompt in prompts]
    distinct = torch.from_numpy(prompts[np.unique(which, return_index=True)[1]]).to(device)
    cache = model.new_cache(len(distinct), length, device=device, dtype=_cache_dtype(model))
    features = model.features(distinct, cache)[:, -1]
    if len(distinct) < len(prompts):
        rows = torch.tensor(which, device=device)
        features = features[rows]
        _keep_rows(cache, rows)
    return features, cache


def _keep_rows(cache: DecoderCache, rows: Int64[Tensor, "rows"]) -> None:
    """The cache of these rows alone, in this order."""
    for layer in cache.layers:
        for name, held in vars(layer).items():
            if isinstance(held, Tensor):
                setattr(layer, name, held[rows])


def draw(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, uniforms: Float64[Tensor, "rows"]
) -> Int64[Tensor, "rows"]:
    """One token per row by inversion of the cumulated law, summed in float64; temperature 0 takes the likeliest."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    sums = sampling.probabilities(logits).cumsum(dim=-1, dtype=torch.float64)
    found = torch.searchsorted(sums, (uniforms * sums[:, -1])[:, None], right=True)[:, 0]
    return found.clamp_max(logits.shape[-1] - 1)
