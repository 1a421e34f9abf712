"""How fast documents are sampled.

    batched, cached         all at once: sorted, from one cache (`method.sampling.sample_documents`)
    batched, no cache       a batch whose every token reads all tokens before it again
    one by one, cached      the same function, one document at a time
    one by one, no cache    what a loop over documents does: the naive version, which says what all of them must give

All four draw from the same law with the same uniform numbers, so they write the same documents. Measured as `orchard.timing` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer

from orchard.config import REQUIRED
from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.method.sampling import draw, sample_documents
from orchard.papers.sbp.runs.synthesise import prompts
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed

FAST, SLOW = "batched, cached", "one by one, no cache"


@torch.no_grad()
def sample_without_cache(
    model: Decoder,
    prompts: Sequence[Integer[np.ndarray, "_"]],
    cap: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop: int,
    at_once: int = 1,
) -> tuple[list[Integer[np.ndarray, "_"]], np.ndarray]:
    """What `method.sampling.sample_documents` does, with the whole sequence read for every token. Pads stand on the right, unseen."""
    device = model.embedding.weight.device
    uniforms = torch.rand(len(prompts), cap, generator=generator, device=device, dtype=torch.float64)
    bodies: list[np.ndarray] = []
    for start in range(0, len(prompts), at_once):
        part = prompts[start : start + at_once]
        lengths = torch.tensor([len(prompt) for prompt in part], device=device)
        longest = max(map(len, part))
        tokens = torch.full((len(part), longest + cap), stop, device=device)
        for row, prompt in enumerate(part):
            tokens[row, : len(prompt)] = torch.from_numpy(prompt).to(device)
        rows = torch.arange(len(part), device=device)
        done = torch.zeros(len(part), dtype=torch.bool, device=device)
        for age in range(cap):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = model.features(tokens[:, : longest + age])
                logits = model.logits(features[rows, lengths + age - 1])
            new = draw(logits, sampling, uniforms[start : start + at_once, age]).masked_fill(done, stop)
            tokens[rows, lengths + age] = new
            done |= new == stop
            if bool(done.all()):
                break
        made = tokens.cpu().numpy()
        bodies += [made[row, len(prompt) : len(prompt) + cap] for row, prompt in enumerate(part)]
    ends = [np.flatnonzero(body == stop) for body in bodies]
    cut = [body[: end[0]] if len(end) else body for body, end in zip(bodies, ends, strict=True)]
    return cut, np.array([len(end) > 0 for end in ends], dtype=bool)


class SamplingSpeed(Measurement):
    """Rows name, documents, tokens, round, seconds: four ways to sample from one synthesizer, in turn."""

    class Config(Measurement.Config):
        tuned: Tune.Config = REQUIRED
        batched: int = REQUIRED
        batched_no_cache: int = REQUIRED
        alone: int = REQUIRED
        alone_no_cache: int = REQUIRED
        rounds: int = REQUIRED

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every way samples documents of the same seeds, the first ones of them."""
        cfg, device = self.cfg, self.begin(work)
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        symbols, real = corpus.symbols, corpus.documents("train")
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned).to(device)
        seeds = np.random.default_rng([cfg.seed, 9]).integers(len(real), size=cfg.batched)
        asked = prompts(real, seeds, symbols, alone=False)
        ways: dict[str, tuple[Callable[..., Any], int, int]] = {
            FAST: (sample_documents, cfg.batched, cfg.batched),
            "batched, no cache": (sample_without_cache, cfg.batched_no_cache, cfg.batched_no_cache),
            "one by one, cached": (sample_documents, cfg.alone, 1),
            SLOW: (sample_without_cache, cfg.alone_no_cache, 1),
        }
        tokens: dict[str, int] = {}

        def sample(name: str) -> None:
            function, count, at_once = ways[name]
            generator = torch.Generator(device).manual_seed(cfg.seed)
            bodies, ended = function(
                model, asked[:count], corpus.cap + 1, Sampling(1.0), generator, symbols.eos, at_once=at_once
            )
            tokens[name] = sum(map(len, bodies)) + int(ended.sum())

        times = timed({name: partial(sample, name) for name in ways}, cfg.rounds, device)
        return {"rows": [row | {"documents": ways[row["name"]][1], "tokens": tokens[row["name"]]} for row in times]}
