"""What a corpus of instructions is: training batches by number, fixed evaluations, and the prompts that masks are chosen from.

Batches by number let a killed training go on with the batches it would have had.

Text as `Examples`: marks between the parts of a conversation, fine-tuning on its answers, chunk pairs (section 3.5 of the paper).

    fine-tuning   bos [system next] user answer ... eos [next user answer ... eos] pad     the answers and their eos count
    pre-training  bos chunk 1 ... chunk K                                                  chunks 2 ... K count under masks 1 ... K-1

A prompt, which the predictor reads, is bos and text, without a mark at its end: the same in both stages. Chunk 1 is read under the
mask that chunk 1 chooses and does not count, so one pass over K chunks is exact for K = 2; for more, the prefix of chunk j + 1 keeps the
masks it was read with instead of being read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from orchard.config import Configurable
from orchard.data import Tokenizer
from orchard.errors import BadInput, closest
from orchard.papers.ifpruning.method.examples import Examples

STAGES = ("read", "pretrain", "cpt", "sft")
MARKS = 7  # beside bos, so that bytes have 256 + 8 ids; the last three are free
WIDTHS = 32  # padded lengths are multiples of it, so that compiled code meets few shapes


class Corpus(Configurable):
    """Base of the corpora. Splits of an evaluation: ``validation`` and ``test`` hold wordings of instructions that no training reads."""

    class Config(Configurable.Config):
        pass

    cfg: Any
    vocab_size: int
    pad: int  # also never an answer
    domains: Sequence[str]  # their names
    groups: Sequence[int]  # of each domain: those of one group are related

    def check_sizes(self, **least: int) -> None:
        """Raise BadInput for a field of the config with a value below the least."""
        for name, value in least.items():
            if (given := getattr(self.cfg, name)) < value:
                raise BadInput(f"{type(self).__name__}: {name} = {given} is too small; give at least {value}")

    def check(self, what: str, name: str, known: Iterable[str]) -> None:
        """Raise BadInput unless there is such a stage, evaluation or split."""
        if name not in (known := list(known)):
            raise BadInput(f"{type(self).__name__}: there is no {what} {name!r}; {closest(name, known)}")

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        """Batch ``number`` of a stage: ``read`` (text for the language model that a predictor reads with), ``pretrain`` (text), ``cpt``
        or ``sft``. Of the first two no masks are asked."""
        raise NotImplementedError

    def evaluation(self, name: str) -> Examples:
        """Fixed examples: ``validation``, ``test`` (held-out wordings), ``seen`` (wordings of the training)."""
        raise NotImplementedError

    def prompts(self, split: str) -> Examples:
        """One example per domain and wording of ``seen``, ``validation`` or ``test``: for what depends on the prompt alone."""
        raise NotImplementedError

    def tasks(self) -> Examples:
        """One example per domain, in their order, whose prompt describes the task: for one mask per task (section 4.3)."""
        raise NotImplementedError

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        """Which answer of its example each counted token belongs to, from 0; -1 elsewhere. An answer is right when all its tokens are."""
        raise NotImplementedError


def pad_rows(rows: Sequence[Sequence[int]], pad: int, width: int | None = None) -> Int[Tensor, "rows time"]:
    """Rows of any lengths as one tensor, padded on the right to ``width`` (default: the longest)."""
    width = max(map(len, rows)) if width is None else width
    padded = np.full((len(rows), width), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Ids with zeros behind them, and the mask that says which are no padding."""
    ids = pad_rows(rows, 0)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long()


@dataclass(frozen=True)
class Reading:
    """One example of fine-tuning before padding: what is read, which of it counts, and what the predictor reads."""

    tokens: list[int]
    counts: list[bool]
    prompt: list[int]
    domain: int

    def cut(self, longest: int) -> Reading:
        """Its first ``longest`` tokens under the same prompt."""
        return Reading(self.tokens[:longest], self.counts[:longest], self.prompt, self.domain)


