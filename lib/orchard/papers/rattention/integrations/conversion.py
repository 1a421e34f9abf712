"""RATTENTION in a decoder that you already have: a `transformers` model of Llama's shape (Llama, Mistral, Qwen2, Qwen3).

    from orchard.papers.rattention.integrations.conversion import to_rattention

    model = LlamaForCausalLM(config)            # or from_pretrained(...)
    to_rattention(model, window=511)            # three of every four layers; returns their numbers
    model.generate(tokens, max_new_tokens=100)  # constant memory in the layers that were converted

A converted layer keeps the projections of the layer it replaces (under the same names, so checkpoints still load), its
rotary embedding and its query-key norm, and adds the two output norms and the residual branch. Global layers stay as
they are: with rotary positions, which the paper's own global layers do not have. The norms change what the layer says,
so a pretrained model needs further training after conversion (the paper leaves that open). With `output_norm=None` and
a window that covers the text it is the model that it was.

`transformers` is needed by whoever brings such a model; importing this module does not need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.nn import RMSNorm
from orchard.papers.rattention.method.attention import RAttention, ResidualCache

PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies that do not change with the length of the text


def to_rattention(
    model: nn.Module,
    window: int,
    layers: Iterable[int] | None = None,
    feature_map: str = "softmax",
    output_norm: RMSNorm.Config | None = RMSNorm.Config(eps=1e-8),  # noqa: B008  # a value, copied when it is used
) -> list[int]:
    """Replace the attention of `layers` (None: all but every fourth) in place; returns their numbers.

    `window` counts the tokens of left context, 0 or more. Raises BadInput for a model of another shape or a number that
    is no layer; the model is then as it was.
    """
    if window < 0:
        raise BadInput(f"to_rattention(window={window}): give the tokens of left context, 0 or more")
    body = getattr(model, "model", model)
    blocks, rotary = getattr(body, "layers", None), getattr(body, "rotary_emb", None)
    if blocks is None or rotary is None:
        raise BadInput(f"{type(model).__name__} is not shaped like Llama: it has no model.layers and model.rotary_emb")
    if (kind := getattr(rotary, "rope_type", "default")) not in FIXED_ROPE:
        raise BadInput(
            f"rotary type {kind!r} changes with the length of the text, but the window is rotated anew for every token: "
            f"use a model with one of {', '.join(FIXED_ROPE)}"
        )
    chosen = [i for i in range(len(blocks)) if (i + 1) % 4] if layers is None else sorted(set(layers))
    if bad := [i for i in chosen if not 0 <= i < len(blocks)]:
        raise BadInput(f"layers {bad}: the model has the layers 0 to {len(blocks) - 1}")
    converted = [_converted(blocks[i].self_attn, rotary, window, feature_map, output_norm) for i in chosen]
    for i, attention in zip(chosen, converted, strict=True):
        blocks[i].self_attn = attention
    if not any(hook is _check_inputs for hook in body._forward_pre_hooks.values()):
        body.register_forward_pre_hook(_check_inputs, with_kwargs=True)
    _register()
    return chosen


def _converted(
    old: Any, rotary: nn.Module, window: int, feature_map: str, output_norm: RMSNorm.Config | None
) -> ConvertedAttention:
    """The layer that takes the place of `old`, made of its parts."""
    place = type(old).__name__
    if isinstance(old, ConvertedAttention):
        raise BadInput("this layer is converted already: convert a model once")
    if missing := [name for name in ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim") if not hasattr(old, name)]:
        raise BadInput(f"{place} is not shaped like Llama's attention: it has no {', '.join(missing)}")
    if extra := {name.partition(".")[0] for name, _ in old.named_parameters()} - PARTS:
        raise BadInput(f"{place} has parts that RAttention does not know: {', '.join(sorted(extra))}")
    if abs(old.scaling - old.head_dim**-0.5) > 1e-6:
        raise BadInput(f"{place} scales its scores by {old.scaling:g}, RAttention by head_dim^-0.5")
    weight = old.q_proj.weight
    cfg = ConvertedAttention.Config(
        dim=old.q_proj.in_features, num_heads=old.q_proj.out_features // old.head_dim,
        num_kv_heads=old.k_proj.out_features // old.head_dim, head_dim=old.head_dim, window=window, rotary=None,
        feature_map=feature_map, output_norm=output_norm,
    )  # fmt: skip
    new: ConvertedAttention = cfg.build().to(weight.device, weight.dtype).train(old.training)
    for name in PARTS & {name for name, _ in old.named_children()}:
        setattr(new, name, getattr(old, name))
    new.rotary, new.layer_idx = _Rotary(rotary), old.layer_idx
    return new


class _Rotary:
    """The model's own rotary embedding, called as ours is. No module: the model holds it, once."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor, positions: Tensor, length: int | None = None) -> Tensor:
        cos, sin = self.module(x, positions[None] if positions.ndim == 1 else positions)
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)  # [rows, time, 1, head_dim], both halves alike
        x1, x2 = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-x2, x1), dim=-1) * sin


