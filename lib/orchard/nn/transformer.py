"""The decoder-only transformer: pre-norm blocks with two residuals.

    x <- x + Attention(Norm(x));  x <- x + FeedForward(Norm(x))

Every layer has its own config, so layers may differ (local and global attention, a mixture of experts).
Sources: Xiong et al. 2020, arXiv 2002.04745 (pre-norm); Touvron et al. 2023, arXiv 2302.13971 (this block).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn.attention import Attention, Cache
from orchard.nn.feedforward import FeedForward
from orchard.nn.generation import PREFILL_CHUNK, LogitsProcessor, Sampling, stream
from orchard.nn.moe import MixtureOfExperts
from orchard.nn.norm import RMSNorm
from orchard.nn.packed import Packed
from orchard.nn.projection import Projection, projection


class Block(nn.Module, Configurable):
    """One layer. `attention` and `feed_forward` may be any component with the same fields and methods."""

    class Config(Configurable.Config):
        dim: int = REQUIRED
        attention: Attention.Config = Attention.Config()
        feed_forward: FeedForward.Config | MixtureOfExperts.Config = FeedForward.Config()
        norm: RMSNorm.Config = RMSNorm.Config()
        output_init_std: float | None = None  # pushed down by the decoder

    def __init__(self, cfg: Block.Config) -> None:
        super().__init__()
        for part in (cfg.attention, cfg.feed_forward):
            part.set(dim=cfg.dim)
            if part.output_init_std is None:
                part.set(output_init_std=cfg.output_init_std)
        self.attention_norm = cfg.norm.set(dim=cfg.dim).build()
        self.attention = cfg.attention.build()
        self.feed_forward_norm = cfg.norm.set(dim=cfg.dim).build()
        self.feed_forward = cfg.feed_forward.build()

    def forward(
        self, x: Float[Tensor, "batch time dim"], cache: Cache | None = None, packed: Packed | None = None
    ) -> Float[Tensor, "batch time dim"]:
        x = x + self.attention(self.attention_norm(x), cache, packed)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token at sequence length `length`."""
        return self.attention.flops_per_token(length) + self.feed_forward.flops_per_token(length)


class DecoderCache(Cache):
    """One cache per layer."""

    def __init__(self, layers: list[Cache]) -> None:
        self.layers = layers

    @property
    def position(self) -> int:  # type: ignore[override]
        return self.layers[0].position

    def cut(self, position: int) -> None:
        for layer in self.layers:  # all of them or none
            layer.check_cut(position)
        for layer in self.layers:
            layer.cut(position)

    def bytes(self) -> int:
        return sum(layer.bytes() for layer in self.layers)


