"""The published model on the meta device: what dropping experts leaves of Mixtral-8x7B."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch

from orchard.papers.moe_lottery.method.dropping import mixture_layers
from orchard.papers.moe_lottery.method.models import MIXTRAL, ROUNDS, decoder

VOCABULARY = 32_000  # of Mixtral-8x7B
BYTES = 2  # per parameter in bf16
FIRST, MOST = 200_000, 1_130_000  # tokens of fine-tuning in the first round, doubled up to the most (section 3.4)


def paper_shapes() -> pd.DataFrame:
    """Mixtral-8x7B with 0 to 6 of 8 experts dropped, on the meta device: parameters, memory, FLOPs, fine-tuning."""
    rows = []
    tokens = 0
    for dropped in range(ROUNDS + 1):
        shape = replace(MIXTRAL, num_experts=MIXTRAL.num_experts - dropped)
        with torch.device("meta"):
            model = decoder(shape, dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, vocab_size=VOCABULARY).build()
        tokens += min(FIRST * 2 ** (dropped - 1), MOST) if dropped else 0
        experts = sum(weight.numel() for layer in mixture_layers(model) for weight in layer.weights)
        rows.append({
            "model": "Mixtral-8x7B", "experts": shape.num_experts, "s (%)": 100 * dropped / MIXTRAL.num_experts,
            "parameters": model.num_parameters(), "in experts (%)": 100 * experts / model.num_parameters(),
            "GB in bf16": BYTES * model.num_parameters() / 1e9, "GFLOPs per token": model.flops_per_token(2048) / 1e9,
            "fine-tuning tokens": tokens, "training FLOPs": 3 * model.flops_per_token(2048) * tokens,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(**{"memory (%)": 100 * table["parameters"] / table["parameters"].iloc[0]})
