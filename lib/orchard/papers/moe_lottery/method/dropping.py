"""Dropping experts: a mask or a smaller model, the same function either way (section 3.4 of the specification).

    masked:  router logits of dropped experts = -inf, before the softmax
    kept:    router rows and expert tensors sliced to the experts that stay, in ascending order

Both leave the rest of the router as it is: where the weights of the k chosen experts are renormalised (Mixtral) they
still sum to one; where they are not (OLMoE, Qwen2-MoE) the softmax over fewer experts is larger everywhere, so the
output of the layer grows. Masking after the softmax would be another function.

Everything here works on any module that holds mixtures in the layout of `orchard.nn.MixtureOfExperts`, which is that
of `transformers` 5: a block with `.gate` (weight [n, dim]; returns logits, weights, index) and `.experts`
(gate_up_proj [n, 2f, dim], down_proj [n, dim, f]). Layers are numbered by their place among the mixtures, experts by
their place in the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import ismethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from orchard.errors import BadInput
from orchard.nn import Decoder, MixtureOfExperts

Drop = Mapping[int, Sequence[int]]  # layer -> experts
Routed = tuple[Tensor, Tensor, Tensor]  # what a router gives for every token: logits, weights, experts
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")  # names in configs of `transformers`


class ExpertsError(BadInput):
    """Experts that cannot be found or dropped as asked."""


@dataclass(frozen=True)
class MixtureLayer:
    """One mixture of a model: its place among the mixtures, its name in the model, and the two modules that matter."""

    place: int
    name: str
    block: nn.Module

    @property
    def gate(self) -> Any:
        """The router: `weight` [n, dim], `top_k`."""
        return self.block.gate

    @property
    def experts(self) -> Any:
        """The experts: `gate_up_proj` [n, 2f, dim], `down_proj` [n, dim, f], `act_fn`."""
        return self.block.experts

    @property
    def weights(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The weights of all experts: `gate_up_proj` and `down_proj`."""
        return self.experts.gate_up_proj, self.experts.down_proj

    @property
    def num_experts(self) -> int:
        return int(self.gate.weight.shape[0])

    @property
    def top_k(self) -> int:
        return int(self.gate.top_k)

    @property
    def groups(self) -> int:
        """Groups of experts that the router chooses among first (DeepSeek); 1 without."""
        return int(getattr(self.gate, "num_group", None) or 1)


def mixture_layers(model: nn.Module) -> list[MixtureLayer]:
    """The mixtures of a model, in order.

    Raises:
        ExpertsError: the model has none (a dense model), or its experts have another layout.
    """
    found: list[MixtureLayer] = []
    unknown: list[str] = []
    for name, module in model.named_modules():
        experts, gate = getattr(module, "experts", None), getattr(module, "gate", None)
        if not isinstance(experts, nn.Module):
            continue
        gate_up, down = getattr(experts, "gate_up_proj", None), getattr(experts, "down_proj", None)
        weight = getattr(gate, "weight", None)
        fits = (
            isinstance(gate_up, Tensor) and isinstance(down, Tensor) and isinstance(weight, Tensor)
            and gate_up.ndim == down.ndim == 3 and gate_up.shape[1] == 2 * down.shape[2]
            and gate_up.shape[2] == down.shape[1] == weight.shape[1]
            and not getattr(experts, "is_transposed", False) and not getattr(experts, "has_bias", False)
            and hasattr(gate, "top_k")
        )  # fmt: skip
        if fits:
            found.append(MixtureLayer(len(found), name, module))
        else:
            unknown.append(f"{name} ({type(experts).__name__})")
    if unknown:
        raise ExpertsError(
            f"{type(model).__name__}: the experts of {unknown[0]} have a layout that is not known here; known is a block with "
            ".gate.weight [n, d], .experts.gate_up_proj [n, 2f, d] and .experts.down_proj [n, d, f], as Mixtral, OLMoE, "
            "Qwen-MoE and DeepSeek have in transformers 5"
        )
    if not found:
        name = type(model).__name__
        raise ExpertsError(f"{name} has no mixture of experts: it is a dense model, and there is nothing to drop")
    return found


