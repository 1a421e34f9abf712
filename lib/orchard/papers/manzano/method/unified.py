"""The unified language model: one vocabulary, three kinds of sequences, one next-token loss.

    ids              text 0 ... V - 1,  <img_start> V,  <img_end> V + 1,  codes V + 2 ... V + 1 + codes
    understanding    <img_start> c_1 ... c_n <img_end> prompt ANSWER        c: continuous vectors in a slot of n positions, or codes
    generation       prompt <img_start> T_1 ... T_n <img_end>
    text             first TOKEN ... TOKEN

    L = mean over text targets + 0.5 * mean over image targets              capitals are targets; 0.5 is published, the means are ours

One mean over all targets would weigh the modalities by how many tokens they have. There is no auxiliary loss and no head for a task.
Generating draws n ids among codes alone, answering among text ids alone; in training every id is possible.

tokens [b, t], padded on the right, where a causal decoder never looks; pictures [rows with a slot, n, dim].
Source: Manzano, arXiv 2509.16197 (unified language model, inference).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from orchard.nn import Conditioned, Decoder, Sampling, stream

# What a position is: read alone, a target in text, a target in a picture, a place for a vector.
READ, TEXT, IMAGE, SLOT = range(4)
GROUPS = 3  # of sequences of like length, in a batch
Ids = Sequence[int]
Shown = Int[Tensor, "b n"] | int | None  # pictures before a text: codes, slots for n vectors each, or none
Piece = tuple[Ids, int]


@dataclass(frozen=True)
class Vocabulary:
    """Which id means what. `codes=0` is the vocabulary of stage 0, whose language model writes text alone."""

    text_size: int
    codes: int

    @property
    def start(self) -> int:
        """<img_start>."""
        return self.text_size

    @property
    def end(self) -> int:
        """<img_end>."""
        return self.text_size + 1

    @property
    def first_code(self) -> int:
        return self.text_size + 2

    @property
    def size(self) -> int:
        return self.first_code + self.codes

    def text_ids(self) -> Bool[Tensor, "vocab"]:
        """True for what may be drawn in an answer."""
        return torch.arange(self.size) < self.text_size

    def image_ids(self) -> Bool[Tensor, "vocab"]:
        """True for what may be drawn in a picture."""
        return torch.arange(self.size) >= self.first_code

    def picture(self, codes: Ids) -> list[int]:
        """<img_start>, the codes as ids of this vocabulary, <img_end>. Raises ValueError for a code that does not exist."""
        for i, code in enumerate(codes):
            if not 0 <= code < self.codes:
                raise ValueError(
                    f"code {i} of a picture is {code}, the vocabulary has {self.codes}: give codes as the tokenizer numbers them"
                )
        return [self.start, *(self.first_code + code for code in codes), self.end]

    def text(self, ids: Ids, place: str) -> list[int]:
        """The ids, if all of them are text. Raises ValueError that names the place."""
        for i, token in enumerate(ids):
            if not 0 <= token < self.text_size:
                raise ValueError(
                    f"id {i} of the {place} is {token}, text has the ids 0 ... {self.text_size - 1}: use the tokenizer of this vocabulary"
                )
        return list(ids)


@dataclass(frozen=True)
class Sequences:
    """Padded sequences and what each position is; a slot holds the id 0, which is never looked up for its meaning."""

    tokens: Int[Tensor, "b time"]
    kinds: Int8[Tensor, "b time"]

    @classmethod
    def of(cls, rows: Iterable[list[Piece]]) -> Sequences:
        """Sequences from pieces: ids, and what all of them are."""
        pieces = list(rows)
        tokens = [torch.tensor([i for ids, _ in row for i in ids], dtype=torch.long) for row in pieces]
        kinds = [torch.tensor([kind for ids, kind in row for _ in ids], dtype=torch.int8) for row in pieces]
        pad = torch.nn.utils.rnn.pad_sequence
        return cls(pad(tokens, batch_first=True), pad(kinds, batch_first=True, padding_value=READ))

    def to(self, device: torch.device | str) -> Sequences:
        return Sequences(self.tokens.to(device), self.kinds.to(device))

    @staticmethod
    def joined(parts: Sequence[Sequences]) -> Sequences:
        """The rows of all parts, one part after the other."""
        time = max(part.tokens.shape[1] for part in parts)
        tokens = torch.cat([F.pad(part.tokens, (0, time - part.tokens.shape[1])) for part in parts])
        kinds = torch.cat([F.pad(part.kinds, (0, time - part.kinds.shape[1]), value=READ) for part in parts])
        return Sequences(tokens, kinds)


def understanding(vocabulary: Vocabulary, shown: Shown, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Sequences:
    """A picture, then a prompt (it may be empty) and its answer, whose ids are the targets. Raises ValueError."""
    before = _shown(vocabulary, shown, len(prompts))
    return Sequences.of(
        [*picture, (vocabulary.text(prompt, "prompt"), READ), (vocabulary.text(answer, "answer"), TEXT)]
        for picture, prompt, answer in zip(before, prompts, answers, strict=True)
    )


def generation(
    vocabulary: Vocabulary, prompts: Sequence[Ids], codes: Int[Tensor, "b n"], shown: Shown = None
) -> Sequences:
    """A prompt, then the picture, whose codes are the targets; `shown` comes before the prompt, to be edited. Raises ValueError."""
    rows: list[list[Piece]] = []
    before = _shown(vocabulary, shown, len(prompts))
    for picture, prompt, row in zip(before, prompts, codes.tolist(), strict=True):
        start, *ids, end = vocabulary.picture(row)
        text = vocabulary.text(prompt, "prompt")
        rows.append([*picture, ([*text, start], READ), (ids, IMAGE), ([end], READ)])
    return Sequences.of(rows)


def plain_text(vocabulary: Vocabulary, documents: Sequence[Ids]) -> Sequences:
    """Documents; every id but the first is a target. Raises ValueError."""
    texts = [vocabulary.text(document, "document") for document in documents]
    return Sequences.of([(text[:1], READ), (text[1:], TEXT)] for text in texts)


def _shown(vocabulary: Vocabulary, shown: Shown, count: int) -> list[list[Piece]]:
    if shown is None:
        return [[] for _ in range(count)]
    if isinstance(shown, int):
        return [[([vocabulary.start], READ), ([0] * shown, SLOT), ([vocabulary.end], READ)] for _ in range(count)]
    return [[(vocabulary.picture(row), READ)] for row in shown.tolist()]


def embedded(
    decoder: Decoder, sequences: Sequences, pictures: Float[Tensor, "rows n dim"] | None = None
) -> Float[Tensor, "b time dim"]:
    """What the language model reads. The vectors of `pictures` go to the slots, in order. Raises ValueError for another number of slots
    than vectors."""
    x = decoder.embed(sequences.tokens)
    slots = sequences.kinds == SLOT
    given = 0 if pictures is None else pictures.shape[0] * pictures.shape[1]
    if int(slots.sum()) != given:
        raise ValueError(
            f"the sequences have slots for {int(slots.sum())} vectors, the pictures {given}: give the vectors of every picture that is "
            "shown by a slot, and of no other"
        )
    return x if pictures is None else x.masked_scatter(slots[..., None], pictures.to(x.dtype))


def read(
    decoder: Decoder, sequences: Sequences, pictures: Float[Tensor, "rows n dim"] | None = None
) -> Float[Tensor, "b time dim"]:
    """What the output matrix reads, at every position. Raises ValueError as `embedded` does."""
    return decoder.features(embeddings=embedded(decoder, sequences, pictures))


@dataclass(frozen=True)
class Losses:
    """Nats, the mean over the targets of a modality (0 without any), and how many there were."""

    text: Float[Tensor, ""]
    image: Float[Tensor, ""]
    text_targets: Int[Tensor, ""]
    image_targets: Int[Tensor, ""]

    def total(self, image_weight: float = 0.5) -> Float[Tensor, ""]:
        """The published mixture. Raises ValueError for a weight below 0."""
        if not image_weight >= 0:
            raise ValueError(f"image_weight is {image_weight}: the weight of image targets beside text is 0 or more")
        return self.text + image_weight * self.image


def losses(decoder: Decoder, sequences: Sequences, pictures: Float[Tensor, "rows n dim"] | None = None) -> Losses:
    """The two next-token losses. Logits are made at targets alone, and sequences of like length are read together, which spares a third of
    the positions. Raises ValueError as `embedded` does."""
    x, targets, kinds = embedded(decoder, sequences, pictures), sequences.tokens[:, 1:], sequences.kinds[:, 1:]
    lengths = (
        ((kinds == TEXT) | (kinds == IMAGE)).int().mul(torch.arange(1, kinds.shape[1] + 1, device=x.device)).amax(1)
    )
    groups = [rows for rows in lengths.argsort().tensor_split(GROUPS) if len(rows)]
    found: dict[int, list[tuple[Tensor, Tensor]]] = {TEXT: [], IMAGE: []}
    for rows in groups:
        time = int(lengths[rows[-1]])
        features = decoder.features(embeddings=x[rows, :time])
        for kind, parts in found.items():
            counted = kinds[rows, :time] == kind
            parts.append((features[counted], targets[rows, :time][counted]))
    means, counts = [], []
    for parts in found.values():
        seen, wanted = (torch.cat(part) for part in zip(*parts, strict=True))
        counts.append(torch.tensor(len(wanted), device=x.device))
        entropies = F.cross_entropy(decoder.logits(seen).float(), wanted, reduction="sum")
        means.append(entropies / max(len(wanted), 1))
    return Losses(*means, *counts)


def draw_codes(
    decoder: Decoder, vocabulary: Vocabulary, prompts: Sequence[Ids], count: int, sampling: Sampling,
    generator: torch.Generator | None = None, pictures: Float[Tensor, "b n dim"] | None = None,
) -> Int[Tensor, "b count"]:  # fmt: skip
    """The codes of a picture of `count` squares for every prompt, drawn among codes; `pictures` are read before the prompts.

    Raises ValueError without prompts, for ids that are no text, and as `orchard.nn.stream` does.
    """
    texts = [[*vocabulary.text(prompt, "prompt"), vocabulary.start] for prompt in prompts]
    made = _continued(decoder, vocabulary, texts, count, sampling, generator, pictures, vocabulary.image_ids(), None)
    return torch.stack(made) - vocabulary.first_code


def answers(
    decoder: Decoder, vocabulary: Vocabulary, prompts: Sequence[Ids], most: int, stop: int, sampling: Sampling,
    generator: torch.Generator | None = None, shown: Float[Tensor, "b n dim"] | Int[Tensor, "b n"] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Text ids after a picture (its vectors or its codes) and a prompt, at most `most` of them, up to the id `stop`, without it.

    Raises ValueError as `draw_codes` does.
    """
    texts = [vocabulary.text(prompt, "prompt") for prompt in prompts]
    pictures = None
    if shown is not None and shown.is_floating_point():
        pictures = shown
    elif shown is not None:
        texts = [vocabulary.picture(row) + text for row, text in zip(shown.tolist(), texts, strict=True)]
    made = _continued(decoder, vocabulary, texts, most, sampling, generator, pictures, vocabulary.text_ids(), stop)
    rows = [row.tolist() for row in made]
    return [row[: row.index(stop)] if stop in row else row for row in rows]


