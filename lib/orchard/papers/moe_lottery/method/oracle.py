"""What criteria are judged by: the true cost of dropping, by trying (section 6.2 of the specification).

    leave one out      loss with expert e of layer l masked - loss, for every e and l
    subsets of a layer all C(n, keep) sets of experts to keep, by |F(x) - F'(x)|_F over the layer's own inputs, the rest of the model
                       whole (NAEE, Lu et al. 2024, arXiv 2402.14800), or by the loss itself
    regret             value of the set that a criterion keeps - the best set's

Everything is exact: experts are masked as by `dropping.masked`. In one of our decoders all that comes before the layer is computed once
per batch; any other model runs whole for every set. For the reconstruction error of a token only its n outputs o_e matter, through
their products: with w and w' the weights of the router before and after, F - F' = sum_e (w_e - w'_e) o_e, so that

    |F - F'|^2 = (w - w')^T G (w - w'),    G_ef = <o_e, o_f>    [n, n] per token, the same for all sets.

Windows hold one token more than the model reads, as in training: [batch, time + 1]. Losses are means over a window, in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import combinations
from math import comb

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.moe_lottery.method.collect import evaluating
from orchard.papers.moe_lottery.method.dropping import MixtureLayer, logits_of, masked, mixture_layers

Windows = Sequence[Int[Tensor, "_ _"]]
LIMIT = 5000  # sets that are tried in one layer


def leave_one_out(model: nn.Module, windows: Windows) -> pd.DataFrame:
    """Rows layer, expert, window, delta: increase of the loss of that window when that expert alone is dropped.

    Raises:
        ExpertsError: a dense model, or a layer that has no more experts than its router chooses.
    """
    rows = []
    for layer in mixture_layers(model):
        dropped = [[expert] for expert in range(layer.num_experts)]
        losses = losses_without(model, windows, layer.place, [[], *dropped])
        for expert, delta in enumerate((losses[1:] - losses[0]).tolist()):
            rows += [(layer.place, expert, window, value) for window, value in enumerate(delta)]
    return pd.DataFrame(rows, columns=["layer", "expert", "window", "delta"])


def subset_losses(model: nn.Module, windows: Windows, layer: int, keep: int) -> pd.DataFrame:
    """Rows kept (a tuple of experts), loss: of every set of `keep` experts of one layer, the other layers whole."""
    mixture = mixture_layers(model)[layer]
    sets = subsets(mixture.num_experts, keep)
    losses = losses_without(model, windows, layer, [_others(kept, mixture) for kept in sets])
    return pd.DataFrame({"kept": sets, "loss": losses.mean(dim=1).tolist()})


@torch.no_grad()
def subset_errors(model: nn.Module, batches: Windows, keep: int) -> pd.DataFrame:
    """Rows layer, kept (a tuple of experts), error, relative: of every set of `keep` experts of every layer.

    `error` is |F(x) - F'(x)|_F over all tokens of `batches` (read whole, as by `collect`), `relative` that over |F(x)|_F.
    """
    layers = mixture_layers(model)
    sets = [subsets(layer.num_experts, keep) for layer in layers]
    errors = [torch.zeros(len(found), dtype=torch.float64) for found in sets]
    sizes = torch.zeros(len(layers), dtype=torch.float64)
    with evaluating(model):
        for tokens in batches:
            for layer, hidden in zip(layers, _inputs(model, layers, tokens), strict=True):
                whole, changes = _weights(layer, hidden), []
                for kept in sets[layer.place]:
                    with masked(layer.block, {0: _others(kept, layer)}):
                        changes.append(_weights(layer, hidden) - whole)
                change = torch.stack([whole, *changes], dim=1)  # [tokens, sets, n]
                squares = ((change @ _products(layer, hidden)) * change).sum(dim=(0, 2)).clamp_min(0).cpu()
                sizes[layer.place] += squares[0]
                errors[layer.place] += squares[1:]
    tables = []
    for place, (own, squares, size) in enumerate(zip(sets, errors, sizes, strict=True)):
        found = {"error": squares.sqrt().tolist(), "relative": (squares / size).sqrt().tolist()}
        tables.append(pd.DataFrame({"layer": place, "kept": own, **found}))
    return pd.concat(tables, ignore_index=True)


def regret(table: pd.DataFrame, kept: Sequence[int], column: str = "loss") -> float:
    """The value of a set of experts minus that of the best; `table` holds all sets of one layer.

    Raises:
        BadInput: the set is not among them.
    """
    values = dict(zip(table["kept"], table[column], strict=True))
    chosen = tuple(sorted(kept))
    if chosen not in values:
        raise BadInput(f"keeping {list(chosen)} was not tried: the table holds sets of {len(table['kept'].iloc[0])}")
    return float(values[chosen] - min(values.values()))


def subsets(n: int, keep: int) -> list[tuple[int, ...]]:
    """All sets of `keep` of n experts, in lexicographic order.

    Raises:
        BadInput: there are none, or more than `LIMIT`.
    """
    if not 0 < keep <= n:
        raise BadInput(f"{keep} of {n} experts cannot be kept: keep between 1 and {n}")
    if comb(n, keep) > LIMIT:
        raise BadInput(f"{keep} of {n} experts can be kept in more than {LIMIT} ways: too many to try them all")
    return list(combinations(range(n), keep))


def _others(kept: Sequence[int], layer: MixtureLayer) -> list[int]:
    return [expert for expert in range(layer.num_experts) if expert not in kept]


@torch.no_grad()
def losses_without(
    model: nn.Module, windows: Windows, layer: int, dropped: Sequence[Sequence[int]]
) -> Float[Tensor, "sets windows"]:
    """Loss of every window with each set of experts of one layer dropped, in float64 on the CPU.

    Raises:
        ExpertsError: a set that leaves fewer experts than the router chooses.
    """
    found = []
    with evaluating(model):
        for window in windows:
            inputs = window[:, :-1]
            rest = _rest(model, layer, inputs)
            losses, targets = [], window[:, 1:]
            for experts in dropped:
                with masked(model, {layer: experts}):
                    logits = rest()
                flat, wanted = logits.flatten(0, 1).float(), targets.flatten().to(logits.device)
                own = F.cross_entropy(flat, wanted, reduction="none").view(targets.shape)
                losses.append(own.double().mean(dim=1).cpu())
            found.append(torch.stack(losses))
    return torch.cat(found, dim=1)


def _rest(model: nn.Module, layer: int, tokens: Tensor) -> Callable[[], Tensor]:
    """The logits as a function of the layer's mixture: what one of our decoders computes before it is computed now."""
    if not isinstance(model, Decoder):
        return lambda: logits_of(model, tokens)
    mixture = mixture_layers(model)[layer].block
    number = next(place for place, block in enumerate(model.layers) if block.feed_forward is mixture)
    x = model.embedding(tokens)
    for earlier in model.layers[:number]:
        x = earlier(x)
    own = model.layers[number]
    x = x + own.attention(own.attention_norm(x))
    hidden = own.feed_forward_norm(x)

    def rest() -> Tensor:
        y = x + own.feed_forward(hidden)
        for later in model.layers[number + 1 :]:
            y = later(y)
        return model.logits(model.norm(y))

    return rest


def _inputs(model: nn.Module, layers: Sequence[MixtureLayer], tokens: Tensor) -> list[Float[Tensor, "tokens dim"]]:
    """What every mixture reads in one forward pass."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.experts.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
            hooks.callback(hook.remove)
        model(tokens)
    return found


def _products(layer: MixtureLayer, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens n n"]:
    """Inner products of the outputs of all experts, token by token."""
    gate, up = (hidden @ layer.experts.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)  # [n, tokens, f]
    outputs = ((layer.experts.act_fn(gate) * up) @ layer.experts.down_proj.transpose(1, 2)).transpose(0, 1).double()
    return outputs @ outputs.transpose(1, 2)


def _weights(layer: MixtureLayer, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens n"]:
    """The router's weight of every expert, 0 for those that were not chosen."""
    _, weights, index = layer.gate(hidden)
    dense = torch.zeros(len(hidden), layer.num_experts, dtype=torch.float64, device=hidden.device)
    return dense.scatter_(1, index, weights.double())
