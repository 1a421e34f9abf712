"""The published models on the meta device."""

from __future__ import annotations

import pandas as pd
import torch

from orchard.papers.rattention.method.models import paper_model

BYTES = 2  # per element of a bf16 cache


def paper_shapes() -> pd.DataFrame:
    """The published models on the meta device: parameters, forward FLOPs per token, cache bytes, and how to launch them."""
    rows = []
    for size in ("3B", "12B"):
        for name in ("full_rope", "swa@2048", "rattn@512"):
            with torch.device("meta"):
                decoder = paper_model(size, name).build()
            rows.append({
                "model": size, "arm": name,
                "parameters": decoder.num_parameters(embedding=False),
                "matmul parameters": decoder.num_parameters(embedding=False, norms=False),
                "GFLOPs per token at 4k": decoder.flops_per_token(4096) / 1e9,
                "KV MiB at 4k": decoder.cache_bytes(4096, BYTES) / 2**20,
                "KV MiB at 32k": decoder.cache_bytes(32768, BYTES) / 2**20,
                "training FLOPs": 3 * decoder.flops_per_token(4096) * {"3B": 400e9, "12B": 600e9}[size],
            })  # fmt: skip
    return pd.DataFrame(rows)
