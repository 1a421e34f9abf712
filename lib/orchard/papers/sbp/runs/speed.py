"""How fast documents are sampled.

    batched, cached         all at once: sorted, from one cache (`method.sampling.sample_documents`)
    batched, no cache       a batch whose every token reads all tokens before it again
    one by one, cached      the same function, one document at a time
    one by one, no cache    what a loop over documents does: the naive version, which says what all of them must give

All four draw from the same law with the same uniform numbers, so they write the same documents. Measured as `orchard.timing` says.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from orchard.config import REQUIRED
from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.method.sampling import Decode, draw, sample_documents
from orchard.papers.sbp.runs.synthesise import prompts
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed

FAST, SLOW = "batched, cached", "one by one, no cache"


def without_cache(
    prompts: list[np.ndarray], model: Decoder, cap: int, sampling: Sampling, uniforms: Tensor, stop: int
) -> Int64[np.ndarray, "prompts cap"]:
    """A `method.sampling.Decode` that reads the whole sequence for every token. Pads stand on the right, unseen."""
    device, longest = model.embedding.weight.device, max(map(len, prompts))
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens = torch.full((len(prompts), longest + cap), stop, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.from_numpy(prompt).to(device)
    rows, done = torch.arange(len(prompts), device=device), torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for age in range(cap):
        features = model.features(tokens[:, : longest + age])
        logits = model.logits(features[rows, lengths + age - 1])
        new = draw(logits, sampling, uniforms[:, age]).masked_fill(done, stop)
        tokens[rows, lengths + age] = new
        done |= new == stop
        if bool(done.all()):
            break
    made = tokens.cpu().numpy()
    return np.stack([made[row, len(prompt) : len(prompt) + cap] for row, prompt in enumerate(prompts)])


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
        ways: dict[str, tuple[Decode | None, int, int]] = {
            FAST: (None, cfg.batched, cfg.batched),
            "batched, no cache": (without_cache, cfg.batched_no_cache, cfg.batched_no_cache),
            "one by one, cached": (None, cfg.alone, 1),
            SLOW: (without_cache, cfg.alone_no_cache, 1),
        }
        tokens: dict[str, int] = {}

        def sample(name: str) -> None:
            decode, count, at_once = ways[name]
            generator, cap = torch.Generator(device).manual_seed(cfg.seed), corpus.cap + 1
            how = (Sampling(1.0), generator, symbols.eos, at_once, decode)
            bodies, ended = sample_documents(model, asked[:count], cap, *how)
            tokens[name] = sum(map(len, bodies)) + int(ended.sum())

        times = timed({name: partial(sample, name) for name in ways}, cfg.rounds, device)
        return {"rows": [row | {"documents": ways[row["name"]][1], "tokens": tokens[row["name"]]} for row in times]}
