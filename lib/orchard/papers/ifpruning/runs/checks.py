"""Claims V1, V2 and V3 as rows: SoftTopK against solvers, its sum, gates and Jacobian; pruned decoders against masked ones.

    softtopk_checks   coordinate descent   largest distance of the closed form from 400 iterations of it, float64
                      SLSQP                from scipy's solver of the constrained problem itself, width 16
                      sum, gates           |sum lambda - k|, and how far the number of gates that are not zero is from k
                      Jacobian             of the written formula from the gradient of soft_top_k, and of autograd through the descent
    pruning_checks    masked decoder       logits of the gathered decoder minus those of the masked one, float32
                      stock Llama          of `transformers` of the smaller width, loaded with the gathered weights, minus the masked one
    iterations        by how much the iterative form misses the sum k, over epsilon and iterations

Where `transformers` is missing the rows of the stock Llama are absent, and V2 is decided by ours alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import logsumexp, xlogy
from torch import Tensor

from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary
from orchard.papers.ifpruning.integrations.llama import to_llama
from orchard.papers.ifpruning.method.masks import Gates, gated, masked
from orchard.papers.ifpruning.method.pruning import gathered, small_config
from orchard.papers.ifpruning.method.softtopk import hard_top_k, soft_top_k, soft_top_k_iterative

Row = tuple[str, str, float]
COLUMNS = ["part", "unit", "value"]  # of a row
EPSILONS = (0.1, 0.3, 1.0)
SHAPES = ((16, 5), (101, 26), (512, 128))  # width, k
ITERATIONS, SEED = 400, 0
VOCAB, DIM, WIDTH, KEEP, LAYERS, TIME = 31, 24, 67, 21, 3, 19
COUNTS = (5, 10, 20, 50, 100, 200, 400)  # of iterations
STARTS = {
    "lowered from 4, times 0.7": 4.0,
    "fixed": 0.0,
}  # epsilon at the first iteration; 0: at its value from the first


def logits(seed: int, width: int, rows: int = 3) -> Float[Tensor, "rows width"]:
    """Standard normal logits, float64."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coordinate_descent(
    z: Float[np.ndarray, "rows width"], k: int, epsilon: float, iterations: int = ITERATIONS
) -> Float[np.ndarray, "rows width"]:
    """The weights by alternating over the two multipliers of the problem, a of the sum and b of the bounds; nothing is sorted."""
    bound = -z
    shift = np.zeros((len(z), 1))
    for _ in range(iterations):
        shift = epsilon * (np.log(k) - logsumexp((z + bound) / epsilon, axis=1, keepdims=True))
        bound = np.minimum(0.0, -(z + shift))
    return np.exp((z + shift + bound) / epsilon)


def slsqp(z: Float[np.ndarray, "width"], k: int, epsilon: float) -> Float[np.ndarray, "width"]:
    """The weights as scipy finds them: the objective, its gradient, the bounds and the sum, and nothing of the solution's form."""
    found = minimize(
        lambda w: -(z @ w - epsilon * xlogy(w, w).sum()), np.full(len(z), k / len(z)), jac=lambda w: -(z - epsilon * (np.log(w) + 1)),
        bounds=[(1e-12, 1.0)] * len(z), method="SLSQP", options={"ftol": 1e-15, "maxiter": 1000},
        constraints={"type": "eq", "fun": lambda w: w.sum() - k, "jac": lambda w: np.ones_like(w)},
    )  # fmt: skip
    return np.asarray(found.x)


def jacobian(weights: Float[Tensor, "width"], epsilon: float) -> Float[Tensor, "width width"]:
    """The formula: (lambda_i delta_ij - lambda_i lambda_j / sum_U lambda) / epsilon on the unsaturated set U, else 0."""
    free = torch.where(weights < 1, weights, 0.0)
    return (free.diag() - free[:, None] * free[None, :] / free.sum()) / epsilon