class Decoder(nn.Module, Configurable):
    """Token embedding, blocks, final norm, output matrix (the embedding itself when tied)."""

    class Config(Configurable.Config):
        vocab_size: int = REQUIRED
        dim: int = REQUIRED
        layers: list[Block.Config] = REQUIRED
        norm: RMSNorm.Config = RMSNorm.Config()
        head: Projection.Config = Projection.Config()  # the output matrix, unless tied
        tie_embeddings: bool = False

    def __init__(self, cfg: Decoder.Config) -> None:
        super().__init__()
        if not cfg.layers:
            raise ValueError("Decoder.Config.layers is empty: give one Block.Config per layer")
        for layer in cfg.layers:
            layer.set(dim=cfg.dim)
            if layer.output_init_std is None:  # two residuals per layer: their sum keeps its scale at any depth
                layer.set(output_init_std=0.02 / (2 * len(cfg.layers)) ** 0.5)
        self.vocab_size, self.dim = cfg.vocab_size, cfg.dim
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers: Any = nn.ModuleList([layer.build() for layer in cfg.layers])
        self.norm = cfg.norm.set(dim=cfg.dim).build()
        self.head: Projection | None = None  # None: the embedding is the output matrix
        if not cfg.tie_embeddings:
            self.head = projection(cfg.head, cfg.dim, cfg.vocab_size)
            self.head.initialise(cfg.dim**-0.5)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"] | None = None,
        cache: DecoderCache | None = None,
        packed: Packed | None = None,
        *,
        embeddings: Float[Tensor, "batch prefix dim"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits of the next token at every position. With a cache, `tokens` follow the tokens it has seen; with
        `packed`, the one row of `tokens` holds several documents, each modelled as if it were alone. `embeddings` are read
        as they are (of an image, say), before the tokens where both are given."""
        return self.logits(self.features(tokens, cache, packed, embeddings=embeddings))

    def features(
        self,
        tokens: Int[Tensor, "batch time"] | None = None,
        cache: DecoderCache | None = None,
        packed: Packed | None = None,
        *,
        embeddings: Float[Tensor, "batch prefix dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """What the output matrix reads: the last layer, normalised. For losses that never hold all logits."""
        parts = [] if embeddings is None else [embeddings]
        if tokens is not None:
            parts.append(self.embed(tokens))
        if sum(part.shape[1] for part in parts) == 0:
            raise ValueError("the decoder got an empty sequence: give at least one token, or one embedding")
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        for i, layer in enumerate(self.layers):
            x = layer(x, None if cache is None else cache.layers[i], packed)
        return self.norm(x)

    def embed(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """The vectors of token ids. Raises ValueError for an id outside the vocabulary."""
        try:
            return self.embedding(tokens)
        except IndexError:  # on the CPU only; a GPU reports it as a device-side assertion
            low, high = int(tokens.min()), int(tokens.max())
            raise ValueError(
                f"token ids run from {low} to {high}, but Decoder.Config.vocab_size is {self.vocab_size}: "
                "use the vocabulary size of the tokenizer that made them"
            ) from None

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply features by the output matrix."""
        return F.linear(features, self.embedding.weight) if self.head is None else self.head(features)

    def generate(
        self,
        tokens: Int[Tensor, "batch time"],
        max_new_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_token: int | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        logits_processor: LogitsProcessor | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Continue `tokens` by up to `max_new_tokens`, from caches (`orchard.nn.generation` says how, and raises).

        Temperature 0 takes the likeliest token. A row that has made `stop_token` repeats it; when all have, it ends.
        `orchard.nn.stream` gives the tokens as they are made, `generate_each` takes prompts of different lengths.
        """
        sampling = Sampling(temperature, top_k, top_p)
        options = (sampling, generator, stop_token, prefill_chunk, logits_processor)
        new = stream(self, tokens, max_new_tokens, *options)
        return torch.cat([tokens, *new], dim=1)

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype, spare: int = 0
    ) -> DecoderCache:
        """Empty caches for `batch` sequences of up to `max_length` tokens, all of their memory at once.

        `spare`: by how many tokens they can be cut back where a layer keeps a window alone.
        Raises ValueError when a layer's rotary embedding does not reach `max_length`, TypeError when a layer keeps a state
        and `spare` is not 0.
        """
        for layer in self.layers:
            if (rotary := getattr(layer.attention, "rotary", None)) is not None:
                rotary.check_length(max_length)
        more = {"spare": spare} if spare else {}
        layers = [
            layer.attention.new_cache(batch, max_length, device=device, dtype=dtype, **more) for layer in self.layers
        ]
        return DecoderCache(layers)

    def cache_bytes(self, length: int, bytes_per_element: int) -> int:
        """Bytes that the caches of all layers hold per sequence after `length` tokens."""
        return sum(layer.attention.cache_bytes(length, bytes_per_element) for layer in self.layers)

    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs per token at sequence length `length`, the output matrix included."""
        head = 2 * self.dim * self.vocab_size if self.head is None else self.head.flops()
        return sum(layer.flops_per_token(length) for layer in self.layers) + head

    def num_parameters(self, embedding: bool = True, norms: bool = True) -> int:
        """Number of parameters; without `embedding` neither the embedding nor the output matrix counts."""
        skipped: set[int] = set()
        for module in self.modules():
            outside = module is self.embedding or module is self.head
            if (outside and not embedding) or (isinstance(module, RMSNorm) and not norms):
                skipped.update(id(parameter) for parameter in module.parameters())
        return sum(parameter.numel() for parameter in self.parameters() if id(parameter) not in skipped)