class Vocabulary:
    """The ids of a tokenizer and, behind them, the marks. No text can spell a mark.

    ``bos`` opens an example, ``eos`` ends an answer that counts, ``answer`` begins one, ``next`` another turn."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.bos, self.size = tokenizer, tokenizer.bos, tokenizer.vocab_size + MARKS
        self.pad, self.eos, self.answer, self.next = range(tokenizer.vocab_size, tokenizer.vocab_size + 4)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text with its marks shown as ⟨answer⟩ and so on."""
        names = {self.bos: "⟨bos⟩", self.pad: "⟨pad⟩", self.eos: "⟨eos⟩", self.answer: "⟨answer⟩", self.next: "⟨next⟩"}
        runs = groupby(map(int, ids), key=lambda token: None if token < self.bos else token)  # of text, or of one mark
        return "".join(
            self.tokenizer.decode(list(run)) if mark is None else names.get(mark, f"⟨{mark}⟩") * len(list(run))
            for mark, run in runs
        )

    def conversation(
        self, before: list[int], turns: Sequence[tuple[list[int], list[int]]]
    ) -> tuple[list[int], list[bool]]:
        """Tokens and what counts of them: bos, ``before`` (a system's words, marks included), then (user, assistant) turns."""
        tokens, counts = [self.bos, *before], [False] * (1 + len(before))
        for number, (user, assistant) in enumerate(turns):
            asked = [*([self.next] if number else []), *user, self.answer]
            tokens += [*asked, *assistant, self.eos]
            counts += [False] * len(asked) + [True] * (len(assistant) + 1)
        return tokens, counts

    def fine_tuning(self, readings: Sequence[Reading]) -> Examples:
        """Readings padded to a multiple of `WIDTHS`, each under one mask."""

        def padded(rows: Sequence[Sequence[int]], pad: int) -> Int[Tensor, "rows time"]:
            return pad_rows(rows, pad, -(-max(map(len, rows)) // WIDTHS) * WIDTHS)

        tokens = padded([r.tokens for r in readings], self.pad)
        return Examples(
            tokens=tokens, counts=padded([r.counts for r in readings], 0).bool(), span=torch.zeros_like(tokens),
            prompts=padded([r.prompt for r in readings], self.pad)[:, None],
            prompt_lengths=torch.tensor([[len(r.prompt)] for r in readings]), domain=torch.tensor([r.domain for r in readings]),
        )  # fmt: skip

    def chunked(
        self, windows: Int[np.ndarray, "examples text"], domain: Sequence[int], chunks: int, masked: bool
    ) -> Examples:
        """Windows of ``chunks`` equal chunks; without masks (``masked`` False) every token counts and the prompt is bos alone."""
        examples, length = windows.shape
        size = length // chunks
        text = torch.from_numpy(windows.astype(np.int64))
        bos = torch.full((examples, 1), self.bos)
        place = torch.arange(length) // size  # chunk of each token of text, from 0
        if masked:
            parts = text.view(examples, chunks, size)[:, :-1]
            prompts = torch.cat((bos[:, None].expand(-1, chunks - 1, 1), parts), dim=2)
            counted, span = place > 0, (place - 1).clamp(min=0)
        else:
            prompts, counted, span = bos[:, None], place >= 0, torch.zeros_like(place)
        return Examples(
            tokens=torch.cat((bos, text), dim=1), counts=F.pad(counted, (1, 0)).expand(examples, -1).clone(),
            prompts=prompts, prompt_lengths=torch.full(prompts.shape[:2], prompts.shape[2]),
            span=F.pad(span, (1, 0)).expand(examples, -1).clone(), domain=torch.tensor(list(domain)),
        )  # fmt: skip

    def numbered_answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        """For each counted token the number of its answer, from 0; -1 elsewhere and in text, which has no mark of an answer."""
        starts = examples.counts & ~F.pad(examples.counts, (1, 0))[:, :-1]
        asked = (examples.tokens == self.answer).any(dim=1, keepdim=True)
        return torch.where(examples.counts & asked, starts.long().cumsum(dim=1) - 1, -1)
