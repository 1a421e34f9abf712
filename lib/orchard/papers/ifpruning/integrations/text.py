"""The reader's own data as batches for a decoder of `transformers` and its predictor, each in the tokens of its own tokenizer.

    cpt   [bos] chunk 1, chunk 2     labels: chunk 2             prompt: the text of chunk 1            (section 3.5, K = 2)
    sft   [bos] user, answer eos     labels: answer and eos      prompt: the first human message        (section 3.3)

A decoder with a chat template gets its conversations in that form, in which text that spells a mark of the template is that mark;
another one gets "user, line break, answer, eos", and the predictor plain text. There text never becomes a special token. Rows, splits and
errors are those of `instructions`. Batches are drawn by number, so that a killed training goes on with those it would have had.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from orchard.data import SPLITS, DataError, Document, Source
from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import Reading, padded
from orchard.papers.ifpruning.data.instructions import human, is_row, parsed
from orchard.papers.ifpruning.integrations.wrapper import PrunedModel

IGNORED = -100  # the label of a token that does not count
GAUGED = 256  # prompts, about; at least two of each domain that has them
VALIDATED = 64  # conversations of validation, at most
TEXT = -1  # the domain of plain text


@dataclass(frozen=True)
class Lengths:
    """Tokens: of the decoder in a chunk and a conversation, of the predictor in a chunk (its last ones) and an instruction."""

    block: int
    longest: int
    longest_prompt: int


def request(tokenizer: Any, text: str, system: str | None = None) -> list[int]:
    """The tokens of an instruction in the form that fine-tuning had: what `generate` is given."""
    before = [("system", system)] if system else []
    return _spoken(tokenizer, [*before, ("user", text)], answer_follows=True)


class TuneText:
    """The batches of both stages. ``pruned`` gives the tokenizers and the predictor's context; its weights are not read."""

    def __init__(self, source: Source, pruned: PrunedModel, lengths: Lengths) -> None:
        self.pruned, self.lengths, self.tokenizer = pruned, lengths, pruned.tokenizer
        self.name = source.manifest().name
        if self.tokenizer.eos_token_id is None:
            raise BadInput("the decoder's tokenizer has no end token: set eos_token in its tokenizer_config.json")
        positions = getattr(pruned.decoder.config.get_text_config(), "max_position_embeddings", None) or 2**31
        if max(lengths.longest, 2 * lengths.block + 1) > positions:
            raise BadInput(
                f"the decoder reads {positions} tokens, longest is {lengths.longest} and two blocks are {2 * lengths.block}: "
                "choose smaller ones"
            )
        documents = {split: source.documents(split) for split in SPLITS}
        self._texts = [d.text for d in documents["train"] if not is_row(d.text)]
        self._rows = [d for d in documents["train"] if is_row(d.text)]
        held_out = [d for d in documents["validation"] if is_row(d.text)]
        if not self._rows:
            raise DataError(
                f"{self.name} holds no row to train on: fine-tuning needs .jsonl or .parquet rows with instructions beside any text"
            )
        if len(held_out) < 2:
            raise DataError(
                f"{self.name} has {len(held_out)} rows for validation, two are needed: give more rows, "
                "or files called train, valid and test"
            )
        self.domains = sorted({parsed(row.text)[0] for row in [*self._rows, *held_out]})
        train, validation = ([self._reading(row) for row in rows] for rows in (self._rows, held_out))
        if cut := sum(len(reading.tokens) > lengths.longest for reading in [*train, *validation]):
            warnings.warn(
                f"{self.name}: {cut} of {len(train) + len(validation)} conversations are longer than {lengths.longest} tokens and are cut",
                stacklevel=2,
            )
        self.train, self.validation = ([r.cut(lengths.longest) for r in part] for part in (train, validation))

    def _reading(self, row: Document) -> Reading:
        domain, turns = parsed(row.text)
        prompt = self.pruned.prompt_tokens(human(row.text))
        most = min(self.lengths.longest_prompt, self.pruned.max_prompt)
        tokens: list[int] = []
        counts: list[bool] = []
        for number, (role, _) in enumerate(turns):
            if role != "assistant":
                continue
            asked = _spoken(self.tokenizer, turns[:number], answer_follows=True)
            whole = _spoken(self.tokenizer, turns[: number + 1])
            if asked[: len(tokens)] != tokens or whole[: len(asked)] != asked:
                raise DataError(
                    f"{self.name}, {row.name}: the decoder's chat template rewrites earlier turns of this conversation, so its answers "
                    "cannot be told apart: give one question and one answer per row"
                )
            counts += [False] * (len(asked) - len(counts)) + [True] * (len(whole) - len(asked))
            tokens = whole
        if len(prompt) > most or counts.index(True) >= self.lengths.longest:
            raise DataError(
                f"{self.name}, {row.name}: the instruction has {len(prompt)} tokens of the predictor, which reads {most}; its "
                f"answer begins after {counts.index(True)} tokens of the decoder, of {self.lengths.longest} (longest): shorten it, or "
                "raise longest_prompt and longest as far as the models allow"
            )
        return Reading(tokens, counts, prompt, self.domains.index(domain))

    @cached_property
    def stream(self) -> list[int]:
        """The text of pre-training in the decoder's tokens: plain text, or the rows where there is none. DataError if it is too short."""
        texts = self._texts or ["\n".join(said for _, said in parsed(row.text)[1]) + "\n" for row in self._rows]
        found = list(chain.from_iterable(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))
        if len(found) < 2 * self.lengths.block:
            raise DataError(
                f"{self.name} has {len(found)} tokens of training text, two chunks are {2 * self.lengths.block}: give more text, "
                "or a smaller block"
            )
        return found

    def chunks(self, start: int) -> Reading:
        """Two chunks of the stream; the mask of the second is chosen from the text of the first."""
        block = self.lengths.block
        window = self.stream[start : start + 2 * block]
        before = _bos(self.tokenizer)
        text = self.tokenizer.decode(window[:block], clean_up_tokenization_spaces=False)
        prompt = self.pruned.prompt_tokens(text)[-min(self.pruned.max_prompt, self.lengths.longest_prompt) :]
        return Reading([*before, *window], [False] * (len(before) + block) + [True] * block, prompt, TEXT)

    def draw(self, stage: str, size: int, seed: int, number: int) -> list[Reading]:
        """The readings of batch ``number`` of a stage."""
        draw = random.Random(f"tune {stage} {seed} {number}")
        if stage == "sft":
            return draw.choices(self.train, k=size)
        last = len(self.stream) - 2 * self.lengths.block
        return [self.chunks(draw.randrange(last + 1)) for _ in range(size)]

    def batch(self, readings: Sequence[Reading]) -> dict[str, Tensor]:
        """The arguments of `PrunedModel.forward`, padded on the right."""
        ids, mask = padded([r.tokens for r in readings])
        counts, _ = padded([r.counts for r in readings])
        prompt_ids, prompt_mask = padded([r.prompt for r in readings])
        return {
            "input_ids": ids, "attention_mask": mask, "labels": ids.where(counts.bool(), IGNORED), "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
        }  # fmt: skip

    def gauged(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Held-out prompts for the gauge: ids, mask, domain of each, and how many domains there are. With one, every prompt is its own."""
        present = sorted({reading.domain for reading in self.validation})
        each = max(2, GAUGED // len(present))
        chosen = [r for domain in present for r in [v for v in self.validation if v.domain == domain][:each]]
        ids, mask = padded([reading.prompt for reading in chosen])
        domains = [reading.domain for reading in chosen] if len(present) > 1 else range(len(chosen))
        return ids, mask, torch.tensor(domains), len(present)


def _bos(tokenizer: Any) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _spoken(tokenizer: Any, turns: Sequence[tuple[str, str]], answer_follows: bool = False) -> list[int]:
    """A conversation with the ends of its answers; where an ``answer_follows``, up to where the assistant begins."""
    tokens: list[int]
    if tokenizer.chat_template:
        messages = [{"role": role, "content": said} for role, said in turns]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=answer_follows, tokenize=False)
        # Ids of the template's marks: a tokenizer that refuses to read special tokens in text must read them here.
        tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
        return tokens
    tokens = _bos(tokenizer)
    for role, said in turns:
        tokens += tokenizer(said + "\n" * (role != "assistant"), add_special_tokens=False, verbose=False)["input_ids"]
        tokens += [tokenizer.eos_token_id] * (role == "assistant")
    return tokens
