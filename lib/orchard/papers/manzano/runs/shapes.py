"""The published models on the meta device: what they hold, and what training them takes."""

from __future__ import annotations

import pandas as pd
import torch

from orchard.papers.manzano.method.decoder import count_parameters
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.papers.manzano.method.models import (
    DIT_AIR,
    LANGUAGE_MODELS,
    MANZANO_DECODERS,
    PAPER_LEVELS,
    PAPER_PICTURE,
    VIT_L,
    Picture,
    image_decoder,
    language_model,
    tokenizer,
)
from orchard.papers.manzano.method.unified import Vocabulary

TEXT = 150_000  # ids of the text vocabulary, which is not published
CONTEXT = 4096  # tokens; not published
TOKENS = {"300M": 1.6e12, "1B": 1.6e12, "3B": 1.6e12, "30B": 0.8e12}  # of pre-training
CONTINUED = 83e9
DECODERS = {"0.9B": 0.9e9, "1.75B": 1.75e9, "3.52B": 3.52e9}
LATENT, CHANNELS, PATCH = 32, 8, 2  # of 256 pixels: DiT-Air's VAE, assumed for Manzano


def paper_shapes() -> pd.DataFrame:
    """One row per published model: part, model, parameters, published (where it is), GB in bf16, tokens of a picture, training FLOPs."""
    vocabulary = Vocabulary(TEXT, codebook_size(PAPER_LEVELS))
    rows: list[dict[str, object]] = []
    with torch.device("meta"):
        tok = tokenizer(PAPER_PICTURE, VIT_L, PAPER_LEVELS, hidden_dim=4096, dim=2048).build()
        rows.append({"part": "tokenizer", "model": "ViT-L, two adapters", "parameters": count_parameters(tok)})
        for name, size in LANGUAGE_MODELS.items():
            decoder = language_model(size, vocabulary).build()
            flops = 3 * decoder.flops_per_token(CONTEXT) * (TOKENS[name] + CONTINUED)
            rows.append({
                "part": "language model", "model": name, "parameters": decoder.num_parameters(embedding=False),
                "embedding": vocabulary.size * size.dim, "training FLOPs": flops,
            })  # fmt: skip
        for name, letter in MANZANO_DECODERS.items():
            latent, size = Picture(LATENT, LATENT), DIT_AIR[letter]
            air = image_decoder(latent, size, PATCH, len(PAPER_LEVELS), square=LATENT, channels=CHANNELS).build()
            rows.append({
                "part": "image decoder", "model": f"{name} (DiT-Air {letter})", "parameters": count_parameters(air),
                "published": DECODERS[name],
            })  # fmt: skip
    table = pd.DataFrame(rows)
    table["GB in bf16"] = 2 * table["parameters"] / 1e9
    table["tokens of a picture"] = PAPER_PICTURE.tokens
    return table
