"""The published models on the meta device: parameters, budgets, and FLOPs with and without synthesis."""

from __future__ import annotations

import pandas as pd
import torch

from orchard.papers.sbp.method.models import B3, B6, Size, decoder

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
