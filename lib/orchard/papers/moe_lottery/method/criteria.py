"""MC-Suite: sixteen criteria for dropping experts, and later ones beside them, each from statistics to one score per expert.

Section 3.2 of the specification (the paper's equations 3 to 17), with the readings of its section 3.3. A criterion is dropped by
its minimum or its maximum; `drop` is the direction the paper reports or implies, `None` where only a figure that could not be
read shows it: then both are always run. An expert that no token, or a single one, was routed to has no spread: criteria of
activations and of gradients give it -inf, which drops it first by the minimum, and never NaN.

All sums are in float64. Shapes: scores [n], pairs [n, n] with a zero diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orchard.errors import BadInput, closest
from orchard.papers.moe_lottery.method.collect import LayerStatistics
from orchard.papers.moe_lottery.method.dropping import worst

Scores = Float[Tensor, "n"]
FLOOR = 1e-12  # of a standard deviation, of a norm
COLUMNS = 2**17  # weights of every expert that `ews` holds in float64 at a time


def ews(stats: LayerStatistics) -> Scores:
    """Weight similarity: sum over the others of the cosine of the flattened weights. Not invariant to the order of hidden units.
    Products are added up over pieces of the weights, so that a large layer needs no float64 copy."""
    n = stats.num_experts
    products = torch.zeros(n, n, dtype=torch.float64, device=stats.router.device)
    for matrices in (stats.gate_up, stats.down):
        for piece in matrices.flatten(1).split(COLUMNS, dim=1):
            products += piece.double() @ piece.double().T
    norms = products.diagonal().sqrt().clamp_min(FLOOR)
    cosines = products / norms / norms[:, None]
    return cosines.sum(dim=1) - cosines.diagonal()


def ews_matched(stats: LayerStatistics) -> Scores:
    """Weight similarity after hidden units are matched: every pair's units are assigned to each other (Hungarian) so that the sum of
    the products of their gate, up and down weights is largest. Invariant to the order of hidden units; O(n^2 f^3)."""
    from scipy.optimize import linear_sum_assignment

    gate, up = stats.gate_up.double().chunk(2, dim=1)
    units = torch.cat([gate, up, stats.down.double().transpose(1, 2)], dim=2)  # [n, f, 3d]
    norms = units.flatten(1).norm(dim=1)
    cosines = torch.zeros(len(units), len(units), dtype=torch.float64)
    for p in range(len(units)):
        for q in range(p):
            products = (units[p] @ units[q].T).cpu().numpy()
            rows, columns = linear_sum_assignment(products, maximize=True)
            cosines[p, q] = cosines[q, p] = float(products[rows, columns].sum() / (norms[p] * norms[q]))
    return cosines.sum(dim=1).to(stats.router.device)


def rwn(stats: LayerStatistics) -> Scores:
    """Router weight norm: length of the expert's row of the router."""
    return stats.router.double().norm(dim=1)


def wsr(stats: LayerStatistics) -> Scores:
    """Stable rank |W|_F^2 / sigma_1^2, mean over the gate, up and down matrices."""
    matrices = _matrices(stats.gate_up, stats.down)
    return torch.stack([_stable_rank(matrix) for matrix in matrices]).mean(dim=0)


def ewn(stats: LayerStatistics) -> Scores:
    """Weight norm: length of all weights of the expert."""
    return _weights(stats).norm(dim=1)


def aimer(stats: LayerStatistics) -> Scores:
    """AIMER: mean |w| over the root mean square of all weights of the expert; needs no data. Later than the paper."""
    weights = _weights(stats)
    return weights.abs().mean(dim=1) / weights.square().mean(dim=1).sqrt()


def euf(stats: LayerStatistics) -> Scores:
    """Usage frequency: share of tokens routed to the expert."""
    return stats.count.double() / stats.tokens


