"""Physical pruning: the k chosen channels of every layer, gathered into a small dense decoder.

    W_gate' = W_gate[idx],  W_up' = W_up[idx],  W_down' = W_down[:, idx] diag(g[idx])        g folded in: equal logits (section 3.6)

What is gathered is copied: the small decoder is a plain `Decoder` of width k. Everything but the feed-forward layers is shared.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchard.config import replace
from orchard.nn import Decoder, FeedForward
from orchard.papers.ifpruning.method.masks import MaskedFeedForward


def small_config(cfg: Decoder.Config) -> Decoder.Config:
    """The config of the pruned decoder: feed-forward layers of width k. Raises ValueError where none is masked."""
    cfg = cfg.clone()
    kept = {node.keep for _, node, *_ in cfg.walk(MaskedFeedForward)}  # type: ignore[attr-defined]
    if len(kept) != 1:
        raise ValueError(f"this decoder has masked layers with keep = {sorted(kept) or 'none'}: give one with one k")
    keep = kept.pop()
    replace(cfg, MaskedFeedForward, FeedForward.Config(hidden_dim=keep), drop=("keep",))
    return cfg


@torch.no_grad()
def gathered(cfg: Decoder.Config, decoder: Decoder, gates: Float[Tensor, "layers width"]) -> Decoder:
    """The small dense decoder that computes what ``decoder`` (of config ``cfg``) computes under ``gates``."""
    with torch.device("meta"):
        small: Decoder = small_config(cfg).build()
    weights = decoder.state_dict()
    for (name, layer), row in zip(named_layers(decoder), gates, strict=True):
        index = row.nonzero().flatten()
        if len(index) != layer.keep:
            raise ValueError(f"{name}: the gates open {len(index)} channels, a mask of it opens k = {layer.keep}")
        take_channels(weights, name, index, row[index])
    small.load_state_dict(weights, assign=True)
    return small.train(decoder.training)


def take_channels(
    weights: dict[str, Any], name: str, index: Int[Tensor, "chosen"], factors: Float[Tensor, "chosen"] | None = None
) -> None:
    """Leave these hidden channels of the feed-forward layer called ``name`` in ``weights``; ``factors`` are folded into W_down."""
    for part in ("gate_proj.weight", "gate_proj.bias", "up_proj.weight", "up_proj.bias"):
        if (key := f"{name}.{part}") in weights:
            weights[key] = weights[key][index]
    key = f"{name}.down_proj.weight"
    down = weights[key][:, index]
    weights[key] = down if factors is None else down * factors.to(down)


def named_layers(decoder: Decoder) -> list[tuple[str, MaskedFeedForward]]:
    """The masked layers with their names, first layer first."""
    return [(name, module) for name, module in decoder.named_modules() if isinstance(module, MaskedFeedForward)]