def check_drop(layers: Sequence[MixtureLayer], dropped: Drop) -> None:
    """Raise ``ExpertsError`` unless every layer keeps at least the experts that its router chooses."""
    for place, experts in dropped.items():
        if not 0 <= place < len(layers):
            raise ExpertsError(f"layer {place} is not one of the {len(layers)} mixtures, 0 to {len(layers) - 1}")
        layer = layers[place]
        n, chosen = layer.num_experts, set(experts)
        if len(chosen) != len(experts):
            raise ExpertsError(f"layer {place}: {sorted(experts)} names an expert twice")
        if len(chosen) > n:
            raise ExpertsError(f"layer {place} has {n} experts, {len(chosen)} are to be dropped: drop fewer")
        if outside := [e for e in experts if not 0 <= e < n]:
            raise ExpertsError(f"layer {place} has experts 0 to {n - 1}, not {outside[0]}")
        if n - len(chosen) < layer.top_k:
            raise ExpertsError(
                f"layer {place}: dropping {len(chosen)} of {n} experts leaves {n - len(chosen)}, but its router chooses "
                f"{layer.top_k}: drop at most {n - layer.top_k}"
            )
        if layer.groups > 1:
            size = n // layer.groups
            kept = [size - sum(e // size == group for e in chosen) for group in range(layer.groups)]
            if len(set(kept)) > 1 or kept[0] < 2:
                raise ExpertsError(
                    f"layer {place}: its router chooses among {layer.groups} groups of {size} first and needs equally many, "
                    f"at least 2, in each; {kept} would be left"
                )
            opened = getattr(layer.gate, "topk_group", None) or layer.groups
            if (reach := opened * kept[0]) < layer.top_k:
                raise ExpertsError(
                    f"layer {place}: its router opens {opened} of {layer.groups} groups, which would hold {reach} experts, and "
                    f"chooses {layer.top_k}: keep at least {-(-layer.top_k // opened) * layer.groups}"
                )


@contextmanager
def swapped(owner: Any, **values: Any) -> Iterator[None]:
    """Inside the block these attributes of `owner` have other values; a method is the class's own again after it."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            delattr(owner, name) if ismethod(value) else setattr(owner, name, value)


class _MaskLogits(TorchFunctionMode):
    """Adds a mask to what `linear` returns."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result + self.mask.to(result) if func is nn.functional.linear else result


@contextmanager
def masked(model: nn.Module, dropped: Drop) -> Iterator[None]:
    """Inside the block the routers of `model` never choose the dropped experts, and training cannot reach them.

    Raises:
        ExpertsError: as :func:`check_drop` and :func:`mixture_layers`.
    """
    layers = mixture_layers(model)
    check_drop(layers, dropped)
    with ExitStack() as stack:
        for place, experts in dropped.items():
            if not len(experts):
                continue
            gate = layers[place].gate
            mask = torch.zeros(layers[place].num_experts, device=gate.weight.device)
            mask[list(experts)] = -torch.inf

            def forward(*args: Any, plain: Any = gate.forward, mask: Tensor = mask) -> Any:
                with _MaskLogits(mask):
                    return plain(*args)

            stack.enter_context(swapped(gate, forward=forward))
            if isinstance(bias := getattr(gate, "e_score_correction_bias", None), Tensor):  # added after the sigmoid
                stack.enter_context(swapped(gate, e_score_correction_bias=bias + mask.to(bias.dtype)))
        yield


def drop_experts(model: nn.Module, dropped: Drop) -> dict[int, list[int]]:
    """Remove experts for good: slices the router's rows and the experts' tensors in place. Returns what each layer kept.

    Numbers are those of the model as it is now; `kept[i]` is the expert that is now number i. A `transformers` model
    keeps one count of experts in its config, which is set when all layers agree.

    Raises:
        ExpertsError: as :func:`check_drop`; the model is then as it was.
    """
    layers = mixture_layers(model)
    check_drop(layers, dropped)
    kept = {}
    for layer in layers:
        out = set(dropped.get(layer.place, ()))
        kept[layer.place] = [e for e in range(layer.num_experts) if e not in out]
        if not out:
            continue
        rows = torch.tensor(kept[layer.place], device=layer.gate.weight.device)
        for owner, name in ((layer.gate, "weight"), (layer.experts, "gate_up_proj"), (layer.experts, "down_proj")):
            old = getattr(owner, name)
            setattr(owner, name, nn.Parameter(old.detach()[rows].clone(), requires_grad=old.requires_grad))
        if isinstance(bias := getattr(layer.gate, "e_score_correction_bias", None), Tensor):
            layer.gate.e_score_correction_bias = bias[rows]
        for owner in (layer.gate, layer.experts, layer.block):
            if hasattr(owner, "num_experts"):
                owner.num_experts = len(rows)
    counts = {len(ids) for ids in kept.values()}
    config: Any = getattr(model, "config", None)
    if config is not None and len(counts) == 1:
        for owner in (config, model):  # the load-balance loss of a causal model reads its own
            for name in EXPERT_COUNTS:
                if hasattr(owner, name):
                    setattr(owner, name, *counts)
    return kept


def pruned_config(cfg: Decoder.Config, kept: Mapping[int, Sequence[int]]) -> Decoder.Config:
    """The config of one of our decoders after `drop_experts`, whose result is `kept`: every mixture has its own count.

    Raises:
        ExpertsError: `kept` does not name the mixtures of `cfg`.
    """
    new = cfg.clone()
    mixtures = [node for _, node, *_ in new.walk(MixtureOfExperts)]
    if sorted(kept) != list(range(len(mixtures))):
        raise ExpertsError(f"experts were kept in layers {sorted(kept)}, the config has {len(mixtures)} mixtures")
    for place, mixture in enumerate(mixtures):
        mixture.set(num_experts=len(kept[place]))
    return new


def worst(scores: Float[Tensor, "experts"], count: int, direction: str) -> list[int]:
    """The `count` experts to drop first: lowest scores for "min", highest for "max"; ties by number.

    Raises:
        ValueError: a direction other than "min" and "max", or a score that is NaN.
    """
    if direction not in ("min", "max"):
        raise ValueError(f"direction is {direction!r}: choose min or max")
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"scores {scores.tolist()} hold NaN: they cannot be ordered")
    signed = scores if direction == "min" else -scores
    return signed.sort(stable=True).indices[:count].tolist()


def global_ranking(
    scores: Sequence[Float[Tensor, "_"]], count: int, direction: str, least: Sequence[int]
) -> dict[int, list[int]]:
    """Drop `count` experts in all, worst first wherever they are, never below `least[l]` experts in layer l (its top_k).

    Scores of layers are compared as they are, so that the criterion must have one scale in all of them.

    Raises:
        ExpertsError: so many cannot be dropped.
    """
    room = [len(layer) - keep for layer, keep in zip(scores, least, strict=True)]
    if count > sum(max(0, free) for free in room):
        raise ExpertsError(
            f"{count} experts are to be dropped, but the layers can spare {sum(max(0, free) for free in room)} "
            f"above the {max(least)} that routers choose: drop fewer"
        )
    order = worst(torch.cat([layer.double() for layer in scores]), sum(map(len, scores)), direction)
    places = [(place, expert) for place, layer in enumerate(scores) for expert in range(len(layer))]
    dropped: dict[int, list[int]] = {place: [] for place in range(len(scores))}
    for index in order:
        place, expert = places[index]
        if sum(map(len, dropped.values())) < count and len(dropped[place]) < room[place]:
            dropped[place].append(expert)
    return dropped


@contextmanager
def watching_routers(model: nn.Module, read: Callable[[int, Routed], None]) -> Iterator[None]:
    """Inside the block `read` is told the place of every mixture that a batch passes, and what its router gave."""
    with ExitStack() as hooks:
        for layer in mixture_layers(model):
            hook = layer.gate.register_forward_hook(lambda gate, given, out, place=layer.place: read(place, out))
            hooks.callback(hook.remove)
        yield


@torch.no_grad()
def route(model: nn.Module, tokens: Int[Tensor, "batch time"]) -> list[Routed]:
    """What the router of every layer gave for a batch."""
    seen: list[Routed] = []
    with watching_routers(model, lambda place, out: seen.append(out)):
        model(tokens)
    return seen


def logits_of(model: nn.Module, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
    """Logits of one of our decoders or of a causal language model of `transformers`."""
    out = model(tokens)
    return out if isinstance(out, Tensor) else out.logits