def soft_count(stats: LayerStatistics) -> Scores:
    """Soft usage (SEER-MoE): sum of the router's weights over the tokens routed to the expert, per token."""
    return stats.soft / stats.tokens


def ecc(stats: LayerStatistics) -> Scores:
    """Collaboration: the most tokens the expert shares with another one; dropping follows the pairs (`pairs_ecc`)."""
    return pairs_ecc(stats).amax(dim=1)


def pairs_ecc(stats: LayerStatistics) -> Float[Tensor, "n n"]:
    """Tokens routed to both experts."""
    return stats.together.double()


def evtc(stats: LayerStatistics) -> Scores:
    """Vocabulary coverage: share of the vocabulary that was routed to the expert at least once."""
    return (stats.seen > 0).sum(dim=1).double() / stats.seen.shape[1]


def ets(stats: LayerStatistics) -> Scores:
    """Input-token similarity: the most token ids the expert shares with another one; dropping follows the pairs (`pairs_ets`)."""
    return pairs_ets(stats).amax(dim=1)


def pairs_ets(stats: LayerStatistics) -> Float[Tensor, "n n"]:
    """Token ids routed to both experts: |ids_p and ids_q|. Ids, not positions: with positions it would be `pairs_ecc`."""
    present = (stats.seen > 0).double()
    return (present @ present.T).fill_diagonal_(0)


def eas(stats: LayerStatistics) -> Scores:
    """Activation similarity: sum over the others of the mean cosine of rows, <mean unit row of p, mean unit row of q>."""
    mean = stats.units / stats.count.clamp_min(1)[:, None]
    products = mean @ mean.T
    return _seen_twice(products.sum(dim=1) - products.diagonal(), stats)


def eae(stats: LayerStatistics) -> Scores:
    """Activation entropy: sum over channels of log sd_t(A[:, j])."""
    count = stats.count.double()[:, None].clamp_min(1)
    variance = (stats.squares / count - (stats.total / count).square()).clamp_min(0)
    return _seen_twice(variance.sqrt().clamp_min(FLOOR).log().sum(dim=1), stats)


def eao(stats: LayerStatistics) -> Scores:
    """Activation outliers: entries of the rows outside mean +- 3 sd of their row."""
    return _seen_twice(stats.outliers.double(), stats)


def eao_rate(stats: LayerStatistics) -> Scores:
    """Activation outliers per entry: `eao` without the growth with the number of tokens."""
    return _per_token(stats.outliers.double() / stats.total.shape[1], stats)


def ean(stats: LayerStatistics) -> Scores:
    """Activation norm, equation 13 as it is printed: sum over channels of the norm over tokens. Grows as sqrt(tokens)."""
    return _seen_twice(stats.squares.sqrt().sum(dim=1), stats)


def ean_row(stats: LayerStatistics) -> Scores:
    """Activation norm as other code reads it: sum over tokens of the norm of the row. Grows as the number of tokens."""
    return _seen_twice(stats.norms, stats)


def man(stats: LayerStatistics) -> Scores:
    """Mean activation norm (arXiv 2606.15716): `ean_row` per token."""
    return _per_token(stats.norms, stats)


def reap(stats: LayerStatistics) -> Scores:
    """REAP (arXiv 2510.13999): mean over the expert's tokens of router weight times norm of the row."""
    return _per_token(stats.weighted, stats)


def egs(stats: LayerStatistics) -> Scores:
    """Gradient similarity: sum over the others of the cosine of the flattened gradients."""
    return _seen_twice(_similarity(_gradients(stats)), stats)


def ege(stats: LayerStatistics) -> Scores:
    """Gradient entropy: sum over the output rows of gate, up and down of log sd of the row of dL/dW."""
    return _row_entropy(stats, dim=2)


def ege_columns(stats: LayerStatistics) -> Scores:
    """Gradient entropy over columns: the other reading of the paper's "hidden index"."""
    return _row_entropy(stats, dim=1)


