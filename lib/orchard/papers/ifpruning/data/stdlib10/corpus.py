"""Stdlib-10: ten domains of real facts and text that are on every machine.

    letters       greek cyrillic arabic ethiopic    "Name of the Greek character U+03B1?" -> GREEK SMALL LETTER ALPHA
    codes         entity status                     "What does ENOENT mean?" -> No such file or directory
    calculation   arith weekday                     "905 - 112 = ?" -> 793
    python        pyeval docstring                  "Python: what is [3, 1][::-1] ?" -> [1, 3]

Bytes are tokens. The two wordings of an instruction that no training reads are those of `validation` and `test`. Facts of letters and codes
are the same in training and tests, since memory is what they test; facts of arith, weekday and pyeval, and the files that docstrings come
from, are divided. Docstrings have a loss and no right answer.

The predictor reads the instruction with what is asked (kind `input`). For one mask per task it reads the instruction with an open slot
(kind `task`), while the decoder reads the same prompt as before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from orchard.data import SPLITS, ByteTokenizer, Source
from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import STAGES, Corpus, Reading, Vocabulary
from orchard.papers.ifpruning.data.stdlib10.source import PROCEDURES, Fact, Found, StdlibText, drawn, found
from orchard.papers.ifpruning.data.stdlib10.wordings import HELD_OUT, STATEMENTS, TRAINED, WORDINGS, description
from orchard.papers.ifpruning.method.examples import Examples

GROUPS = {
    "letters": ("greek", "cyrillic", "arabic", "ethiopic"), "codes": ("entity", "status"),
    "calculation": ("arith", "weekday"), "python": ("pyeval", "docstring"),
}  # fmt: skip
DOCSTRING = "docstring"
MOST_ITEMS = 1000  # of a procedure whose held-out facts are few: weekday has 3,650
KINDS = ("input", "task")
EVALUATIONS = {**HELD_OUT, "seen": None}  # with its wording; seen: one of the training


class Stdlib10(Corpus):
    """The corpus. Facts that do not fit into ``longest`` with every wording are left out."""

    class Config(Corpus.Config):
        source: Source.Config = StdlibText.Config()
        longest: int = 192  # bytes of a prompt and its answer together
        items: int = 32  # of each domain in an evaluation
        chunk: int = 128  # bytes of a chunk of pre-training
        chunks: int = 2
        tables: float = 0.5  # share of pre-training windows that state facts; others are files of the standard library

    cfg: Config

    def __init__(self, cfg: Stdlib10.Config) -> None:
        super().__init__(cfg)
        self.check_sizes(chunks=2, chunk=1, items=1)
        if cfg.items > MOST_ITEMS:
            raise BadInput(f"Stdlib10: items = {cfg.items}; a held-out split has at most {MOST_ITEMS} facts to give")
        self.words = Vocabulary(ByteTokenizer.Config().build())
        self.vocab_size, self.pad = self.words.size, self.words.pad
        self.domains = [domain for members in GROUPS.values() for domain in members]
        self.groups = [number for number, members in enumerate(GROUPS.values()) for _ in members]
        self.found: Found = found(cfg.source.build())
        self._prompts = {name: max(len(form.format("").encode()) for form in WORDINGS[name]) for name in self.domains}
        memory = {domain: dict.fromkeys(SPLITS, facts) for domain, facts in self.found.tables.items()}
        self.listed = {
            (domain, split): [fact for fact in facts if self._fits(domain, fact)]
            for domain, splits in (memory | {DOCSTRING: self.found.docstrings}).items() for split, facts in splits.items()
        }  # fmt: skip
        """The facts of a domain and split that are known as a list; those of procedures are drawn."""
        for (domain, split), facts in self.listed.items():
            if not facts:
                raise BadInput(
                    f"Stdlib10: longest = {cfg.longest} bytes leaves no fact of {domain} ({split}); raise longest"
                )

    def _fits(self, domain: str, fact: Fact) -> bool:
        return self._prompts[domain] + sum(len(part.encode()) for part in fact) <= self.cfg.longest

    def facts(self, domain: str, split: str, draw: random.Random) -> Iterator[Fact]:
        """Facts that a split asks about, without end: of a list in turn, each time in another order, of a procedure as they are drawn."""
        if domain in PROCEDURES:
            yield from (fact for fact in drawn(domain, split, draw) if self._fits(domain, fact))
        listed = self.listed[domain, split]
        while True:
            yield from draw.sample(listed, len(listed))

    def fact(self, domain: str, split: str, draw: random.Random) -> Fact:
        """One of them."""
        procedural = domain in PROCEDURES
        return next(self.facts(domain, split, draw)) if procedural else draw.choice(self.listed[domain, split])

    def reading(self, domain: str, fact: Fact, wording: int, kind: str = "input") -> Reading:
        """An example of fine-tuning: a fact in a wording, as a kind of prompt."""
        words, form = self.words, WORDINGS[domain][wording]
        asked = words.encode(form.format(fact[0]))
        tokens, counts = words.conversation([], [(asked, words.encode(fact[1]))])
        prompt = words.encode(description(domain, wording)) if kind == "task" else asked
        return Reading(tokens, counts, [words.bos, *prompt], self.domains.index(domain))

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        draw = random.Random(f"stdlib10 {stage} {seed} {number}")
        if stage == "sft":
            return self.words.fine_tuning([self._drawn(draw) for _ in range(size)])
        self.check("stage", stage, STAGES)
        windows, domains = zip(*(self._window(draw) for _ in range(size)), strict=True)
        return self.words.chunked(np.stack(windows), domains, self.cfg.chunks, masked=stage == "cpt")

    def _drawn(self, draw: random.Random) -> Reading:
        """A training example: any domain, any training fact, any training wording."""
        domain, wording = draw.choice(self.domains), draw.choice(TRAINED)
        return self.reading(domain, self.fact(domain, "train", draw), wording)

    def _window(self, draw: random.Random) -> tuple[Int[np.ndarray, "text"], int]:
        """Bytes of one window, and their domain: that of the facts, or that of docstrings for the text of files."""
        length, text = self.cfg.chunk * self.cfg.chunks, self.found.text
        if draw.random() >= self.cfg.tables:
            start = draw.randrange(len(text) - length)
            return text[start : start + length].astype(np.int64), self.domains.index(DOCSTRING)
        domain = draw.choice(list(STATEMENTS))
        stated = bytearray()
        while len(stated) < length:
            stated += draw.choice(STATEMENTS[domain]).format(*self.fact(domain, "train", draw)).encode() + b"\n"
        start = draw.randrange(len(stated) - length + 1)
        return np.frombuffer(stated[start : start + length], np.uint8).astype(np.int64), self.domains.index(domain)

    def evaluation(self, name: str) -> Examples:
        self.check("evaluation", name, EVALUATIONS)
        wording, split = EVALUATIONS[name], "validation" if name == "validation" else "test"
        readings = []
        for domain in self.domains:
            draw = random.Random(f"stdlib10 {domain} {split}")  # one stream per split: evaluations share the facts
            for fact in self.evaluated(domain, split, draw):
                readings.append(self.reading(domain, fact, draw.choice(TRAINED) if wording is None else wording))
        return self.words.fine_tuning(readings)

    def prompts(self, split: str) -> Examples:
        """One example per wording of a split and domain, about one test fact of the domain in all of them."""
        self.check("split of prompts", split, EVALUATIONS)
        return self._about_one_fact(TRAINED if split == "seen" else [HELD_OUT[split]], "input")

    def tasks(self) -> Examples:
        """The validation wording of each domain with its slot left open."""
        return self._about_one_fact([HELD_OUT["validation"]], "task")

    def _about_one_fact(self, wordings: Sequence[int], kind: str) -> Examples:
        facts = [self.fact(domain, "test", random.Random(f"stdlib10 {domain} prompts")) for domain in self.domains]
        pairs = zip(self.domains, facts, strict=True)
        readings = [self.reading(domain, fact, n, kind) for domain, fact in pairs for n in wordings]
        return self.words.fine_tuning(readings)

    def evaluated(self, domain: str, split: str, draw: random.Random) -> list[Fact]:
        """Different facts of a split: ``items`` of them, or all where there are fewer."""
        most = min(self.cfg.items, len(self.listed.get((domain, split), range(MOST_ITEMS))))
        facts: dict[Fact, None] = {}
        for fact in self.facts(domain, split, draw):
            facts[fact] = None
            if len(facts) >= most:
                break
        return list(facts)

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        numbers = self.words.numbered_answers(examples)
        numbers[examples.domain == self.domains.index(DOCSTRING)] = -1  # any good sentence would do: no exact match
        return numbers
