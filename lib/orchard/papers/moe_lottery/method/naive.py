"""The criteria of MC-Suite written out: every row is stored, every formula is a loop (section 3.2 of the specification).

This is the definition that the streaming form (`collect`, `criteria`) is tested against, and what a reader should read first. It
works in float64, keeps all rows and compares them pair by pair: for tiny models alone.

    A_p = rows a_t in R^d that expert p puts out, before the router's weight, one per token routed to it
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.papers.moe_lottery.method.dropping import MixtureLayer, logits_of, mixture_layers

FLOOR = 1e-12  # of a standard deviation, as in `criteria`
UNITS = 7  # the most hidden units whose orders are all tried: 5040


@dataclass
class Rows:
    """What one layer did, kept in full. `chosen[t]` are the experts of token t; the lists of expert p are in one order."""

    weights: list[list[Float[Tensor, "_ _"]]]  # gate [f, d], up [f, d] and down [d, f] of every expert
    router: list[Float[Tensor, "d"]]
    vocab_size: int
    chosen: list[list[int]] = field(default_factory=list)
    rows: list[list[Float[Tensor, "d"]]] = field(default_factory=list)  # A_p
    gates: list[list[float]] = field(default_factory=list)  # the router's weight of every row
    ids: list[list[int]] = field(default_factory=list)  # the token id of every row
    gradients: list[list[Float[Tensor, "_ _"]]] = field(default_factory=list)  # as weights

    @property
    def experts(self) -> range:
        return range(len(self.router))


def stored(
    model: nn.Module, batches: Iterable[Int[Tensor, "_ _"]], vocab_size: int, *, gradients: bool = False
) -> list[Rows]:
    """Run a float64 copy of `model` over `batches` and keep every row of every expert, layer by layer."""
    model = copy.deepcopy(model).double().eval()
    layers = mixture_layers(model)
    found = [_empty(layer, vocab_size) for layer in layers]
    now: dict[str, list[int]] = {}

    def watch(layer: MixtureLayer, kept: Rows) -> Callable[..., None]:
        def before(module: nn.Module, inputs: Any) -> None:
            hidden, index, weights = inputs
            for t, token in enumerate(now["ids"]):
                kept.chosen.append(index[t].tolist())
                for expert, gate in zip(index[t].tolist(), weights[t].tolist(), strict=True):
                    gate_w, up_w, down_w = kept.weights[expert]
                    x = hidden[t].detach()
                    kept.rows[expert].append(down_w @ (layer.experts.act_fn(gate_w @ x) * (up_w @ x)))
                    kept.gates[expert].append(gate)
                    kept.ids[expert].append(token)

        return before

    for layer, kept in zip(layers, found, strict=True):
        layer.experts.register_forward_pre_hook(watch(layer, kept))
    loss, count = torch.zeros((), dtype=torch.float64), 0
    for tokens in batches:
        now["ids"] = tokens.flatten().tolist()
        with torch.set_grad_enabled(gradients):
            logits = logits_of(model, tokens)
            if gradients:
                targets = tokens[:, 1:].flatten()
                loss = loss + F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
                count += len(targets)
    if gradients:
        (loss / count).backward()
        for layer, kept in zip(layers, found, strict=True):
            for gate_up, down in zip(layer.experts.gate_up_proj.grad, layer.experts.down_proj.grad, strict=True):
                kept.gradients.append([*gate_up.chunk(2), down])
    return found


def _empty(layer: MixtureLayer, vocab_size: int) -> Rows:
    gate_up, down = layer.experts.gate_up_proj.detach(), layer.experts.down_proj.detach()
    weights = [[*gu.chunk(2), dn] for gu, dn in zip(gate_up, down, strict=True)]
    kept = Rows(weights, list(layer.gate.weight.detach()), vocab_size)
    for lists in (kept.rows, kept.gates, kept.ids):
        lists.extend([] for _ in kept.experts)
    return kept


def ews(layer: Rows) -> list[float]:
    """sum over q of cos(vec W_p, vec W_q)."""
    return _similarity(layer, [_vector(matrices) for matrices in layer.weights])


def ews_matched(layer: Rows) -> list[float]:
    """As `ews`, the hidden units of q in the order, of all orders, that suits p best. BadInput for more than `UNITS` units."""
    units = [torch.cat([gate, up, down.T], dim=1) for gate, up, down in layer.weights]  # [f, 3d]
    if len(units[0]) > UNITS:
        raise BadInput(f"{len(units[0])} hidden units have too many orders to try: at most {UNITS}")
    orders = list(permutations(range(len(units[0]))))
    best = {
        (p, q): max(float((units[p] * units[q][list(order)]).sum()) for order in orders)
        for p in layer.experts for q in layer.experts if p != q
    }  # fmt: skip
    lengths = [float(u.square().sum().sqrt()) for u in units]
    return [sum(best[p, q] / (lengths[p] * lengths[q]) for q in layer.experts if q != p) for p in layer.experts]


def rwn(layer: Rows) -> list[float]:
    """|row p of the router|."""
    return [_length(row) for row in layer.router]


def wsr(layer: Rows) -> list[float]:
    """sum of the eigenvalues of W W^T over the largest, mean over the three matrices."""

    def rank(matrix: Tensor) -> float:
        eigenvalues = torch.linalg.eigvalsh(matrix @ matrix.T).tolist()
        return sum(eigenvalues) / max(eigenvalues)

    return [_mean([rank(matrix) for matrix in matrices]) for matrices in layer.weights]


def ewn(layer: Rows) -> list[float]:
    """|vec W_p|."""
    return [_length(_vector(matrices)) for matrices in layer.weights]


def aimer(layer: Rows) -> list[float]:
    """mean |w| over rms of w."""
    vectors = map(_vector, layer.weights)
    return [_mean(v.abs().tolist()) / math.sqrt(_mean(v.square().tolist())) for v in vectors]


def euf(layer: Rows) -> list[float]:
    """Tokens with p among their experts, over all tokens."""
    return [_mean([float(p in experts) for experts in layer.chosen]) for p in layer.experts]


def soft_count(layer: Rows) -> list[float]:
    """Sum of the router's weights for p, over all tokens."""
    return [sum(gates) / len(layer.chosen) for gates in layer.gates]


