"""Editing: an instruction and a reference picture in, the edited picture out; who of the two models sees the reference.

    language model    <img_start> c_1 ... c_n <img_end> instruction <img_start> T_1 ... T_n <img_end>       targets T: the edited picture
    image decoder     [codes of T ; clean patches of the reference ; noisy patches]

The codes hold what text speaks of, so what no text mentions (tint, noise) can only come from the decoder's reference, and which object
is meant only from that of the language model. The paper gives it to both; that the language model reads continuous vectors, and the
decoder clean patches in its context, are our choices.

Source: Manzano, arXiv 2509.16197 (figure 9, editing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.nn import Decoder, Sampling
from orchard.papers.manzano.method.decoder import ImageDecoder
from orchard.papers.manzano.method.flow import Pictures, sample
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.unified import Ids, Sequences, Vocabulary, draw_codes, generation


@dataclass(frozen=True)
class Reference:
    """Who sees the reference picture."""

    language_model: bool
    decoder: bool


REFERENCES = {
    "language model": Reference(True, False),
    "decoder": Reference(False, True),
    "both": Reference(True, True),
}


def edit_sequences(
    vocabulary: Vocabulary, instructions: Sequence[Ids], edited: Int[Tensor, "b n"], reference: Reference, slots: int
) -> Sequences:
    """What the language model learns from: codes of edited pictures, with `slots` vectors of the reference or without. Raises ValueError
    as `generation` does."""
    return generation(vocabulary, instructions, edited, slots if reference.language_model else None)


def edit(
    language_model: Decoder,
    decoder: ImageDecoder,
    quantizer: FSQ,
    vocabulary: Vocabulary,
    instructions: Sequence[Ids],
    pictures: Pictures,
    features: Float[Tensor, "b n dim"],
    reference: Reference,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    steps: int = 20,
    guidance: float = 1.0,
) -> Pictures:
    """Edited pictures, from reference pictures in -1 ... 1 and their continuous vectors. Raises ValueError as its parts do."""
    seen = features if reference.language_model else None
    codes = draw_codes(language_model, vocabulary, instructions, len(decoder.code_places), sampling, generator, seen)
    kept = pictures if reference.decoder else None
    return sample(decoder, quantizer.values(codes), steps, guidance, generator, kept)


def edit_errors(
    made: Pictures, wanted: Pictures, changed: Bool[Tensor, "b height width"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Mean squared error of each picture inside the changed region and outside it; NaN where a region is empty."""
    error = (made - wanted).square().mean(dim=-1)
    inside, outside = ((error * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2)) for region in (changed, ~changed))
    return inside, outside
