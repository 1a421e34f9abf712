"""Requests with different masks in one batch, which the paper leaves open: the union of their masks, and who shares a batch with whom.

    U_l = union over the batch of the channels of layer l        one sub-network of |U_l| >= k channels, gathered once
    y_b = W_down[:, U] ((act(W_gate[U] x_b) * W_up[U] x_b) * g_b[U])        exact: gates of request b are 0 outside its own mask

    FLOPs per token              |U| / k      times those alone: grow with what masks do not share
    weights read per request     |U| / (k B)  times those alone: fall, and are what decoding waits for

FIFO batches take requests as they come. `by_overlap` fills the batch of the oldest request with those that add fewest channels.
Shapes: masks [requests, layers, D], gates [batch, layers, D]. Ours; no claim of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.ifpruning.method.masks import MaskedFeedForward, gated, masked_layers
from orchard.papers.ifpruning.method.pruning import named_layers, take_channels

Batch = list[int]  # numbers of requests


@dataclass(frozen=True)
class Union:
    """The sub-network of a batch: a decoder whose layers have as many channels as the masks use together, and the gates of each request."""

    decoder: Decoder
    gates: list[Float[Tensor, "batch 1 _"]]  # by layer, each as wide as its union

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Logits of every request under its own mask, in one pass. Requests of different lengths are padded on the right."""
        layers = masked_layers(self.decoder)
        for layer, gates in zip(layers, self.gates, strict=True):
            layer.gates = gates
        try:
            return self.decoder(tokens)
        finally:
            for layer in layers:
                layer.gates = None

    @property
    def widths(self) -> list[int]:
        """Channels of each layer."""
        return [gates.shape[-1] for gates in self.gates]


@torch.no_grad()
def union(cfg: Decoder.Config, decoder: Decoder, gates: Float[Tensor, "batch layers width"]) -> Union:
    """The sub-network of a batch of gates, of the masked decoder with this config."""
    used = [(gates[:, i] != 0).any(dim=0).nonzero().flatten() for i in range(gates.shape[1])]
    cfg = cfg.clone()
    for (_, node, *_), index in zip(cfg.walk(MaskedFeedForward), used, strict=True):
        node.set(hidden_dim=len(index))
    with torch.device("meta"):
        wide: Decoder = cfg.build()
    weights = decoder.state_dict()
    for (name, _), index in zip(named_layers(decoder), used, strict=True):
        take_channels(weights, name, index)
    wide.load_state_dict(weights, assign=True)
    return Union(wide.eval(), [gates[:, None, i, index] for i, index in enumerate(used)])


@torch.no_grad()
def one_by_one(
    decoder: Decoder, gates: Float[Tensor, "batch layers width"], tokens: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time vocab"]:
    """The naive reference: every request alone, at full width under its mask."""
    found = []
    for row, prompt in zip(gates, tokens, strict=True):
        with gated(decoder, row[None, None]):
            found.append(decoder(prompt[None]))
    return torch.cat(found)


def union_width(masks: Bool[Tensor, "batch layers width"]) -> float:
    """Channels that a batch uses in a layer, over k: 1 when all masks are the same."""
    return (masks.any(dim=0).sum() / masks[0].sum()).item()


def random_union_width(size: int, chance: float) -> float:
    """What is expected of ``size`` independent random masks with k/D = ``chance``: (1 - (1 - k/D)^B) D/k."""
    return (1 - (1 - chance) ** size) / chance


def fifo(count: int, size: int) -> list[Batch]:
    """Requests 0 ... count - 1 in batches, in the order in which they came. Raises BadInput for a size below 1."""
    if size < 1:
        raise BadInput(f"batches of {size} requests: give at least 1")
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def by_overlap(masks: Bool[Tensor, "requests layers width"], size: int, window: int) -> list[Batch]:
    """Batches of requests whose masks overlap: the oldest that waits, and those that add fewest channels to the union so far.

    ``window`` requests wait at a time, the next ones take the places of those served; ties go to the older. The oldest is in every batch,
    so nobody waits for more than ``window`` batches. Raises BadInput for a window smaller than a batch.
    """
    if not 1 <= size <= window:
        raise BadInput(f"batches of {size} from {window} waiting requests: let at least as many wait as a batch has")
    flat = masks.flatten(1).numpy()
    waiting = list(range(min(window, len(flat))))
    upcoming = len(waiting)
    batches = []
    while waiting:
        batch = [waiting.pop(0)]
        used = flat[batch[0]].copy()
        while waiting and len(batch) < size:
            added = (flat[waiting] & ~used).sum(axis=1)
            batch.append(waiting.pop(int(np.argmin(added))))
            used |= flat[batch[-1]]
        batches.append(batch)
        more = range(upcoming, min(upcoming + len(batch), len(flat)))
        waiting += more
        upcoming += len(more)
    return batches
