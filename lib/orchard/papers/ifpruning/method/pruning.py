"""Physical pruning: the k chosen channels of every layer, gathered into a small dense decoder.

    W_gate' = W_gate[idx],  W_up' = W_up[idx],  W_down' = W_down[:, idx] diag(g[idx])        g folded in: equal logits (section 3.6)

What is gathered is copied: the small decoder is a plain `Decoder` of width k. Everything but the feed-forward layers is shared.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from orchard.config import replace
from orchard.nn import Decoder, FeedForward
from orchard.papers.ifpruning.method.masks import MaskedFeedForward


def small_config(cfg: Decoder.Config) -> Decoder.Config:
    """The config of the pruned decoder: feed-forward layers of width k. Raises ValueError where none is masked."""
    cfg = cfg.clone()
    kept = {node.keep for _, node, *_ in cfg.walk(MaskedFeedForward)}  # type: ignore[attr-defined]
    if len(kept) != 1:
        raise ValueError(
            f"this decoder has masked layers with keep = {sorted(kept) or 'none'}: give one with a single k"
        )
    keep = kept.pop()
    replace(cfg, MaskedFeedForward, FeedForward.Config(hidden_dim=keep), drop=("keep",))
    return cfg


@torch.no_grad()
def gathered(cfg: Decoder.Config, decoder: Decoder, gates: Float[Tensor, "layers width"]) -> Decoder:
    """The small dense decoder that computes what ``decoder`` (of config ``cfg``) computes under ``gates``."""
    with torch.device("meta"):
        small: Decoder = small_config(cfg).build()
    weights = decoder.state_dict()
    for (name, layer), row in zip(_named(decoder), gates, strict=True):
        index = row.nonzero().flatten()
        if len(index) != layer.keep:
            raise ValueError(
                f"{name}: the gates open {len(index)} channels, a mask of this layer opens k = {layer.keep}"
            )
        weights[f"{name}.gate_proj.weight"] = layer.gate_proj.weight[index]
        weights[f"{name}.up_proj.weight"] = layer.up_proj.weight[index]
        weights[f"{name}.down_proj.weight"] = layer.down_proj.weight[:, index] * row[index].to(
            layer.down_proj.weight.dtype
        )
    small.load_state_dict(weights, assign=True)
    return small.train(decoder.training)


def _named(decoder: Decoder) -> list[tuple[str, MaskedFeedForward]]:
    return [(name, module) for name, module in decoder.named_modules() if isinstance(module, MaskedFeedForward)]
