"""Samples from chosen seed documents: as many from each, none of them filtered.

    d2 ~ p(. | d1)      ``each`` times for each of ``seeds`` documents d1 of a split; d2 ~ p(.) where the synthesizer reads no seed

The corpus of an arm (`synthesis`) draws a new seed for every document and samples until the rules have kept enough. Questions about
one seed, and about synthesizers that may write nothing that is kept, need this instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Sampling
from orchard.papers.sbp.data import Documents, Symbols
from orchard.papers.sbp.sampling import sample_documents
from orchard.papers.sbp.tuning import Tune, load_synthesizer
from orchard.runs import Run, Workspace
from orchard.train import choose


class Draws(Run):
    """Sample ``each`` documents from each of ``seeds`` seed documents.

    Result: ``documents``, ``tokens``.
    Files: ``synthetic.safetensors`` as that of `synthesis.Synthesise`; ``seed`` is the number of the seed in its split.
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        split: str = "test"  # where seeds come from
        seeds: int = REQUIRED
        each: int = 64
        temperature: float = 1.0
        seed: int = 0

    preload = "orchard.papers.sbp.tuning"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Sample all of them; small enough to begin anew after a kill."""
        cfg = self.cfg
        hardware = choose(work.device)
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned).to(hardware.device)
        documents = corpus.documents(cfg.split)
        seeds = np.repeat(seed_numbers(documents, cfg.seeds, cfg.seed), cfg.each)
        alone = cfg.tuned.pairs is None
        generator = torch.Generator(hardware.device).manual_seed(
            int(np.random.default_rng([cfg.seed, 9]).integers(2**62))
        )
        bodies, ended = sample_documents(
            model, prompts(documents, seeds, corpus.symbols, alone), corpus.cap + 1, Sampling(cfg.temperature), generator,
            corpus.symbols.eos,
        )  # fmt: skip
        made = Documents.of(bodies)
        tensors = {
            "tokens": made.tokens, "offsets": made.offsets, "seed": np.full(len(made), -1) if alone else seeds,
            "batch": np.zeros(len(made), np.int64), "ended": ended,
        }  # fmt: skip
        save_file(
            {name: torch.from_numpy(value) for name, value in tensors.items()}, work.folder / "synthetic.safetensors"
        )
        return {"documents": len(made), "tokens": int((made.lengths + ended).sum())}


def seed_numbers(documents: Documents, count: int, seed: int) -> Int64[np.ndarray, "seeds"]:
    """The documents that are seeds, drawn once without replacement. Raises BadInput where there are fewer."""
    if count > len(documents):
        raise BadInput(f"{count} seed documents of {len(documents)}: ask for fewer seeds, or hold out more documents")
    return np.sort(np.random.default_rng([seed, 10]).permutation(len(documents))[:count])


def prompts(
    documents: Documents, seeds: Int64[np.ndarray, "samples"], symbols: Symbols, alone: bool
) -> list[Integer[np.ndarray, "_"]]:
    """``bos d1 sep bos`` for every sample; ``bos`` alone for a synthesizer that reads no seed."""
    if alone:
        return [np.array([symbols.bos])] * len(seeds)
    return [np.array([symbols.bos, *documents[i], symbols.sep, symbols.bos]) for i in seeds]