def ecc(layer: Rows) -> list[float]:
    """max over q of the tokens that have both p and q among their experts."""
    return _most(layer, lambda p, q: sum(p in experts and q in experts for experts in layer.chosen))


def evtc(layer: Rows) -> list[float]:
    """Distinct token ids routed to p, over the vocabulary."""
    return [len(set(ids)) / layer.vocab_size for ids in layer.ids]


def ets(layer: Rows) -> list[float]:
    """max over q of the token ids that both p and q were given."""
    return _most(layer, lambda p, q: len(set(layer.ids[p]) & set(layer.ids[q])))


def eas(layer: Rows) -> list[float]:
    """sum over q of the mean of cos(a, b) over all a of p and b of q."""

    def mean_cosine(p: int, q: int) -> float:
        cosines = [_cosine(a, b) for a in layer.rows[p] for b in layer.rows[q]]
        return _mean(cosines) if cosines else 0.0

    return _seen_twice(layer, lambda p: sum(mean_cosine(p, q) for q in layer.experts if q != p))


def eae(layer: Rows) -> list[float]:
    """sum over channels j of log sd over tokens of A_p[:, j]."""
    return _seen_twice(layer, lambda p: sum(_log_spread(column.tolist()) for column in torch.stack(layer.rows[p]).T))


def eao(layer: Rows) -> list[float]:
    """Entries of A_p outside mean +- 3 sd of their row."""
    return _seen_twice(layer, lambda p: sum(_outliers(row.tolist()) for row in layer.rows[p]))


def eao_rate(layer: Rows) -> list[float]:
    """`eao` over the number of entries."""
    return _seen_twice(layer, lambda p: _mean([_outliers(row.tolist()) / len(row) for row in layer.rows[p]]))


