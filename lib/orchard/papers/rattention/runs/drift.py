"""What it costs to keep the state S in bf16 instead of fp32 while decoding.

    S <- round(S + phi(k_t)^T v_t)        error after t tokens = RMS(phi(q) S - phi(q) S_wide) / RMS(phi(q) S_wide)

A sum of n terms is rounded n times, and bf16 has 8 bits: once S is some 256 times larger than a term, the term is lost.
Values of mean zero make S grow as sqrt(n), values with a mean as n. Rounding is the store's alone, products stay fp32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import Windows, tokens
from orchard.kernels.residual import feature_map
from orchard.nn import Decoder, DecoderCache
from orchard.runs import Run, Workspace
from orchard.train import TrainLM
from orchard.train.lm import load_model, token_losses

DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
QUERIES = 64  # read-outs per point
SYNTHETIC_TOKENS = 8192


def readout_error(
    q: Float[Tensor, "batch queries heads head_dim"],
    k: Float[Tensor, "batch time heads head_dim"],
    v: Float[Tensor, "batch time heads head_dim"],
    points: list[int],
    name: str = "softmax",
) -> pd.DataFrame:
    """Relative RMS error of reading with all `q` after each number of tokens in `points`: columns dtype, tokens, error."""
    fq, fk, v = feature_map(q.double(), name), feature_map(k.float(), name), v.float()
    exact = torch.zeros(len(k), k.shape[2], fk.shape[-1], v.shape[-1], dtype=torch.float64)
    stored, rows = {dtype: exact.to(dtype) for dtype in DTYPES}, []
    for t in range(max(points)):
        term = fk[:, t, :, :, None] * v[:, t, :, None, :]
        exact = exact + term
        stored = {dtype: (state.float() + term).to(dtype) for dtype, state in stored.items()}
        if t + 1 in points:
            truth = torch.einsum("bqhf,bhfd->bqhd", fq, exact)
            for dtype, state in stored.items():
                gap = torch.einsum("bqhf,bhfd->bqhd", fq, state.double()) - truth
                error = float(gap.square().mean().sqrt() / truth.square().mean().sqrt())
                rows.append({"dtype": DTYPES[dtype], "tokens": t + 1, "error": error})
    return pd.DataFrame(rows)


@torch.no_grad()
def decoded_nats(model: Decoder, text: Tensor, dtype: torch.dtype) -> Float[Tensor, "batch time"]:
    """Nats of each token of `text` [batch, time + 1], decoded one by one with the states of all layers kept in `dtype`."""
    cache: DecoderCache = model.new_cache(*text.shape, device=text.device, dtype=torch.float32)
    logits = []
    for t in range(text.shape[1] - 1):
        logits.append(model(text[:, t : t + 1], cache)[:, 0])
        for layer in cache.layers:
            if hasattr(layer, "state"):
                layer.state = layer.state.to(dtype).float()
    found = torch.stack(logits, dim=1).flatten(0, 1)
    return F.cross_entropy(found, text[:, 1:].flatten().long(), reduction="none").view(len(text), -1)


class StateDrift(Run):
    """Drift of a bf16 state on random inputs and in a trained model, with what it does to that model's loss.

    Result: ``rows`` (values, dtype, tokens, error) and ``bits_per_byte`` by dtype, decoded token by token.
    """

    class Config(Run.Config):
        model: TrainLM.Config = REQUIRED
        tokens: int = REQUIRED  # of text per window, and of the drift in the trained model
        windows: int = 8
        head_dim: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Both on the CPU: the recurrence is a loop over tokens, and rounding is the same everywhere."""
        cfg = self.cfg
        source = Windows(tokens(cfg.model.source, cfg.model.tokenizer, "test"), cfg.tokens)
        places = np.unique(np.linspace(0, len(source) - 1, num=cfg.windows).astype(np.int64))
        text = source.batch(places)["tokens"]
        model = load_model(work.result_of(cfg.model), cfg.model)
        rows: list[Any] = []
        for values, (q, k, v) in {
            "random, mean 0": _random(cfg.head_dim, 0.0),
            "random, mean 0.3": _random(cfg.head_dim, 0.3),
            "first layer on text": _layer_inputs(model, text[:, :-1]),
        }.items():
            last = k.shape[1]
            points = [int(p) for p in np.unique(np.geomspace(min(16, last), last, 10).round())]
            rows += readout_error(q, k, v, points).assign(values=values).to_dict("records")
        bits = {
            short: float(decoded_nats(model, text, dtype).double().mean() / np.log(2))
            for dtype, short in DTYPES.items()
        }
        parallel = float(token_losses(model, text).double().mean().detach() / np.log(2))
        return {"rows": rows, "bits_per_byte": bits | {"parallel form": parallel}}


def _random(head_dim: int, mean: float) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, SYNTHETIC_TOKENS, 2, head_dim, generator=draw) for _ in range(2))
    return torch.randn(2, QUERIES, 2, head_dim, generator=draw), k, v + mean


@torch.no_grad()
def _layer_inputs(model: Decoder, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Raw q, k, v of the first layer for `text`; of the queries the last ones, one head of each group."""
    block = model.layers[0]
    q, k, v = block.attention.project(block.attention_norm(model.embedding(text)))
    return q.unflatten(2, (k.shape[2], -1))[:, -QUERIES:, :, 0], k, v
