"""IFPruning in a decoder that you already have: a `transformers` model with gated MLPs (Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3).

    pruned = prune_any(decoder, predictor, keep=1536)            # the decoder's own weights, hooks beside them
    pruned.calibrate(prompt_ids, prompt_mask, input_ids)         # the first masks: they differ between prompts, tune() does it too
    loss = pruned(input_ids, labels=labels, prompt_ids=prompt_ids, prompt_mask=prompt_mask).loss
    small = pruned.gathered(prompt_ids)                          # a stock model of `transformers`, intermediate_size = keep

    h_l = act(W_gate x) * (W_up x),  y = W_down (h_l * g_l),  g = Gates(W_2 act(W_1 f)),  f = predictor(prompt)[last token]

Gates [rows, layers, width] travel as activations: a hook puts them among the keyword arguments of the decoder's body, which hands them
to every attention layer as it hands on all it does not know; there they are taken out for the MLP behind. Nothing is stored between
forward passes, so FSDP, mixed precision and gradient checkpointing (without re-entry, the default) see ordinary tensors: a layer that
is computed again in the backward pass has the same arguments. Calibrate before you shard, and call the whole model: `gates()` alone
would find the head in shards. Not supported: torch.compile, re-entrant checkpoints, experts.
Prompts are read by the predictor's own tokenizer. Padding, left or right, is taken out before it reads, so it cannot change a mask.
Sections 3.1, 3.2 and 3.6 of arXiv 2501.02086.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.ifpruning.data.corpus import padded
from orchard.papers.ifpruning.method.masks import HEAD_ACTIVATIONS, Gates, calibrate_head, evaluating, importance_of
from orchard.papers.ifpruning.method.overlap import gauge
from orchard.papers.ifpruning.method.pruning import take_channels
from orchard.train.saved import TextModel

PARTS = ("gate_proj", "up_proj", "down_proj")
KEY = "ifpruning_gates"  # the keyword argument that gates travel as
KNOWN = "use a decoder such as Llama, Mistral, Qwen2, Qwen3 or Gemma"
Prompts = Int[Tensor, "prompts prompt_time"]
PromptMask = Bool[Tensor, "prompts prompt_time"] | Int[Tensor, "prompts prompt_time"]  # None: no padding
PromptGates = Float[Tensor, "prompts layers width"]
Text = Int[Tensor, "rows time"]
TextMask = Bool[Tensor, "rows time"] | Int[Tensor, "rows time"]


@dataclass(frozen=True)
class Settings:
    """What makes the masks of a pruned decoder, beside weights; the fields of `Gates.Config` and `Predictor.Config`."""

    keep: int  # k
    mode: str = "soft"
    epsilon: float = 0.3
    spread: float = 3.5  # of the first logits over channels, in epsilon
    rank: int = 128
    head_activation: str = "gelu"
    bias_share: float = 0.3
    max_prompt: int | None = None  # tokens that the predictor reads at most; None: what its config says


@dataclass(frozen=True)
class GatedLayer:
    """One layer of the decoder: the name and the module of its gated MLP, and the attention before it."""

    name: str
    mlp: Any
    attention: nn.Module

    @property
    def width(self) -> int:
        return int(self.mlp.down_proj.in_features)


def gated_layers(decoder: nn.Module) -> tuple[nn.Module, list[GatedLayer]]:
    """The body that calls the layers, and the layers, first layer first.

    Raises BadInput where the feed-forward layers are not gated MLPs, one in every layer behind its attention, of one width.
    """
    kind, modules = type(decoder).__name__, dict(decoder.named_modules())
    found = [
        name for name, module in modules.items() if all(isinstance(getattr(module, part, None), nn.Linear) for part in PARTS)
    ]  # fmt: skip
    if not found:
        raise BadInput(
            f"{kind} has no gated MLP (a module with {', '.join(PARTS)}); {_feed_forward(decoder)}. Only gated layers can be "
            f"pruned: {KNOWN}"
        )
    layers, homes = [], []
    for name in found:
        home, _, _ = name.rpartition(".")
        attention = getattr(modules[home], "self_attn", None)
        if attention is None:
            raise BadInput(f"{kind}: {name} is no feed-forward layer behind an attention layer (an expert?): {KNOWN}")
        layers.append(GatedLayer(name, modules[name], attention))
        homes.append(home)
    stacks = {home.rpartition(".")[0] for home in homes}
    stack = modules[stacks.pop()]
    if stacks or not isinstance(stack, nn.ModuleList) or len(set(homes)) != len(homes) or len(stack) != len(homes):
        raise BadInput(
            f"{kind} has {len(homes)} gated MLPs, not one in every layer of one stack ({', '.join(found[:3])} ...): {KNOWN}"
        )
    if len(widths := {layer.width for layer in layers}) > 1:
        raise BadInput(
            f"{kind} has layers of different widths ({', '.join(f'{layer.name}: {layer.width}' for layer in layers[:8])}): "
            f"one k and one predictor fit layers of one width, here {len(widths)}"
        )
    return modules[homes[0].rpartition(".")[0].rpartition(".")[0]], layers


def _feed_forward(decoder: nn.Module) -> str:
    """What stands in the place of gated MLPs, for a message."""
    for name, module in decoder.named_modules():
        if name.rpartition(".")[2] in ("mlp", "ffn", "feed_forward"):
            return f"its {name} is a {type(module).__name__} with {', '.join(n for n, _ in module.named_children())}"
    return f"it has {', '.join(name for name, _ in decoder.named_children()) or 'no modules'}"


def prune_any(
    decoder: nn.Module, predictor: nn.Module | TextModel, keep: int, mode: str = "soft", epsilon: float = 0.3, spread: float = 3.5,
    rank: int = 128, head_activation: str = "gelu", max_prompt: int | None = None, tokenizer: Any = None, prompt_tokenizer: Any = None,
) -> PrunedModel:  # fmt: skip
    """Add a predictor and masks of ``keep`` channels to a causal language model of `transformers`.

    The decoder gets hooks and is otherwise as it was: without prompts it computes as before. ``predictor`` is a model of `transformers`
    (its output matrix is not used) or one of ours with its tokenizer (`load_saved`); tokenizers are for text and for saving.
    Raises BadInput as `gated_layers`, for k that the layers do not have, and for settings that do not exist.
    """
    settings = Settings(keep, mode, epsilon, spread, rank, head_activation, max_prompt=max_prompt)
    return PrunedModel(decoder, predictor, settings, tokenizer, prompt_tokenizer)


class PrunedModel(nn.Module):
    """A decoder whose feed-forward layers compute with the k channels that a predictor chooses from a prompt; see `prune_any`."""

    def __init__(
        self, decoder: Any, predictor: Any, settings: Settings, tokenizer: Any = None, prompt_tokenizer: Any = None
    ) -> None:
        super().__init__()
        if (activation := settings.head_activation) not in HEAD_ACTIVATIONS:
            raise BadInput(f"head_activation is {activation!r}: choose one of {', '.join(HEAD_ACTIVATIONS)}")
        if settings.rank < 1 or not settings.spread > 0:
            raise BadInput(f"rank {settings.rank}, spread {settings.spread}: both are above 0")
        body, layers = gated_layers(decoder)
        width = layers[0].width
        made = Gates.Config(width=width, keep=settings.keep, epsilon=settings.epsilon, mode=settings.mode)
        try:
            self.selection: Gates = made.build()
        except ValueError as error:
            raise BadInput(f"the feed-forward layers of {type(decoder).__name__}: {error}") from None
        if any(getattr(hook, "func", None) is _enter for hook in body._forward_pre_hooks.values()):
            raise BadInput(f"this {type(decoder).__name__} has masks already: prune a model once")
        self.settings, self.tokenizer, self.decoder = settings, tokenizer, decoder
        self.reader = predictor if isinstance(predictor, TextModel) else None  # ours: its config, to save it with
        self.prompt_tokenizer: Any = prompt_tokenizer if self.reader is None else self.reader.tokenizer
        self.predictor: Any
        self.predictor, dim, positions = _reader(predictor)
        self.layer_names = [layer.name for layer in layers]
        self.width, self.calibrated = width, False
        self.head_in = nn.Linear(dim, settings.rank)
        self.head_out = nn.Linear(settings.rank, len(layers) * width)
        self.max_prompt = min(size for size in (settings.max_prompt, positions, 2**31) if size)
        self._travel = _Travel(body, layers)
        self.train(decoder.training)

    # ------------------------------------------------------------------- masks

    def prompts(self, texts: str | Sequence[str]) -> tuple[Prompts, Bool[Tensor, "prompts prompt_time"]]:
        """Ids and mask of prompts as the predictor's tokenizer reads them, padded on the right.

        Raises BadInput without a tokenizer, for an empty text and for one of more than ``max_prompt`` tokens.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [self._read(text, number) for number, text in enumerate(texts)]
        ids, mask = (part.to(self.head_in.weight.device) for part in padded(rows))
        return ids, mask.bool()

    def _read(self, text: str, number: int) -> list[int]:
        if not text.strip():
            raise BadInput(f"prompt {number + 1} is empty: a mask is chosen from an instruction, write one")
        row = self.prompt_tokens(text)
        self._check_length(f"prompt {number + 1}", len(row))
        return row

    def _check_length(self, prompt: str, tokens: int) -> None:
        if tokens > self.max_prompt:
            raise BadInput(
                f"{prompt} has {tokens} tokens, the predictor reads {self.max_prompt}: shorten the instruction, or use a predictor with a "
                "longer context"
            )

    def prompt_tokens(self, text: str) -> list[int]:
        """A text in the predictor's tokens. Raises BadInput without a tokenizer."""
        if self.prompt_tokenizer is None:
            raise BadInput("there is no prompt_tokenizer to read text with: give it to prune_any, or give prompt_ids")
        if self.reader is not None:
            return [self.prompt_tokenizer.bos, *self.prompt_tokenizer.encode(text)]
        return list(self.prompt_tokenizer(text, verbose=False)["input_ids"])

    def logits(self, prompt_ids: Prompts, prompt_mask: PromptMask | None = None) -> PromptGates:
        """z of every prompt. Raises BadInput for an empty prompt or one that is longer than the predictor reads."""
        states = self._last(prompt_ids, prompt_mask)
        with torch.autocast(states.device.type, enabled=False):  # in 16 bits many channels would tie
            z = self.head_out(HEAD_ACTIVATIONS[self.settings.head_activation](self.head_in(states)))
        return z.unflatten(-1, (len(self.layer_names), self.width))

    def gates(self, prompt_ids: Prompts, prompt_mask: PromptMask | None = None) -> PromptGates:
        """The factor of every hidden channel, k of them not 0; see `Gates` for what it is in training and afterwards."""
        if not self.calibrated:
            warnings.warn(
                "the predictor's head is not calibrated: with small first logits the masks of all prompts coincide; call "
                "calibrate() before training, or load a trained model",
                stacklevel=2,
            )
        chosen: Tensor = self.selection(self.logits(prompt_ids, prompt_mask))
        return chosen

    def masks(self, prompt_ids: Prompts, prompt_mask: PromptMask | None = None) -> Bool[Tensor, "prompts layers width"]:
        """The k channels of every layer, for `overlap`."""
        return self.selection.top(self.logits(prompt_ids, prompt_mask))

    def _last(self, prompt_ids: Tensor, prompt_mask: Tensor | None) -> Float[Tensor, "prompts dim"]:
        """The predictor's state at the last token of every prompt."""
        mask = torch.ones_like(prompt_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
        lengths = mask.sum(dim=1)
        if bad := [row + 1 for row, length in enumerate(lengths.tolist()) if length == 0]:
            raise BadInput(f"prompts {bad} of {len(mask)} are empty: give at least one token, such as bos")
        longest = int(lengths.max())
        self._check_length("a prompt", longest)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]  # tokens first, in their order
        ids, kept = prompt_ids.gather(1, order), mask.gather(1, order)
        ids = ids.where(kept, ids[:, :1])  # what stands in the padding is an id that exists
        if isinstance(self.predictor, Decoder):
            states: Tensor = self.predictor.features(ids)
        else:
            states = self.predictor(input_ids=ids, attention_mask=kept.long(), use_cache=False).last_hidden_state
        return states[torch.arange(len(states), device=states.device), lengths - 1].to(self.head_in.weight.dtype)

    @torch.no_grad()
    def calibrate(
        self, prompt_ids: Prompts, prompt_mask: PromptMask | None = None, input_ids: Text | None = None,
        attention_mask: TextMask | None = None,
    ) -> None:  # fmt: skip
        """Set the head so that first masks differ between these prompts (`Predictor.calibrate`); with text that the decoder reads, its
        important channels come first for all prompts. Raises BadInput for fewer than two prompts, or prompts that are all alike."""
        states = self._last(prompt_ids, prompt_mask)
        bias = torch.zeros(len(self.layer_names), self.width, device=states.device)
        if input_ids is not None:
            counts = None if attention_mask is None else attention_mask.bool()
            down = [self.decoder.get_submodule(name).down_proj for name in self.layer_names]
            body = getattr(self.decoder, "base_model", self.decoder)  # no logits of all tokens
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
            found = importance_of(down, lambda: body(**given), counts)
            scaled = (found - found.mean(-1, keepdim=True)) / found.std(-1, keepdim=True)
            bias = self.settings.bias_share * scaled.to(bias)
        activation = HEAD_ACTIVATIONS[self.settings.head_activation]
        spread = self.settings.spread * self.settings.epsilon
        calibrate_head(self.head_in, self.head_out, activation, states, bias, spread)
        self.calibrated = True

    @torch.no_grad()
    def gauge(
        self, prompt_ids: Prompts, prompt_mask: PromptMask | None, domain: Int[Tensor, "prompts"]
    ) -> dict[str, float]:
        """`overlap.gauge` of the masks of these prompts, by domain, and the ``spread`` of their logits in epsilon. What `overlap.collapsed`
        makes of it says whether masks still depend on the domain."""
        z = self.logits(prompt_ids, prompt_mask)
        domains, member = domain.cpu().unique(return_inverse=True)
        measured = gauge(self.selection.top(z).cpu(), member, len(domains))
        return measured | {"spread": z.float().std(dim=-1).mean().item() / self.settings.epsilon}

    # ------------------------------------------------------------------- the decoder under a mask

    def checkpoint_activations(self) -> None:
        """Compute the decoder's layers again in the backward pass instead of keeping what they hold."""
        decoder = self.decoder  # early versions 5 of transformers have the second name alone
        (getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable)()

    def forward(
        self, input_ids: Text, attention_mask: TextMask | None = None, labels: Text | None = None, prompt_ids: Prompts | None = None,
        prompt_mask: PromptMask | None = None, gates: PromptGates | None = None, **others: Any,
    ) -> Any:  # fmt: skip
        """The decoder's own output (logits, loss, cache) under the mask of every row, from its prompt or as given; without: unpruned.

        One prompt, or one row of gates, is for all rows. Raises BadInput for another number of them.
        """
        if prompt_ids is not None:
            gates = self.gates(prompt_ids, prompt_mask)
        with self._travel.with_gates(gates, len(input_ids)):
            return self.decoder(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **others)

    def generate(
        self, input_ids: Text, attention_mask: TextMask | None = None, prompt_ids: Prompts | None = None,
        prompt_mask: PromptMask | None = None, **others: Any,
    ) -> Any:  # fmt: skip
        """The decoder's `generate`, with one mask per row from start to end."""
        with evaluating(self):
            gates = None if prompt_ids is None else self.gates(prompt_ids, prompt_mask)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            with self._travel.with_gates(gates, len(input_ids)):
                return self.decoder.generate(input_ids=input_ids, attention_mask=mask, **others)

    def gathered(self, prompt_ids: Int[Tensor, "1 time"], prompt_mask: PromptMask | None = None) -> Any:
        """The small model for one prompt: of the decoder's class, ``intermediate_size`` k, with the logits of the masked one.

        The k channels are copied, everything else is shared with the decoder.
        """
        with evaluating(self):
            gates = self.gates(prompt_ids, prompt_mask)[0]
            return gather_decoder(self.decoder, self.layer_names, self.settings.keep, gates)