def ean(layer: Rows) -> list[float]:
    """sum over channels j of |A_p[:, j]|."""
    return _seen_twice(layer, lambda p: sum(_length(column) for column in torch.stack(layer.rows[p]).T))


def ean_row(layer: Rows) -> list[float]:
    """sum over tokens of |a_t|."""
    return _seen_twice(layer, lambda p: sum(map(_length, layer.rows[p])))


def man(layer: Rows) -> list[float]:
    """mean over tokens of |a_t|."""
    return _seen_twice(layer, lambda p: _mean(list(map(_length, layer.rows[p]))))


def reap(layer: Rows) -> list[float]:
    """mean over tokens of the router's weight times |a_t|."""
    pairs = [list(zip(gates, rows, strict=True)) for gates, rows in zip(layer.gates, layer.rows, strict=True)]
    return _seen_twice(layer, lambda p: _mean([g * _length(a) for g, a in pairs[p]]))


def egs(layer: Rows) -> list[float]:
    """sum over q of cos(vec dL/dW_p, vec dL/dW_q)."""
    scores = _similarity(layer, [_vector(matrices) for matrices in layer.gradients])
    return _seen_twice(layer, lambda p: scores[p])


def ege(layer: Rows) -> list[float]:
    """sum over the rows of dL/dW of log sd of the row, all three matrices."""
    return _seen_twice(layer, lambda p: sum(_log_spread(row.tolist()) for m in layer.gradients[p] for row in m))


def ege_columns(layer: Rows) -> list[float]:
    """sum over the columns of dL/dW of log sd of the column, all three matrices."""
    return _seen_twice(layer, lambda p: sum(_log_spread(column.tolist()) for m in layer.gradients[p] for column in m.T))


def ego(layer: Rows) -> list[float]:
    """Entries of dL/dW outside mean +- 3 sd of their matrix, all three matrices."""
    return _seen_twice(layer, lambda p: sum(_outliers(matrix.flatten().tolist()) for matrix in layer.gradients[p]))


def ego_rate(layer: Rows) -> list[float]:
    """`ego` over the number of entries."""
    return [count / len(_vector(matrices)) for count, matrices in zip(ego(layer), layer.gradients, strict=True)]


def egn(layer: Rows) -> list[float]:
    """|vec dL/dW_p|."""
    return _seen_twice(layer, lambda p: _length(_vector(layer.gradients[p])))


NAIVE: dict[str, Callable[[Rows], list[float]]] = {score.__name__: score for score in (
    ews, rwn, wsr, ewn, euf, ecc, evtc, ets, eas, eae, eao, ean, egs, ege, ego, egn, ews_matched, aimer, soft_count, eao_rate, ean_row,
    man, reap, ege_columns, ego_rate,
)}  # fmt: skip


def _seen_twice(layer: Rows, score: Callable[[int], float]) -> list[float]:
    """The score of every expert that saw two tokens or more; -inf for the others, which are dropped first."""
    return [score(p) if len(layer.rows[p]) >= 2 else -math.inf for p in layer.experts]


def _similarity(layer: Rows, vectors: Sequence[Tensor]) -> list[float]:
    return [sum(_cosine(vectors[p], vectors[q]) for q in layer.experts if q != p) for p in layer.experts]


def _most(layer: Rows, common: Callable[[int, int], int]) -> list[float]:
    return [float(max(common(p, q) for q in layer.experts if q != p)) for p in layer.experts]


def _vector(matrices: Sequence[Tensor]) -> Tensor:
    return torch.cat([matrix.flatten() for matrix in matrices])


def _length(vector: Tensor) -> float:
    return math.sqrt(sum(x * x for x in vector.tolist()))


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = _length(a) * _length(b)
    return float(a @ b) / lengths if lengths > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(_mean([(x - mean) ** 2 for x in values]))


def _log_spread(values: Sequence[float]) -> float:
    return math.log(max(_spread(values), FLOOR))


def _outliers(values: Sequence[float]) -> float:
    mean, spread = _mean(values), _spread(values)
    return float(sum(abs(x - mean) > 3 * spread for x in values))
