"""What criteria are computed from: statistics of every expert, gathered while calibration text passes through the model.

One pass gives all that needs no gradient, a second one the gradients. For the rows a_t in R^d that expert p puts out (its raw
output, before the router's weight; equation 2 of the paper) and the tokens routed to it, running sums are kept and no row is:

    count   soft  sum g_p    together[p, q]  tokens routed to both
    seen[p, v]  how often token v was routed to p                 total, squares  sum a_t, sum a_t^2       [d]
    norms   sum |a_t|        weighted  sum g |a_t|                units  sum a_t / |a_t|                    [d]
    outliers  entries of a_t outside mean +- 3 sd, both over the d channels of the row

so memory does not depend on the number of tokens. Sums over a batch are made in float32, added up in float64: the variance of a
channel whose mean is m times its standard deviation is exact to about 1e-7 m^2.
The expert's rows are those of the forward pass itself: nothing is computed twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.nn.moe import Dispatch, combine, expert_outputs
from orchard.papers.moe_lottery.method.dropping import ExpertsError, MixtureLayer, logits_of, mixture_layers, swapped


@dataclass
class LayerStatistics:
    """Statistics of the n experts of one layer; the weights, and the gradients if they were asked for, are references.

    Shapes: n experts, d channels, V token ids, f hidden units. `tokens` is the number of tokens that passed.
    """

    count: Int[Tensor, "n"]
    soft: Float[Tensor, "n"]
    together: Int[Tensor, "n n"]
    seen: Int[Tensor, "n V"]
    total: Float[Tensor, "n d"]
    squares: Float[Tensor, "n d"]
    norms: Float[Tensor, "n"]
    weighted: Float[Tensor, "n"]
    units: Float[Tensor, "n d"]
    outliers: Int[Tensor, "n"]
    router: Float[Tensor, "n d"]
    gate_up: Float[Tensor, "n two_f d"]
    down: Float[Tensor, "n d f"]
    tokens: int = 0
    grad_gate_up: Float[Tensor, "n two_f d"] | None = None
    grad_down: Float[Tensor, "n d f"] | None = None

    @classmethod
    def empty(cls, layer: MixtureLayer, vocab_size: int) -> LayerStatistics:
        """Nothing seen yet."""
        router, gate_up, down = (p.detach() for p in (layer.gate.weight, *layer.weights))
        n, d = router.shape

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=router.device)

        whole = torch.int64
        return cls(
            count=zeros(n, dtype=whole), soft=zeros(n), together=zeros(n, n, dtype=whole),
            seen=zeros(n, vocab_size, dtype=torch.int32), total=zeros(n, d), squares=zeros(n, d), norms=zeros(n),
            weighted=zeros(n), units=zeros(n, d), outliers=zeros(n, dtype=whole),
            router=router, gate_up=gate_up, down=down,
        )  # fmt: skip

    @property
    def num_experts(self) -> int:
        return len(self.count)

    def bytes(self) -> int:
        """Bytes of the running sums; weights and gradients, which are the model's, left out."""
        model = {"router", "gate_up", "down", "grad_gate_up", "grad_down"}
        kept = [getattr(self, f.name) for f in fields(self) if f.name not in model]
        return sum(value.numel() * value.element_size() for value in kept if isinstance(value, Tensor))

    @torch.no_grad()
    def add(self, outputs: Tensor, dispatch: Dispatch, index: Tensor, weights: Tensor, ids: Tensor) -> None:
        """Add a batch: rows of the experts in sorted order [pairs, d], the routing [tokens, k], and the token ids [tokens]."""
        n, (t, k) = self.num_experts, index.shape
        experts = dispatch.experts
        rows, gates = outputs.float(), weights.flatten()[dispatch.order].double()
        norm = torch.linalg.vector_norm(rows, dim=1)
        sizes = torch.diff(dispatch.offsets, prepend=dispatch.offsets.new_zeros(1))
        self.tokens += t
        self.count += sizes
        chosen = torch.zeros(t, n, device=index.device).scatter_(1, index, 1.0)
        self.together += (chosen.T @ chosen).round().long().fill_diagonal_(0)
        pairs = experts * self.seen.shape[1] + ids.to(experts.device)[dispatch.order // k]  # expert and token id as one
        self.seen.view(-1).index_add_(0, pairs, torch.ones_like(experts).int())
        per_row = torch.stack([gates, norm.double(), gates * norm, _outside(rows)])
        for running, values in zip((self.soft, self.norms, self.weighted, self.outliers), per_row, strict=True):
            running.index_add_(0, experts, values.to(running.dtype))
        counts = sizes.tolist()  # a GPU waits here, once per layer and batch
        unit = rows / norm.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        for sums, values in ((self.total, rows), (self.units, unit), (self.squares, rows.square())):
            sums += torch.stack([part.sum(dim=0) for part in values.split(counts)])


def _outside(rows: Float[Tensor, "pairs d"]) -> Float[Tensor, "pairs"]:
    """Entries of every row outside its mean +- 3 sd. One pass after the other: `std_mean` takes ten times as long on a CPU."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True) * rows.shape[1] ** -0.5
    return centred.abs_().gt_(3 * spread).sum(dim=1)


class Collector:
    """Watches the mixtures of a model, or some of them, while batches pass through it.

    >>> collector = Collector(mixture_layers(model), vocab_size=257)                       # doctest: +SKIP
    >>> with collector.watching():
    ...     for tokens in batches:
    ...         collector.tokens = tokens        # the ids of the batch, in the order in which the model sees them
    ...         model(tokens)
    """

    def __init__(self, layers: Sequence[MixtureLayer], vocab_size: int) -> None:
        self.layers = list(layers)
        self.statistics = [LayerStatistics.empty(layer, vocab_size) for layer in layers]
        self.tokens: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block every forward pass of the mixtures is added to the statistics; their output is unchanged."""
        with ExitStack() as stack:
            for layer, statistics in zip(self.layers, self.statistics, strict=True):
                stack.enter_context(swapped(layer.experts, forward=self._watched(layer.experts, statistics)))
            yield

    def _watched(self, experts: Any, statistics: LayerStatistics) -> Any:
        def forward(hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            if self.tokens is None or self.tokens.numel() != len(hidden):
                seen = None if self.tokens is None else self.tokens.numel()
                raise ExpertsError(
                    f"{len(hidden)} tokens pass the experts, {seen} ids were announced in Collector.tokens"
                )
            dispatch = Dispatch.of(top_k_index, len(experts.gate_up_proj))
            outputs = expert_outputs(hidden, dispatch, experts.gate_up_proj, experts.down_proj, experts.act_fn)
            statistics.add(outputs.detach(), dispatch, top_k_index, top_k_weights.detach(), self.tokens.flatten())
            return combine(outputs, dispatch, top_k_weights).to(hidden.dtype)

        return forward


def collect(
    model: nn.Module, batches: Iterable[Int[Tensor, "_ _"]], vocab_size: int, *, gradients: bool = False
) -> list[LayerStatistics]:
    """Statistics of every mixture of `model` over `batches`, which are read once (twice with `gradients`).

    Gradients are those of the mean next-token loss over all batches, of the experts alone; `.grad` is empty before and after.

    Warns of experts that fewer than two tokens were routed to.

    Raises:
        ExpertsError: a dense model, an unknown layout, or no batch at all.
    """
    layers = mixture_layers(model)
    collector = Collector(layers, vocab_size)
    kept = list(batches) if gradients else batches
    with collector.watching(), torch.no_grad(), evaluating(model):
        for tokens in kept:
            collector.tokens = tokens
            model(tokens)
    if collector.statistics[0].tokens == 0:
        raise ExpertsError("no calibration text: not one batch of tokens was given")
    if rare := rarely_used(collector.statistics):
        named = "; ".join(f"layer {place}: {', '.join(map(str, experts))}" for place, experts in rare.items())
        warnings.warn(
            f"fewer than 2 of {collector.statistics[0].tokens} tokens were routed to some experts ({named}): criteria of "
            "activations and gradients drop them first by their minimum",
            stacklevel=2,
        )
    if gradients:
        _add_gradients(model, layers, collector.statistics, kept)
    return collector.statistics


def rarely_used(statistics: Sequence[Any]) -> dict[int, list[int]]:
    """Experts that fewer than two tokens were routed to, by layer; layers without any are left out."""
    found = {place: (layer.count < 2).nonzero().flatten().tolist() for place, layer in enumerate(statistics)}
    return {place: experts for place, experts in found.items() if experts}


def _add_gradients(
    model: nn.Module, layers: Sequence[MixtureLayer], statistics: Sequence[LayerStatistics], batches: Iterable[Tensor]
) -> None:
    """Add to `statistics` the gradients of the mean next-token loss with respect to every expert's weights."""
    wanted = {id(p) for layer in layers for p in layer.weights}
    count = 0
    with ExitStack() as stack:
        for parameter in model.parameters():
            parameter.grad = None
            stack.enter_context(swapped(parameter, grad=None, requires_grad=id(parameter) in wanted))
        with torch.enable_grad(), evaluating(model):
            for tokens in batches:
                logits = logits_of(model, tokens)[:, :-1]
                F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum").backward()
                count += tokens[:, 1:].numel()
        for layer, found in zip(layers, statistics, strict=True):
            found.grad_gate_up, found.grad_down = (
                (torch.zeros_like(weight) if weight.grad is None else weight.grad) / count for weight in layer.weights
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block `model` is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