def gather_decoder(decoder: Any, names: Sequence[str], keep: int, gates: Float[Tensor, "layers width"]) -> Any:
    """`pruning.gathered` for a model of `transformers`: W_gate[idx], W_up[idx], W_down[:, idx] diag(g[idx]), biases with them."""
    config = copy.deepcopy(decoder.config)
    config.get_text_config().intermediate_size = keep
    with torch.device("meta"):
        small = type(decoder)(config)
    weights = decoder.state_dict()
    for name, row in zip(names, gates, strict=True):
        index = row.topk(keep).indices.sort().values.to(weights[f"{name}.down_proj.weight"].device)
        take_channels(weights, name, index, row[index.to(row.device)])
    small.load_state_dict(weights, assign=True)
    small.tie_weights()
    for name, buffer in decoder.named_buffers():  # those that are in no state: frequencies of rotary positions
        home, _, own = name.rpartition(".")
        small.get_submodule(home).register_buffer(own, buffer, persistent=name in weights)
    small.generation_config = copy.deepcopy(decoder.generation_config)
    return small.eval()


class _Travel:
    """The way of the gates through the decoder. Hooks are partial functions, which copies of a model copy with their way."""

    def __init__(self, body: nn.Module, layers: list[GatedLayer]) -> None:
        self.gates: Tensor | None = None  # of the call that goes on now
        self.width = layers[0].width
        self.waiting: list[Tensor | None] = [None] * len(layers)  # between the attention of a layer and its MLP
        body.register_forward_pre_hook(partial(_enter, self), with_kwargs=True)
        for number, layer in enumerate(layers):
            layer.attention.register_forward_pre_hook(partial(_leave, self, number), with_kwargs=True)
            layer.mlp.down_proj.register_forward_pre_hook(partial(_multiply, self, number))

    @contextmanager
    def with_gates(self, gates: Tensor | None, rows: int) -> Iterator[None]:
        """Within this context the decoder computes with these gates."""
        if gates is not None and (len(gates) not in (1, rows) or gates.shape[1:] != (len(self.waiting), self.width)):
            raise BadInput(
                f"gates of {len(gates)} prompts for {gates.shape[1]} layers of width {gates.shape[2]}, the text has {rows} rows and the "
                f"decoder {len(self.waiting)} layers of width {self.width}: give one prompt, or one for every row"
            )
        self.gates = gates
        try:
            yield
        finally:
            self.gates = None
            self.waiting = [None] * len(self.waiting)


