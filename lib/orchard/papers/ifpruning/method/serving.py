"""Serving a masked decoder: the sub-network of a request is gathered into memory that stands ready, and reused.

    select   z = head(backbone(instruction)[last]),  rows = channels of Top(z),  f = their gates             a Selection
    load     G = W_gate[rows],  U = W_up[rows],  V = diag(f) W_down^T[rows]                                  three gathers of rows
    answer   prefill and decode with a plain decoder of width k whose matrices are G, U and V^T

W_down is held transposed, since a gather of its columns would read memory with strides, and the layers of a matrix stand below one
another, [layers * D, dim], so that a load is three calls whatever the depth. A selection serves all samples of a query, all queries of
a task (keep it under the task's name) and the later turns of a conversation, whose mask is that of its first human message.

Loaded sub-networks stay in a cache, the least recently used is overwritten. It is keyed by the mask: the same channels with other
gates (mode `soft`) are a hit after which W_down alone is gathered again, so that an answer never depends on what was served before.
Sections 3.3 and 5 of the paper (arXiv 2501.02086); the cache is ours.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchard.errors import BadInput
from orchard.nn import Decoder, Sampling, stream
from orchard.papers.ifpruning.method.masks import Predictor, masked_layers
from orchard.papers.ifpruning.method.pruning import named_layers, small_config

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """The channels of one mask in all layers, and their gates.

    ``rows`` are numbers of rows of the stacked matrices, layer * D + channel, in rising order.
    """

    rows: Int[Tensor, "chosen"]
    factors: Float[Tensor, "chosen"]
    key: bytes  # the same for the same channels

    def overlap(self, other: Selection) -> float:
        """|A & B| / k, mean over the layers: how far a new prompt has drifted from the mask that is in use."""
        return torch.isin(self.rows, other.rows).float().mean().item()


class LeastRecentlyUsed(Generic[T]):
    """Values by key, at most ``size`` of them, with counts of ``hits``, ``misses`` and ``evictions``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = self.misses = self.evictions = 0
        self._values: OrderedDict[bytes, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> T | None:
        """The value of a key, which is then the most recently used; None where there is none."""
        if key not in self._values:
            self.misses += 1
            return None
        self.hits += 1
        self._values.move_to_end(key)
        return self._values[key]

    def make_room(self) -> T | None:
        """Remove the value that was not used for longest if another does not fit, and return it."""
        if len(self) < self.size:
            return None
        self.evictions += 1
        return self._values.popitem(last=False)[1]

    def put(self, key: bytes, value: T) -> None:
        """Keep a value, for which :meth:`make_room` has made room."""
        self._values[key] = value

    @property
    def hit_rate(self) -> float:
        """Share of the look-ups that found something."""
        return self.hits / max(1, self.hits + self.misses)


@dataclass
class Slot:
    """Memory for one sub-network, and the decoder that computes with it."""

    gate: Float[Tensor, "chosen dim"]
    up: Float[Tensor, "chosen dim"]
    down: Float[Tensor, "chosen dim"]  # transposed
    decoder: Decoder
    factors: Float[Tensor, "chosen"] | None = None


class Server:
    """Selects, loads and answers with the sub-networks of one masked decoder.

    It copies the feed-forward matrices and shares all others, so that the decoder may be dropped afterwards.

    Args:
        cfg: of the masked decoder.
        cache_bytes: for sub-networks, all of it taken at once; None: room for one.

    Raises BadInput for a budget in which not one sub-network fits; ValueError for a decoder without masked layers, and for a predictor
    that was made for another one.
    """

    @torch.no_grad()
    def __init__(
        self, cfg: Decoder.Config, decoder: Decoder, selector: Predictor, cache_bytes: int | None = None
    ) -> None:
        small = small_config(cfg)
        layers = masked_layers(decoder)
        made_for = selector.num_layers, selector.gates.cfg.width, selector.gates.cfg.keep
        has = len(layers), layers[0].down_proj.in_features, layers[0].keep
        if made_for != has:
            raise ValueError(
                "the predictor chooses for {} layers of width {} with k = {}, the decoder has {} of width {} with k = {}: "
                "load the predictor that was trained with this decoder".format(*made_for, *has)
            )
        self.selector = selector.eval()
        self.num_layers, self.keep = len(layers), layers[0].keep
        self.gate = torch.cat([layer.gate_proj.weight for layer in layers])
        self.up = torch.cat([layer.up_proj.weight for layer in layers])
        self.down = torch.cat([layer.down_proj.weight.T for layer in layers])
        size = self.subnetwork_bytes
        slots = 1 if cache_bytes is None else cache_bytes // size
        if slots < 1:
            raise BadInput(
                f"cache_bytes is {cache_bytes}, and one sub-network takes {size}: {self.num_layers} layers of 3 matrices of "
                f"{self.keep} x {self.gate.shape[1]}; give {size} for every sub-network that is to stay in memory"
            )
        self._free = [self._slot(small, decoder) for _ in range(slots)]
        self.cache: LeastRecentlyUsed[Slot] = LeastRecentlyUsed(slots)

    @property
    def subnetwork_bytes(self) -> int:
        """Bytes of the feed-forward matrices of one sub-network."""
        return 3 * self.num_layers * self.keep * self.gate.shape[1] * self.gate.element_size()

    def _slot(self, cfg: Decoder.Config, decoder: Decoder) -> Slot:
        gate, up, down = (self.gate.new_empty(self.num_layers * self.keep, self.gate.shape[1]) for _ in range(3))
        with torch.device("meta"):
            small: Decoder = cfg.clone().build()
        weights = decoder.state_dict()
        for i, (name, _) in enumerate(named_layers(decoder)):
            part = slice(i * self.keep, (i + 1) * self.keep)
            weights[f"{name}.gate_proj.weight"], weights[f"{name}.up_proj.weight"] = gate[part], up[part]
            weights[f"{name}.down_proj.weight"] = down[part].T
        small.load_state_dict(weights, assign=True)
        return Slot(gate, up, down, small.eval().requires_grad_(False))

    @torch.no_grad()
    def select(self, instruction: Int[Tensor, "time"]) -> Selection:
        """The mask of an instruction; beside a bf16 decoder the predictor runs under autocast, as in training.

        Raises ValueError for an empty instruction, or one that is longer than the predictor reads.
        """
        device, dtype = self.gate.device, self.gate.dtype
        prompt, length = instruction[None].to(device), torch.tensor([len(instruction)], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            gates = self.selector.gates(self.selector.of_prompts(prompt, length)[0]).flatten()
        rows = gates.nonzero().flatten()
        key = hashlib.blake2b(rows.to(torch.int32).cpu().numpy().tobytes(), digest_size=16).digest()
        return Selection(rows, gates[rows].to(dtype), key)

    @torch.no_grad()
    def load(self, selection: Selection) -> Decoder:
        """The decoder of width k of a selection, gathered unless it is in the cache. Good until it is evicted: load again then."""
        slot = self.cache.get(selection.key)
        if slot is None:
            slot = self.cache.make_room() or self._free.pop()
            torch.index_select(self.gate, 0, selection.rows, out=slot.gate)
            torch.index_select(self.up, 0, selection.rows, out=slot.up)
            slot.factors = None
            self.cache.put(selection.key, slot)
        if slot.factors is None or not torch.equal(slot.factors, selection.factors):
            torch.index_select(self.down, 0, selection.rows, out=slot.down)
            slot.down.mul_(selection.factors[:, None])
            slot.factors = selection.factors
        return slot.decoder

    def answer(
        self, selection: Selection, tokens: Int[Tensor, "time"], max_new_tokens: int, samples: int = 1,
        sampling: Sampling | None = None, generator: torch.Generator | None = None,
    ) -> Int[Tensor, "samples new"]:  # fmt: skip
        """What follows ``tokens``, ``samples`` times from one loaded sub-network (greedily: the same). Raises as ``nn.stream`` does."""
        decoder = self.load(selection)
        prompts = tokens.to(self.gate.device).expand(samples, -1)
        new = stream(decoder, prompts, max_new_tokens, sampling or Sampling(), generator)
        return torch.cat([prompts[:, :0], *new], dim=1)


class Conversation:
    """Turns that share the mask of the first human message, as in fine-tuning; the decoder reads all that was said before."""

    def __init__(self, server: Server, first: Int[Tensor, "time"]) -> None:
        self.server, self.selection = server, server.select(first)
        self.tokens = first[:0]

    def turn(self, message: Int[Tensor, "time"], max_new_tokens: int) -> Int[Tensor, "new"]:
        """The answer to a message, greedily."""
        said = torch.cat([self.tokens, message])
        answer = self.server.answer(self.selection, said, max_new_tokens)[0]
        self.tokens = torch.cat([said, answer.to(said.device)])
        return answer

    def drift(self, message: Int[Tensor, "time"]) -> float:
        """1 minus the overlap of the mask that this message would choose with the one in use: 0 stays, 1 - k/D is chance."""
        return 1 - self.selection.overlap(self.server.select(message))
