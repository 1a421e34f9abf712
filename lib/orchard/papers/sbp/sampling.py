"""Sampling documents: many prompts of different lengths at once, from one cache (specification, 3.1 step 3).

Prompts are sorted by length and decoded in batches. A batch reads as many tokens as its shortest prompt has in one pass; then, token by
token, a row whose prompt is not over takes its next prompt token, every other row what it has sampled. Nothing is padded, so every
row is what its prompt gives alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Integer

from orchard.nn import Decoder, Sampling


@torch.no_grad()
def sample_documents(
    model: Decoder,
    prompts: Sequence[Integer[np.ndarray, "_"]],
    cap: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop: int,
    at_once: int = 4096,
) -> tuple[list[Integer[np.ndarray, "_"]], np.ndarray]:
    """At most ``cap`` new tokens for every prompt, ``stop`` left out, in the order of the prompts; and whether each met ``stop``."""
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    bodies: list[np.ndarray] = [np.empty(0, np.int64)] * len(prompts)
    ended = np.zeros(len(prompts), dtype=bool)
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        new = _sampled([prompts[i] for i in rows], model, cap, sampling, generator, stop)
        for i, row in zip(rows, new, strict=True):
            ends = np.flatnonzero(row == stop)
            ended[i] = len(ends) > 0
            bodies[i] = row[: ends[0]] if len(ends) else row
    return bodies, ended


def _sampled(
    prompts: list[np.ndarray], model: Decoder, cap: int, sampling: Sampling, generator: torch.Generator, stop: int
) -> np.ndarray:
    """New tokens [prompts, cap], ``stop`` after the end."""
    weight = model.embedding.weight
    lengths = np.array([len(prompt) for prompt in prompts])
    shortest, longest, count = int(lengths.min()), int(lengths.max()), len(prompts)
    forced = np.zeros((count, longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        forced[row, : len(prompt)] = prompt
    tokens = torch.from_numpy(forced).to(weight.device)
    length = torch.from_numpy(lengths).to(weight.device)
    made = torch.full((count, longest + cap), stop, dtype=torch.int64, device=weight.device)
    made[:, :longest] = tokens
    cache = model.new_cache(count, longest + cap, device=weight.device, dtype=weight.dtype)
    done = torch.zeros(count, dtype=torch.bool, device=weight.device)
    features = model.features(tokens[:, :shortest], cache)[:, -1]
    for place in range(shortest, longest + cap):
        new = sampling.draw(model.logits(features), generator)[:, 0]
        if place < longest:
            new = torch.where(place < length, tokens[:, place], new)
        new = new.masked_fill(done | (place >= length + cap), stop)
        made[:, place] = new
        done |= (new == stop) & (place >= length)
        if place + 1 == longest + cap or bool(done.all()):
            break
        features = model.features(new[:, None], cache)[:, -1]
    rows = made.cpu().numpy()
    return rows[np.arange(count)[:, None], lengths[:, None] + np.arange(cap)]