def _enter(travel: _Travel, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Puts the gates among the keyword arguments of the body."""
    return None if travel.gates is None else (args, kwargs | {KEY: travel.gates})


def _leave(travel: _Travel, number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Takes them out of those of an attention layer, for the MLP behind it."""
    gates = kwargs.pop(KEY, None)
    travel.waiting[number] = None if gates is None else gates[:, number]
    return args, kwargs


def _multiply(travel: _Travel, number: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Multiplies what enters the last projection of an MLP."""
    (hidden,), gates = inputs, travel.waiting[number]
    travel.waiting[number] = None
    if gates is None:
        if travel.gates is not None:
            raise BadInput(
                f"layer {number} got no gates: this decoder does not hand keyword arguments on to its attention layers; {KNOWN}"
            )
        return None
    beams = len(hidden) // len(gates)  # they stand side by side
    return hidden * gates.repeat_interleave(beams, dim=0)[:, None].to(hidden)


def _reader(predictor: Any) -> tuple[nn.Module, int, int | None]:
    """What a predictor reads with, its dimension, and how many tokens it has positions for (None: any number)."""
    if isinstance(predictor, TextModel):
        return predictor.model, predictor.model.dim, None
    base = getattr(predictor, "base_model", None)  # without the output matrix
    if base is None or not hasattr(predictor, "config"):
        raise BadInput(
            f"the predictor is a {type(predictor).__name__}: give a model of transformers, or what orchard's load_saved returns"
        )
    sizes = predictor.config.get_text_config()
    return base, int(sizes.hidden_size), getattr(sizes, "max_position_embeddings", None)
