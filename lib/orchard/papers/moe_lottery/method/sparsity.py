"""2:4 sparsity of the experts' weights: of every four weights along the input dimension the two best stay (claim C12).

    magnitude    |W_ij|
    Wanda        |W_ij| ||X_j||_2,    X the rows that enter the matrix: for each expert those of the tokens routed to it
    random       a number drawn for every weight

Half of all weights of the experts go, as when half of the experts are dropped; attention, embedding and router are untouched
in both. gate_up_proj [n, 2f, d] reads the hidden rows (d channels), down_proj [n, d, f] what the activation gives (f channels).
Sources: Mishra et al. 2021, arXiv 2104.08378 (2:4); Sun et al. 2023, arXiv 2306.11695 (Wanda).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from orchard.nn.moe import Dispatch, combine, grouped_linear
from orchard.papers.moe_lottery.method.collect import evaluating
from orchard.papers.moe_lottery.method.dropping import ExpertsError, MixtureLayer, mixture_layers, swapped

MAGNITUDE, WANDA, RANDOM = KINDS = ("magnitude", "wanda", "random")
GROUP, KEPT = 4, 2


class InputNorms(NamedTuple):
    """||X_j||_2 of one layer: of the rows that enter every expert, and of those that enter its down projection."""

    gate_up: Float[Tensor, "n d"]
    down: Float[Tensor, "n f"]


class Mask(NamedTuple):
    """Which weights of one layer stay."""

    gate_up: Bool[Tensor, "n two_f d"]
    down: Bool[Tensor, "n d f"]


@torch.no_grad()
def input_norms(model: nn.Module, batches: Iterable[Tensor]) -> list[InputNorms]:
    """Norm of every input channel of every expert over the tokens routed to it, summed in float64. Batches are [batch, time].

    Raises:
        ExpertsError: a dense model, an unknown layout, or no batch at all.
    """
    layers = mixture_layers(model)
    squares = [_zeros(layer) for layer in layers]
    seen = False
    with ExitStack() as stack:
        for layer, sums in zip(layers, squares, strict=True):
            stack.enter_context(swapped(layer.experts, forward=_summing(layer.experts, sums)))
        stack.enter_context(evaluating(model))
        for tokens in batches:
            model(tokens)
            seen = True
    if not seen:
        raise ExpertsError("no calibration text: not one batch of tokens was given")
    return [InputNorms(*(total.sqrt() for total in sums)) for sums in squares]


def _zeros(layer: MixtureLayer) -> InputNorms:
    n, d, f = layer.experts.down_proj.shape
    zeros = torch.zeros(n, d + f, dtype=torch.float64, device=layer.experts.down_proj.device)
    return InputNorms(*zeros.split([d, f], dim=1))


def _summing(experts: Any, sums: InputNorms) -> Any:
    def forward(hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        dispatch = Dispatch.of(top_k_index, len(experts.gate_up_proj))
        rows = hidden[dispatch.order // top_k_index.shape[1]]
        gate, up = grouped_linear(rows, experts.gate_up_proj, dispatch.offsets).chunk(2, dim=-1)
        inner = experts.act_fn(gate) * up
        sums.gate_up.index_add_(0, dispatch.experts, rows.double().square())
        sums.down.index_add_(0, dispatch.experts, inner.double().square())
        outputs = grouped_linear(inner, experts.down_proj, dispatch.offsets)
        return combine(outputs, dispatch, top_k_weights).to(hidden.dtype)

    return forward


def two_of_four(scores: Float[Tensor, "*outer inner"]) -> Bool[Tensor, "*outer inner"]:
    """True for the two largest of every four scores along the last dimension; of equal ones the first stay.

    Raises:
        ExpertsError: the last dimension is no multiple of four.
    """
    if scores.shape[-1] % GROUP:
        raise ExpertsError(
            f"2:4 sparsity needs an input dimension that is a multiple of {GROUP}, not {scores.shape[-1]}: change the width"
        )
    groups = scores.unflatten(-1, (-1, GROUP))
    order = groups.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :KEPT], True).flatten(-2)


def masks(
    model: nn.Module, kind: str, norms: Sequence[InputNorms] | None = None, generator: torch.Generator | None = None
) -> list[Mask]:
    """The 2:4 masks of all experts. `norms` are needed by Wanda; an expert that no token reached is ranked by magnitude.

    Raises:
        ExpertsError: an unknown kind, or Wanda without norms.
    """
    if kind not in KINDS:
        raise ExpertsError(f"2:4 pruning by {kind!r} does not exist: choose {', '.join(KINDS)}")
    if kind == WANDA and norms is None:
        raise ExpertsError("Wanda ranks weights by their inputs: give norms=input_norms(model, calibration batches)")
    found = []
    for place, layer in enumerate(mixture_layers(model)):
        weights = [weight.detach() for weight in layer.weights]
        if kind == RANDOM:
            scores = [torch.rand(w.shape, generator=generator) for w in weights]
        elif norms is None or kind == MAGNITUDE:
            scores = [w.abs() for w in weights]
        else:
            used = [torch.where((norm > 0).any(dim=1, keepdim=True), norm, 1.0) for norm in norms[place]]
            scores = [w.abs() * norm[:, None, :] for w, norm in zip(weights, used, strict=True)]
        found.append(Mask(*(two_of_four(score).to(w.device) for score, w in zip(scores, weights, strict=True))))
    return found


@torch.no_grad()
def sparsify(model: nn.Module, kept: Sequence[Mask]) -> None:
    """Set the weights outside the masks to zero, in place."""
    for layer, mask in zip(mixture_layers(model), kept, strict=True):
        for weight, own in zip(layer.weights, mask, strict=True):
            weight.mul_(own)


@contextmanager
def staying_sparse(model: nn.Module, kept: Sequence[Mask]) -> Iterator[None]:
    """Inside the block the weights outside the masks get no gradient: an optimizer without weight decay leaves them at zero."""
    with ExitStack() as hooks:
        for layer, mask in zip(mixture_layers(model), kept, strict=True):
            for weight, own in zip(layer.weights, mask, strict=True):
                hook = weight.register_hook(lambda gradient, own=own: gradient * own.to(gradient.device))
                hooks.callback(hook.remove)
        yield
