"""The experiments of the series by name: each gives a tidy table in a setting, running what the store lacks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch

from orchard.papers.sbp import (
    ablations,
    bounds,
    closeness,
    cloze,
    concepts,
    costs,
    information,
    invariants,
    joint,
    pair_report,
    pairing_speed,
    partners,
    quality,
    real_text,
    rounds,
    sampling_speed,
    scaling,
    similarity,
    sizes,
)
from orchard.papers.sbp import published as paper
from orchard.papers.sbp.profiles import B3, B6, PROFILES, Profile, Size, decoder
from orchard.runs import Runner, Setting, tabulated, tabulation

__all__ = ["EXPERIMENTS", "LAUNCH", "PROFILES", "Profile", "paper_shapes"]

VOCABULARY, CONTEXT = 49_152, 4096  # the vocabulary is from memory, see the specification
SCALES: tuple[tuple[str, Size, float, float, float], ...] = (  # name, size, budget, unique and synthetic tokens
    ("200B, 3B", B3, 200e9, 10e9, 75e9),
    ("1T, 3B", B3, 1e12, 50e9, 125e9),
    ("1T, 6B", B6, 1e12, 50e9, 250e9),
)
EMBEDDER = 0.6e9  # parameters of the paper's embedder
LENGTH = 828  # tokens of a document, 482B / 582M


def paper_shapes() -> pd.DataFrame:
    """The three published scales on the meta device: parameters, budgets, repeats, and FLOPs with and without synthesis.

    Training is three forward passes. Synthesis adds: embedding of the unique tokens (two FLOPs per parameter of the embedder), one
    pass over as many pair tokens as there are unique tokens (tuning, three forward passes: our assumption, the paper does not say),
    and one forward pass for every sampled token and for its seed.
    """
    rows = []
    for name, size, budget, unique, synthetic in SCALES:
        with torch.device("meta"):
            model = decoder(size, 0.0, VOCABULARY).build()
        forward = model.flops_per_token(CONTEXT)
        training = 3 * forward * budget
        embedding, tuning, sampling = 2 * EMBEDDER * unique, 3 * forward * unique, 2 * forward * synthetic
        rows.append({
            "scale": name, "parameters": model.num_parameters(), "GB in bf16": 2 * model.num_parameters() / 1e9,
            "budget (tokens)": budget, "unique (tokens)": unique, "synthetic (tokens)": synthetic, "share": synthetic / budget,
            "repeats": (budget - synthetic) / unique, "repeats, baseline": budget / unique,
            "synthetic documents": synthetic / LENGTH, "training FLOPs": training, "embedding FLOPs": embedding,
            "tuning FLOPs": tuning, "sampling FLOPs": sampling,
            "with synthesis, FLOPs": 2 * training + embedding + tuning + sampling,  # the repetition model is trained too
        })  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(**{"times the baseline": table["with synthesis, FLOPs"] / table["training FLOPs"]})


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of :func:`paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return paper.published()


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "published": published,
    "paper_shapes": published_shapes,
    **joint.EXPERIMENTS,
    **pair_report.EXPERIMENTS,
    **pairing_speed.EXPERIMENTS,
    **similarity.EXPERIMENTS,
    **information.EXPERIMENTS,
    **bounds.EXPERIMENTS,
    **invariants.EXPERIMENTS,
    **cloze.EXPERIMENTS,
    **quality.EXPERIMENTS,
    **partners.EXPERIMENTS,
    **concepts.EXPERIMENTS,
    **sizes.EXPERIMENTS,
    **closeness.EXPERIMENTS,
    **sampling_speed.EXPERIMENTS,
    **ablations.EXPERIMENTS,
    **costs.EXPERIMENTS,
    **rounds.EXPERIMENTS,
    **scaling.EXPERIMENTS,
    **real_text.EXPERIMENTS,
}

LAUNCH = "orchard sbp run TEXT OUT   (pair, tune, synthesise, filter and mix on a corpus of your own)"
