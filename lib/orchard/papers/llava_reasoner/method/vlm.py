"""The vision-language model: a picture becomes vectors that the decoder reads before the prompt.

    f = STC(ViT(picture / 127.5 - 1))                 r x r neighbours become one vector; r = 1 keeps every patch, as published
    c = LayerNorm(W_2 gelu(W_1 f + b_1) + b_2)        the connector; published without the LayerNorm
    p(y | x, V) = decoder([c; E x; E y])              the loss is of the response y alone

Pixels of -1 ... 1 and the LayerNorm are what lets a small model learn to read: with raw pixels, or without the norm, it never did.

Where the vision transformer is frozen, `features` is computed once for each picture. Preference training freezes tower and connector, so
that the prefix c is the same number for the policy and for its reference.

pictures [b, height, width, 3]; f [b, n, r² d_vit]; c [b, n, dim]; responses: tokens [b, t], padded on the right.
Source: Zhang et al. 2025, arXiv 2410.16198, section 3 (supervised and preference training); Liu et al. 2023, arXiv 2310.03744 (connector).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.nn import Conditioned, Decoder, VisionTransformer, space_to_channel
from orchard.nn.sequence import token_log_probs

Ids = Sequence[int]


def unit_pixels(pictures: Num[Tensor, "b height width c"]) -> Float[Tensor, "b height width c"]:
    """`uint8` pictures as floats in -1 ... 1, what the vision transformer reads; floats stay as they are."""
    return pictures if pictures.is_floating_point() else pictures.float() / 127.5 - 1


class Connector(nn.Module):
    """Two layers from the width of the pictures to that of the decoder, and a LayerNorm where `normalise`."""

    def __init__(self, in_dim: int, hidden_dim: int, dim: int, normalise: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim) if normalise else nn.Identity()

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch dim"]:
        return self.norm(self.output(F.gelu(self.hidden(x))))


@dataclass(frozen=True)
class Responses:
    """Prompts with their responses, padded on the right. `counts[i, t]`: whether `tokens[i, t]` is of the response."""

    tokens: Int[Tensor, "b t"]
    counts: Bool[Tensor, "b t"]

    @classmethod
    def of(cls, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int = 0) -> Responses:
        """Sequences of ids. A response may be empty. Raises ValueError for an empty prompt, and for another number of responses."""
        if len(prompts) != len(responses):
            raise ValueError(
                f"{len(prompts)} prompts and {len(responses)} responses: give one response for each prompt"
            )
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(
                    f"prompt {i} is empty: nothing would predict the first token of its response; begin it with a token"
                )
        whole = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        tokens = torch.full((len(whole), max(map(len, whole), default=0)), pad)
        counts = torch.zeros(tokens.shape, dtype=torch.bool)
        for i, ids in enumerate(whole):
            tokens[i, : len(ids)] = torch.tensor(ids)
            counts[i, len(prompts[i]) : len(ids)] = True
        return cls(tokens, counts)

    def to(self, device: torch.device | str) -> Responses:
        return Responses(self.tokens.to(device), self.counts.to(device))


class VisionLanguageModel(nn.Module, Configurable):
    """Vision transformer, connector, decoder."""

    class Config(Configurable.Config):
        vision: VisionTransformer.Config = REQUIRED
        decoder: Decoder.Config = REQUIRED
        hidden_dim: int = REQUIRED  # inner width of the connector
        r: int = 3  # side of a square of patches that becomes one vector
        normalise: bool = True  # LayerNorm after the connector

    def __init__(self, cfg: VisionLanguageModel.Config) -> None:
        super().__init__()
        vision = cfg.vision
        self.grid = (vision.height // vision.patch, vision.width // vision.patch)
        if cfg.r < 1 or self.grid[0] % cfg.r or self.grid[1] % cfg.r:
            raise ValueError(
                f"VisionLanguageModel.Config.r is {cfg.r} for {self.grid[0]} x {self.grid[1]} patches: r must divide both sides, so "
                "change the picture's size, the patch or r"
            )
        self.r, self.n = cfg.r, self.grid[0] * self.grid[1] // cfg.r**2
        self.vision: VisionTransformer = vision.build()
        self.connector = Connector(cfg.r**2 * vision.dim, cfg.hidden_dim, cfg.decoder.dim, cfg.normalise)
        self.decoder: Decoder = cfg.decoder.build()

    def features(self, pictures: Num[Tensor, "b height width 3"]) -> Float[Tensor, "b n in_dim"]:
        """What the connector reads. Raises ValueError for pictures of another size."""
        return space_to_channel(self.vision(unit_pixels(pictures)), *self.grid, self.r)

    def prefix(self, features: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b n dim"]:
        """What the decoder reads before the prompt."""
        return self.connector(features)

    def see(self, pictures: Num[Tensor, "b height width 3"]) -> Float[Tensor, "b n dim"]:
        """The prefix of pictures."""
        return self.prefix(self.features(pictures))

    def forward(
        self, tokens: Int[Tensor, "b t"], prefix: Float[Tensor, "rows n dim"] | None = None
    ) -> Float[Tensor, "b t vocab"]:
        """Logits of the next token at every token. Without a prefix the model reads text alone."""
        conditioned = Conditioned(self.decoder, prefix=prefix)
        return conditioned.logits(conditioned.features(tokens))

    def freeze(self, connector: bool = True) -> VisionLanguageModel:
        """The vision transformer no longer learns, and with `connector` that neither: what the released code does for preferences."""
        self.vision.requires_grad_(False)
        if connector:
            self.connector.requires_grad_(False)
        return self


def response_log_probs(
    model: VisionLanguageModel, batch: Responses, prefix: Float[Tensor, "b n dim"] | None = None
) -> Float[Tensor, "b before_last"]:
    """Nats of every token of the responses, 0 elsewhere; column t is of `tokens[:, t + 1]`, so `counts[:, 1:]` goes with it.

    Neither the positions of the picture nor the prompt nor the padding is scored.
    """
    logits = model(batch.tokens[:, :-1], prefix)
    return token_log_probs(logits, batch.tokens[:, 1:], batch.counts[:, 1:])


def sft_loss(
    model: VisionLanguageModel, batch: Responses, prefix: Float[Tensor, "b n dim"] | None = None
) -> Float[Tensor, ""]:
    """Supervised training: mean nats per token of the responses. Raises ValueError for a batch whose responses are all empty."""
    count = batch.counts.sum()
    if not int(count):
        raise ValueError("the responses of this batch are all empty: there is nothing to learn from, leave it out")
    return -response_log_probs(model, batch, prefix).sum() / count