class ConvertedAttention(RAttention):
    """RAttention under the calling convention of `transformers`: hidden states in, (output, None) out.

    The query-key norm comes before rotary, as in Qwen3. Dropout of attention weights is not carried over.
    """

    layer_idx: int

    def place(self, x: Tensor, norm: Any, positions: Tensor, length: int | None = None) -> Tensor:
        """The query or key norm, then rotary."""
        return super().place(x if norm is None else norm(x), None, positions, length)

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """`past_key_values` is the cache of `transformers`; this layer keeps a `ResidualCacheLayer` of its own in it."""
        if past_key_values is None:
            return super().forward(hidden_states), None
        return super().forward(hidden_states, self._cache(past_key_values, hidden_states)), None

    def _cache(self, past: Any, x: Tensor) -> ResidualCache:
        layers = past.layers
        if len(layers) == self.layer_idx:
            layers.append(ResidualCacheLayer())
        if not isinstance(layers[self.layer_idx], ResidualCacheLayer):
            if layers[self.layer_idx].get_seq_length():
                raise BadInput(
                    f"the cache holds keys of layer {self.layer_idx} from before its conversion: start with a new cache"
                )
            layers[self.layer_idx] = ResidualCacheLayer()
        layer: ResidualCacheLayer = layers[self.layer_idx]
        if layer.held is None:
            dtype = self.q_proj.weight.dtype
            layer.held = self.new_cache(len(x), 1, device=x.device, dtype=dtype)
        return layer.held


class ResidualCacheLayer:
    """A layer of a `transformers` cache that holds a `ResidualCache`: the window and the state, whatever the length.

    It can be reordered (beam search) and repeated, but not cut back: what has been folded into a state stays there.
    """

    is_compileable = is_croppable = is_sliding = supports_early_init = False
    keys = values = None  # not in the layout that others expect

    def __init__(self) -> None:
        self.held: ResidualCache | None = None

    @property
    def is_initialized(self) -> bool:
        """Whether it has seen a token."""
        return self.held is not None

    def get_seq_length(self) -> int:
        """Number of tokens seen."""
        return 0 if self.held is None else self.held.position

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys and offset for the masks of the global layers: the model makes one mask, from its first layer."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def bytes(self) -> int:
        """Bytes of the tensors held, for the whole batch."""
        return 0 if self.held is None else self.held.bytes()

    def reset(self) -> None:
        """Forget everything."""
        self.held = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if self.held is not None:
            self.held.k, self.held.v, self.held.state = (
                x[indices.to(x.device)] for x in (self.held.k, self.held.v, self.held.state)
            )

    reorder_cache = batch_select_indices

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.held is not None:
            rows = torch.arange(len(self.held.k), device=self.held.k.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Only by nothing. Raises NotImplementedError."""
        if tokens_to_remove:
            raise NotImplementedError("tokens cannot be taken out of a state: decode without assistant or speculation")

    def offload(self) -> None:
        """Nothing: it is small."""

    prefetch = offload


def _register() -> None:
    """`transformers` asks its caches for instances of its own base class."""
    from transformers.cache_utils import CacheLayerMixin

    CacheLayerMixin.register(ResidualCacheLayer)


def _check_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what a converted layer would ignore: padding, and positions that do not follow one another."""
    mask, positions, past = (kwargs.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise BadInput("a converted model takes no attention_mask but a [batch, time] one without padding")
    bad = []
    if mask is not None:
        # Padding on the right is harmless while nothing is cached: causal layers do not see it.
        harmless = past is None and kwargs.get("use_cache") is False
        bad.append((mask[:, 1:] > mask[:, :-1]).any() if harmless else (mask == 0).any())
    if positions is not None:
        bad.append((positions.diff(dim=-1) != 1).any())
    if bad and bool(torch.stack(bad).any()):
        raise BadInput(
            "a converted model got padding or positions with gaps, which its state cannot leave out: give prompts of "
            "equal length together, or one at a time (padding on the right is fine with use_cache=False)"
        )
