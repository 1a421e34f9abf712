"""The published models on the meta device: parameters, memory and FLOPs that follow from Table 4.

    per layer   2 d H h + 2 d Hk h   (queries and output, keys and values)  +  3 d D   (gated feed-forward)
    pruned      D -> k in every layer; nothing else changes
    predictor   a backbone, then two linear layers  d_p -> rank -> L D

The vocabulary is not stated: embedding and output matrix are in no number here. Nor is the shape of the predictor's backbone, whose size
is: 24 layers of width 1024 with 12 width^2 parameters each have exactly its 302M, and we take these. The context is ours, too.
Sections 3.1, 3.2 and appendix A.1 of the paper; numbers from :mod:`published`.
"""

from __future__ import annotations

import pandas as pd
import torch

from orchard.data.published import published
from orchard.nn import Decoder
from orchard.papers.ifpruning.data import published as paper
from orchard.papers.ifpruning.method import models
from orchard.papers.ifpruning.method.models import Size

CONTEXT = 4096  # tokens
BYTES = 2  # per parameter in bf16
BACKBONE = {"width": 1024, "layers": 24, "head dim": 64, "query heads": 16, "key-value heads": 16, "FFN width": 2730}


def decoder(shape: dict[str, int]) -> Decoder.Config:
    """A decoder of a row of Table 4, whose heads are as wide together. Its one-token vocabulary is for the unknown one."""
    heads, width = (shape["query heads"], shape["key-value heads"]), shape["FFN width"]
    made = models.decoder(Size(shape["width"], shape["layers"], *heads, width, width), width, 1)
    return made.set(tie_embeddings=True)


def size(shape: dict[str, int]) -> tuple[int, float]:
    """Non-embedding parameters, and forward FLOPs per token at ``CONTEXT`` without the output matrix, of a model on the meta device."""
    with torch.device("meta"):
        model = decoder(shape).build()
    return model.num_parameters(embedding=False), model.flops_per_token(CONTEXT) - 2 * model.dim * model.vocab_size


def paper_shapes() -> pd.DataFrame:
    """One row per published size: widths, non-embedding parameters of the source and of what is left after pruning, bf16 memory, the
    predictor, and both ledgers.

    A masked model trains at the cost of its source (``GFLOPs per token, masked``), and serves at that of the pruned one. ``training
    FLOPs`` are three forward passes over the tokens of the dense pre-training (5T; dense 3B: 9T), which is stated, where the tokens of
    continued pre-training are not. The dense 3B model has no predictor.
    """
    numbers = published("ifpruning")
    setup = numbers[numbers["table"] == "set-up"].set_index(["row", "column"])["value"]
    rank = int(setup["predictor", "head rank"])
    backbone, backbone_flops = size(BACKBONE)
    table = paper.shapes()
    shapes = {str(name): {str(key): int(value) for key, value in row.items()} for name, row in table.iterrows()}
    kept = shapes["3B"]["FFN width"]
    sizes = {name: size(shape) for name, shape in shapes.items()}
    active, pruned_flops = sizes["3B"]  # what any source is pruned to: only inner widths differ (tested)
    rows = []
    for name, shape in shapes.items():
        parameters, flops = sizes[name]
        prunes = shape["FFN width"] > kept
        head_size = rank * (BACKBONE["width"] + shape["layers"] * shape["FFN width"]) if prunes else 0  # no biases
        predictor = backbone + head_size if prunes else 0
        tokens = setup["pre-training", "tokens" if prunes else "tokens, dense 3B"]
        rows.append({
            "model": name, "FFN width D": shape["FFN width"], "kept k": kept, "k / D (chance overlap)": kept / shape["FFN width"],
            "parameters": parameters, "active parameters": active, "predictor head": head_size, "predictor": predictor,
            "active with predictor": active + predictor, "GB in bf16": BYTES * parameters / 1e9,
            "GB in bf16, pruned": BYTES * active / 1e9, "GB in bf16, predictor": BYTES * predictor / 1e9,
            "GFLOPs per token, masked": flops / 1e9, "GFLOPs per token, pruned": pruned_flops / 1e9,
            "predictor, of pruned prefill (%)": 100 * backbone_flops / pruned_flops if prunes else 0.0,
            "tokens": float(tokens), "training FLOPs": 3 * flops * float(tokens),
        })  # fmt: skip
    return pd.DataFrame(rows)
