"""The smallest models of every kind, and pictures for them."""

from __future__ import annotations

import torch
from torch import Tensor

from orchard.nn import Decoder
from orchard.papers.manzano.method import FSQ, HybridTokenizer, ImageDecoder, Picture, Size, Vocabulary
from orchard.papers.manzano.method.models import image_decoder, language_model, tokenizer

PICTURE = Picture(12, 24, patch=4, r=3)  # 2 tokens
VOCABULARY = Vocabulary(text_size=7, codes=60)
LEVELS = [5, 4, 3]


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 12, 24, 3), dtype=torch.uint8)


def tiny_tokenizer(dim: int = 16, rounded: bool = True) -> HybridTokenizer:
    return tokenizer(PICTURE, Size(8, 1, 2, 8), LEVELS, hidden_dim=12, dim=dim, rounded=rounded).build()


def tiny_language_model(vocabulary: Vocabulary = VOCABULARY) -> Decoder:
    """Its weights are so large that rounding never changes which logit is largest, and that what was read matters."""
    decoder = language_model(Size(16, 2, 4, 24, 2), vocabulary).build()
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return decoder


def tiny_image_decoder(reference: bool = False) -> ImageDecoder:
    """Not as it begins, where it says 0 whatever it is given."""
    decoder = image_decoder(PICTURE, Size(16, 2, 2), patch=6, code_dim=3, reference=reference).build()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder


def quantizer() -> FSQ:
    return FSQ.Config(levels=LEVELS).build()