@torch.no_grad()
def _continued(
    decoder: Decoder, vocabulary: Vocabulary, texts: list[list[int]], count: int, sampling: Sampling,
    generator: torch.Generator | None, pictures: Tensor | None, allowed: Tensor, stop: int | None,
) -> list[Tensor]:  # fmt: skip
    """New ids after each text, prompts of equal length together; pictures stand in slots before them."""
    shown = len(texts) if pictures is None else len(pictures)
    if not texts or shown != len(texts) or count < 1:
        raise ValueError(
            f"{len(texts)} prompts, {shown} pictures, {count} new ids: give at least one prompt, a picture for each, and at least one id"
        )
    device = decoder.embedding.weight.device
    groups: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(len(text), []).append(i)
    made: dict[int, Tensor] = {}
    for members in groups.values():
        rows, prefix = [texts[i] for i in members], None
        if pictures is not None:
            rows = [[vocabulary.end, *row] for row in rows]
            start = decoder.embed(torch.full((len(rows), 1), vocabulary.start, device=device))
            prefix = torch.cat((start, pictures[members].to(start)), dim=1)
        conditioned = Conditioned(decoder, prefix=prefix, allowed=allowed.to(device))
        new = stream(conditioned, torch.tensor(rows, device=device), count, sampling, generator, stop)
        made |= zip(members, torch.cat(list(new), dim=1), strict=True)
    return [made[i] for i in range(len(texts))]
