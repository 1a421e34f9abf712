"""A causal language model of the reader's own as the synthesizer: a local folder of Hugging Face, any architecture with a key-value cache.

`LocalDecoder` makes it look like our decoder, so that embedding, tuning, scoring and sampling are the stages that are there already:
the whole model is tuned, on pairs, in its own tokens (`data.text.folder_tokenizer`). `runs.pretrain.Adopt` stands where the pretraining
of our own decoder does. Nothing is downloaded, no code of the folder is run, no pickle is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Block, Decoder
from orchard.nn.packed import Packed
from orchard.nn.transformer import DecoderCache
from orchard.pretrained.folder import (
    CAUSAL,
    copy_files,
    load_config,
    load_model,
    model_folder,
    new_folder,
    quiet,
    tokenizer_files,
)

SAME = 1e-3  # of the largest logit: what hidden states times the output matrix may differ from the model's own logits


class LocalCache(DecoderCache):
    """The cache of transformers in the place of ours: its layers hold tensors whose rows are sequences, as ours do."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def layers(self) -> Any:  # type: ignore[override]
        """One per layer of the model, once it has read something."""
        return self.inner.layers

    @property
    def position(self) -> int:  # type: ignore[override]
        return int(self.inner.get_seq_length())

    def cut(self, position: int) -> None:
        self.inner.crop(position)


class LocalDecoder(Decoder):
    """A causal language model of a folder, behind the methods of a decoder. Ids beyond the tokenizer's are never predicted.

    Tied weights are one tensor in what is saved. A state without any tensor means the weights of the folder.
    """

    class Config(Decoder.Config):
        folder: str = REQUIRED
        sha256: str = REQUIRED  # of its weights and config, see `local_model`
        layers: list[Block.Config] = []  # the folder says
        location_fields = ("folder",)

    def __init__(self, cfg: LocalDecoder.Config) -> None:
        nn.Module.__init__(self)
        self.folder, self.vocab_size, self.dim = Path(cfg.folder), cfg.vocab_size, cfg.dim
        self.model = load_model(self.folder, CAUSAL, torch.float32)
        size = self.model.get_input_embeddings().num_embeddings
        if size < cfg.vocab_size:
            raise BadInput(
                f"{self.folder}: the model knows {size} tokens, its tokenizer {cfg.vocab_size}: they do not belong together"
            )
        groups: dict[int, list[str]] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            groups.setdefault(id(parameter), []).append(name)
        self._tied = {other: first for first, *others in groups.values() for other in others}
        self.register_state_dict_post_hook(_without_tied)
        self.register_load_state_dict_pre_hook(_with_tied)
        self.eval()
        _check(self)

    @property
    def embedding(self) -> Any:  # type: ignore[override]
        """The input embedding of the model."""
        return self.model.get_input_embeddings()

    def features(
        self, tokens: Int[Tensor, "batch time"] | None = None, cache: DecoderCache | None = None, packed: Packed | None = None,
        *, embeddings: Float[Tensor, "batch prefix dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:  # fmt: skip
        inner = cache.inner if isinstance(cache, LocalCache) else None
        given: dict[str, Any] = {"input_ids": tokens}
        if embeddings is not None:
            parts = [embeddings] if tokens is None else [embeddings, self.embed(tokens)]
            given = {"inputs_embeds": torch.cat(parts, dim=1)}
        found = self.model.base_model(**given, past_key_values=inner, use_cache=inner is not None)
        states: Float[Tensor, "batch length dim"] = found.last_hidden_state
        return states

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        found = self.model.get_output_embeddings()(features)[..., : self.vocab_size]
        config = self.model.config.get_text_config()
        found = found / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return found if not cap else cap * torch.tanh(found / cap)

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype, spare: int = 0
    ) -> LocalCache:
        """An empty cache. Raises BadInput where the model has no positions for ``max_length`` tokens."""
        from transformers import DynamicCache

        check_length(self.folder, max_length)
        return LocalCache(DynamicCache(config=self.model.config))

    def cache_bytes(self, length: int, bytes_per_element: int) -> int:
        """Bytes of keys and values per sequence after ``length`` tokens."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * head_dim * length * bytes_per_element)

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token: two per weight, the output matrix included, and attention over half of ``length``."""
        config = self.model.config.get_text_config()
        inside = sum(p.numel() for name, p in self.named_parameters() if p.ndim >= 2) - self.embedding.weight.numel()
        tied = self.model.get_output_embeddings().weight is self.embedding.weight
        head = self.embedding.weight.numel() if tied else 0
        return float(2 * (inside + head) + 2 * config.num_hidden_layers * length * self.dim)

    def num_parameters(self, embedding: bool = True, norms: bool = True) -> int:
        return sum(p.numel() for name, p in self.named_parameters() if embedding or p is not self.embedding.weight)

    def save(self, folder: Path) -> None:
        """Write weights, config and tokenizer as ``from_pretrained`` reads them; appears complete or not at all.

        Raises:
            BadInput: there is something at ``folder`` already.
        """
        with new_folder(folder) as part, quiet():
            self.model.save_pretrained(part)
            copy_files(tokenizer_files(self.folder), self.folder, part)


def local_model(folder: str | Path) -> LocalDecoder.Config:
    """The config of the model in a folder, known by the SHA-256 of what it holds. Raises BadInput where it holds no language model."""
    found = model_folder(folder)
    dim = getattr(_text_config(found.folder), "hidden_size", None)
    if dim is None:
        raise BadInput(f"{found.folder}: config.json describes no language model (it has no hidden_size)")
    return LocalDecoder.Config(folder=found.folder, sha256=found.sha256, dim=dim)


def check_length(folder: Path, length: int) -> None:
    """Raise ``BadInput`` unless the model has positions for ``length`` tokens: a pair of documents with its special tokens."""
    most = getattr(_text_config(folder), "max_position_embeddings", None)
    if most is not None and length > most:
        raise BadInput(
            f"{folder}: the model reads {most} tokens, a pair of documents takes up to {length}: cut documents at "
            f"{(most - 4) // 2} tokens or fewer"
        )


def _text_config(folder: str | Path) -> Any:
    return load_config(folder).get_text_config()


@torch.no_grad()
def _check(decoder: LocalDecoder) -> None:
    """Hidden states times the output matrix, read in two pieces from a cache, must be the model's own logits."""
    tokens = torch.arange(4)[None] % decoder.vocab_size
    try:
        cache = decoder.new_cache(1, 4, device="cpu", dtype=torch.float32)
        pieces = [decoder.features(piece, cache) for piece in tokens.split(2, dim=1)]
        ours, theirs = decoder.logits(torch.cat(pieces, dim=1)), decoder.model(tokens).logits[..., : decoder.vocab_size]
        same = bool((ours - theirs).abs().max() <= SAME * theirs.abs().max())
    except (TypeError, AttributeError, IndexError):  # no key-value cache, no hidden states
        same = False
    if not same:
        raise BadInput(
            f"{decoder.folder}: {type(decoder.model).__name__} is not a decoder with a key-value cache and one output matrix: "
            "choose a model such as Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX"
        )


def _without_tied(module: Any, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in module._tied:
        state.pop(prefix + name, None)


def _with_tied(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    if not any(name.startswith(prefix) for name in state):
        state.update({prefix + name: value for name, value in module.state_dict().items()})
    for name, first in module._tied.items():
        state[prefix + name] = state[prefix + first]