def softtopk_rows(seed: int) -> Iterator[Row]:
    """V1 and V3, for every size and epsilon."""
    for width, k in SHAPES:
        for epsilon in EPSILONS:
            z, unit = logits(seed, width), f"width {width}, k {k}, epsilon {epsilon}"
            weights = soft_top_k(z, k, epsilon)
            descent = torch.from_numpy(coordinate_descent(z.numpy(), k, epsilon))
            yield "coordinate descent", unit, float((weights - descent).abs().max())
            yield "sum", unit, float((weights.sum(dim=-1) - k).abs().max())
            gates = weights * hard_top_k(z, k)
            yield "gates", unit, float(((gates != 0).sum(dim=-1) - k).abs().max())
            if width > 16:
                continue
            solved = np.stack([slsqp(row, k, epsilon) for row in z.numpy()])
            yield "SLSQP", unit, float((weights - torch.from_numpy(solved)).abs().max())
            formula = jacobian(weights[0], epsilon)
            for name, function in (
                ("soft_top_k", lambda row: soft_top_k(row, k, epsilon)),  # noqa: B023  # called in this turn
                ("descent", lambda row: soft_top_k_iterative(row, k, epsilon, iterations=ITERATIONS)),  # noqa: B023
            ):
                found = torch.autograd.functional.jacobian(function, z[0])
                yield "Jacobian", f"{name}, {unit}", float((found - formula).abs().max())


def pruning_config() -> Decoder.Config:
    """A small decoder of odd width."""
    attention = Attention.Config(num_heads=4, num_kv_heads=2, head_dim=8, rotary=Rotary.Config(theta=500.0))
    layers = [Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=WIDTH))] * LAYERS
    return Decoder.Config(vocab_size=VOCAB, dim=DIM, layers=layers)


def masked_decoder(seed: int) -> tuple[Decoder.Config, Decoder]:
    """The same with layers that can be masked, weights large enough that every layer matters to the logits."""
    cfg = masked(pruning_config(), KEEP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder: Decoder = cfg.build().eval()
        with torch.no_grad():
            for name, value in decoder.named_parameters():
                value.normal_(1.0 if "norm" in name else 0.0, 0.1 if "norm" in name else 0.2)
    return cfg, decoder


@torch.no_grad()
def pruning_rows(seed: int) -> list[Row]:
    """V2, for gates that fold a weight and gates of 1."""
    cfg, decoder = masked_decoder(seed)
    z = logits(seed, LAYERS * WIDTH, rows=1).view(LAYERS, WIDTH)
    tokens = torch.randint(VOCAB, (2, TIME), generator=torch.Generator().manual_seed(seed))
    rows: list[Row] = []
    for mode in ("soft", "st"):
        gates = Gates.Config(width=WIDTH, keep=KEEP, mode=mode).build().eval()(z.float())
        with gated(decoder, gates.expand(len(tokens), 1, -1, -1)):
            wanted = decoder(tokens)
        small = gathered(cfg, decoder, gates)
        rows.append(("masked decoder", mode, float((small(tokens) - wanted).abs().max())))
        if importlib.util.find_spec("transformers") is not None:
            llama = to_llama(small_config(cfg), small)
            rows.append(("stock Llama", mode, float((llama(tokens, use_cache=False).logits - wanted).abs().max())))
    return rows


def softtopk_table() -> pd.DataFrame:
    """The rows of :func:`softtopk_rows`: part, unit, value, seed."""
    return pd.DataFrame(softtopk_rows(SEED), columns=COLUMNS).assign(seed=SEED)


def pruning_table() -> pd.DataFrame:
    """The rows of :func:`pruning_rows`: part, unit, value, seed."""
    return pd.DataFrame(pruning_rows(SEED), columns=COLUMNS).assign(seed=SEED)


def iteration_table(width: int = 512, k: int = 128) -> pd.DataFrame:
    """By the iterative form, float64, 32 rows of standard normal logits: form, epsilon, iterations, k, sum (mean over rows), worst
    (largest distance of a weight from the closed form)."""
    z = logits(SEED, width, rows=32)
    rows = []
    for epsilon in (0.02, 0.03, 0.1, 0.3, 1.0):
        exact = soft_top_k(z, k, epsilon)
        for name, start in STARTS.items():
            for count in COUNTS:
                found = soft_top_k_iterative(z, k, epsilon, count, start)
                about = {"form": name, "epsilon": epsilon, "iterations": count, "k": k}
                sums, worst = float(found.sum(dim=-1).mean()), float((found - exact).abs().max())
                rows.append({**about, "sum": sums, "worst": worst})
    return pd.DataFrame(rows)