def ego(stats: LayerStatistics) -> Scores:
    """Gradient outliers: entries of dL/dW outside mean +- 3 sd of their matrix, summed over gate, up and down."""
    return _seen_twice(torch.stack([_outside(matrix) for matrix in _gradient_matrices(stats)]).sum(dim=0), stats)


def ego_rate(stats: LayerStatistics) -> Scores:
    """Gradient outliers per entry."""
    return ego(stats) / _gradients(stats).shape[1]


def egn(stats: LayerStatistics) -> Scores:
    """Gradient norm: length of the gradient with respect to all weights of the expert."""
    return _seen_twice(_gradients(stats).norm(dim=1), stats)


@dataclass(frozen=True)
class Criterion:
    """A criterion: its group, what it is in words, the paper's direction, and how it is computed.

    `pairs`: it ranks pairs of experts; the less used member of the extreme pair is dropped, and so on. `cost`: "none" needs
    the weights alone, "forward" a pass over the calibration text, "backward" a second one with gradients.
    """

    id: str
    group: str
    name: str
    drop: str | None
    score: Callable[[LayerStatistics], Tensor]
    cost: str = "forward"
    pairs: Callable[[LayerStatistics], Tensor] | None = None
    in_paper: bool = True


WEIGHT, INFERENCE, ACTIVATION, GRADIENT = GROUPS = ("weight", "inference", "activation", "gradient")
CRITERIA: dict[str, Criterion] = {
    row.id: row for row in (
        Criterion("ews", WEIGHT, "weight similarity", None, ews, "none"),
        Criterion("rwn", WEIGHT, "router weight norm", "max", rwn, "none"),
        Criterion("wsr", WEIGHT, "stable rank", "max", wsr, "none"),
        Criterion("ewn", WEIGHT, "weight norm", None, ewn, "none"),
        Criterion("euf", INFERENCE, "usage frequency", "min", euf),
        Criterion("ecc", INFERENCE, "collaboration", "max", ecc, pairs=pairs_ecc),
        Criterion("evtc", INFERENCE, "vocabulary coverage", "min", evtc),
        Criterion("ets", INFERENCE, "input-token similarity", "max", ets, pairs=pairs_ets),
        Criterion("eas", ACTIVATION, "activation similarity", "max", eas),
        Criterion("eae", ACTIVATION, "activation entropy", "min", eae),
        Criterion("eao", ACTIVATION, "activation outliers", None, eao),
        Criterion("ean", ACTIVATION, "activation norm", "min", ean),
        Criterion("egs", GRADIENT, "gradient similarity", None, egs, "backward"),
        Criterion("ege", GRADIENT, "gradient entropy", "min", ege, "backward"),
        Criterion("ego", GRADIENT, "gradient outliers", None, ego, "backward"),
        Criterion("egn", GRADIENT, "gradient norm", None, egn, "backward"),
        Criterion("ews_matched", WEIGHT, "weight similarity, units matched", None, ews_matched, "none", in_paper=False),
        Criterion("aimer", WEIGHT, "mean |w| over rms", None, aimer, "none", in_paper=False),
        Criterion("soft_count", INFERENCE, "soft usage", "min", soft_count, in_paper=False),
        Criterion("eao_rate", ACTIVATION, "activation outliers per entry", None, eao_rate, in_paper=False),
        Criterion("ean_row", ACTIVATION, "activation norm over rows", "min", ean_row, in_paper=False),
        Criterion("man", ACTIVATION, "mean activation norm", "min", man, in_paper=False),
        Criterion("reap", ACTIVATION, "REAP", "min", reap, in_paper=False),
        Criterion("ege_columns", GRADIENT, "gradient entropy over columns", "min", ege_columns, "backward", in_paper=False),
        Criterion("ego_rate", GRADIENT, "gradient outliers per entry", None, ego_rate, "backward", in_paper=False),
    )
}  # fmt: skip
PAPER = tuple(name for name, criterion in CRITERIA.items() if criterion.in_paper)


