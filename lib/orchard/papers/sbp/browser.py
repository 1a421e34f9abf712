"""From a seed to its samples: a trained synthesizer is sampled anew at every choice of seed and temperature.

What is drawn is d1 with P(c | d1), some samples with P(c | d2), and in each sample the n-grams (n >= 2) that it shares with d1. The
sampling seed follows from the choice alone, so the same choice shows the same samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from matplotlib.figure import Figure

from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.analysis import synthetic_arms
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.figures.browser import Page, Row, browsed
from orchard.papers.sbp.joint import studies
from orchard.papers.sbp.sampling import sample_documents
from orchard.papers.sbp.seeded import prompts, seed_numbers
from orchard.papers.sbp.tuning import load_synthesizer
from orchard.runs import Runner, Setting
from orchard.train import choose

SYNTHESIZERS = ("sbp-nn-lm", "sbp-true", "sbp-random", "uncond")
SEEDS, SAMPLES = 8, 5
TEMPERATURES = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]


@dataclass(frozen=True)
class Live:
    """Synthesizers of one cell by arm, the corpus they know, and held-out documents to seed them with, by name."""

    models: dict[str, Decoder]
    corpus: Any
    seeds: Documents
    seed: int

    @property
    def names(self) -> list[str]:
        """The seed documents as they stand in the menu: their number and concept."""
        labels = [None] * len(self.seeds) if self.seeds.labels is None else self.seeds.labels.tolist()
        return [f"{i}" if label is None else f"{i} (concept {label})" for i, label in enumerate(labels)]


def live(setting: Setting, run: Runner) -> Live:
    """The synthesizers of the first cell of `dep`."""
    cell, chosen = studies(setting, run, "dep")[0]
    arms = [arm for arm in SYNTHESIZERS if arm in synthetic_arms(setting, cell)]
    tuned = [chosen.tune(chosen.pairs(arm), arm) for arm in arms]
    device = choose("auto").device
    models = {
        arm: load_synthesizer(found, cfg).to(device)
        for arm, cfg, found in zip(arms, tuned, run(tuned), strict=True)
    }  # fmt: skip
    corpus = chosen.corpus.build()
    held_out = corpus.documents("test")
    return Live(models, corpus, held_out.take(seed_numbers(held_out, SEEDS, cell.seed)), cell.seed)


def browse(model: Live) -> tuple[Callable[..., Figure], dict[str, Any]]:
    """What `orchard.widgets.explorer` needs: a figure for a seed, a synthesizer and a temperature, and the controls of the three."""
    names, arms = model.names, list(model.models)

    def draw(seed: str = names[0], synthesizer: str = arms[0], temperature: float = 1.0) -> Figure:
        return browsed(page(model, names.index(seed), synthesizer, temperature))

    return draw, {"seed": names, "synthesizer": arms, "temperature": TEMPERATURES}


def page(model: Live, number: int, synthesizer: str, temperature: float) -> Page:
    """A seed document and what a synthesizer writes after it."""
    decoder, corpus = model.models[synthesizer], model.corpus
    first, symbols = model.seeds.take([number]), corpus.symbols
    chosen = np.random.default_rng([model.seed, 15, number, round(100 * temperature)])
    generator = torch.Generator(decoder.embedding.weight.device).manual_seed(int(chosen.integers(2**62)))
    asked = prompts(first, np.zeros(SAMPLES, np.int64), symbols, alone=synthesizer == "uncond")
    bodies, _ = sample_documents(decoder, asked, corpus.cap + 1, Sampling(temperature), generator, symbols.eos)
    documents = first + Documents.of(bodies)
    posterior = corpus.world.posterior(documents)
    rows = [
        Row([corpus.text(body[i : i + 1]) for i in range(len(body))], shared(body, first[0]) if place else None, law)
        for place, (body, law) in enumerate(zip((documents[i] for i in range(len(documents))), posterior, strict=True))
    ]
    return Page(rows[0], rows[1:], synthesizer, temperature, same(posterior))


def shared(body: Integer[np.ndarray, "_"], seed: Integer[np.ndarray, "_"], least: int = 2) -> Bool[np.ndarray, "_"]:
    """Which tokens of a body lie in an n-gram, n >= ``least``, that the seed has too."""
    known = {tuple(seed[i : i + least].tolist()) for i in range(len(seed) - least + 1)}
    inside = np.zeros(len(body), dtype=bool)
    for i in range(len(body) - least + 1):
        if tuple(body[i : i + least].tolist()) in known:
            inside[i : i + least] = True
    return inside


def same(posterior: Float64[np.ndarray, "documents concepts"]) -> list[float]:
    """P(same concept as the first) of every later document; 0 for an impossible one."""
    return np.nan_to_num(posterior[1:] @ posterior[0]).tolist()