def criterion(name: str) -> Criterion:
    """A criterion by its id. Raises BadInput."""
    if name not in CRITERIA:
        raise BadInput(f"criterion {name!r} does not exist: {closest(name, CRITERIA)}")
    return CRITERIA[name]


def chosen(stats: LayerStatistics, name: str, count: int, direction: str) -> list[int]:
    """The `count` experts that a criterion drops from a layer, in the order in which they go.

    A criterion of pairs drops, from the pair with the most (direction "max") or the fewest in common, the less used member,
    and looks again at those that are left.
    """
    found = criterion(name)
    if found.pairs is None:
        return worst(found.score(stats), count, direction)
    pairs, left, dropped = found.pairs(stats), list(range(stats.num_experts)), list[int]()
    for _ in range(count):
        if len(left) == 1:
            return [*dropped, left[0]]
        candidates = [(p, q) for place, p in enumerate(left) for q in left[place + 1 :]]
        values = torch.stack([pairs[p, q] for p, q in candidates])
        pair = candidates[worst(values, 1, direction)[0]]
        out = min(pair, key=lambda expert: (int(stats.count[expert]), expert))
        dropped.append(out)
        left.remove(out)
    return dropped


def score_table(statistics: Sequence[LayerStatistics], names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Scores of several criteria, layer by layer."""
    return {name: [criterion(name).score(layer) for layer in statistics] for name in names}


def _weights(stats: LayerStatistics) -> Float[Tensor, "n weights"]:
    return torch.cat([stats.gate_up.flatten(1), stats.down.flatten(1)], dim=1).double()


def _gradients(stats: LayerStatistics) -> Float[Tensor, "n weights"]:
    return torch.cat([matrix.flatten(1) for matrix in _gradient_matrices(stats)], dim=1)


def _gradient_matrices(stats: LayerStatistics) -> list[Tensor]:
    if stats.grad_gate_up is None or stats.grad_down is None:
        raise BadInput(
            "a criterion of gradients needs them: collect(..., gradients=True), on a model that fits in memory"
        )
    return _matrices(stats.grad_gate_up, stats.grad_down)


def _matrices(gate_up: Tensor, down: Tensor) -> list[Float[Tensor, "n rows columns"]]:
    return [*gate_up.double().chunk(2, dim=1), down.double()]


def _similarity(vectors: Float[Tensor, "n m"]) -> Scores:
    unit = F.normalize(vectors, dim=1)
    cosines = unit @ unit.T
    return cosines.sum(dim=1) - cosines.diagonal()


def _stable_rank(matrices: Float[Tensor, "n rows columns"]) -> Scores:
    largest = torch.linalg.matrix_norm(matrices, ord=2)
    return matrices.square().sum(dim=(1, 2)) / largest.square().clamp_min(torch.finfo(torch.float64).tiny)


def _row_entropy(stats: LayerStatistics, dim: int) -> Scores:
    """Sum of log sd along `dim` of every gradient matrix."""
    sums = [m.std(dim=dim, correction=0).clamp_min(FLOOR).log().sum(dim=1) for m in _gradient_matrices(stats)]
    return _seen_twice(torch.stack(sums).sum(dim=0), stats)


def _outside(matrices: Float[Tensor, "n rows columns"]) -> Scores:
    flat = matrices.flatten(1)
    spread, mean = torch.std_mean(flat, dim=1, keepdim=True, correction=0)
    return ((flat - mean).abs() > 3 * spread).sum(dim=1).double()


def _per_token(sums: Scores, stats: LayerStatistics) -> Scores:
    return _seen_twice(sums / stats.count.clamp_min(1), stats)


def _seen_twice(scores: Scores, stats: LayerStatistics) -> Scores:
    """-inf for experts that saw fewer than two tokens."""
    return scores.masked_fill(stats.count < 2, -math.inf)
