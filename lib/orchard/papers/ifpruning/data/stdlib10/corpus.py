"""Stdlib-10: ten domains of real facts and text that are on every machine.

    letters       greek cyrillic arabic ethiopic    "Name of the Greek character U+03B1?" -> GREEK SMALL LETTER ALPHA
    codes         entity status                     "What does ENOENT mean?" -> No such file or directory
    calculation   arith weekday                     "905 - 112 = ?" -> 793
    python        pyeval docstring                  "Python: what is [3, 1][::-1] ?" -> [1, 3]

Bytes are tokens. The two wordings of an instruction that no training reads are those of `validation` and `test`. Facts of letters and codes
are the same in training and tests, since memory is what they test; facts of arith, weekday and pyeval, and the files that docstrings come
from, are divided. Docstrings have a loss and no right answer.

Kinds of prompts (section 3.5 of the paper), for training (`kinds`) and as evaluations beside `test`, about the same facts:

    input       the instruction with what is asked
    few-shot    with answered examples before it: evaluation `few-shot` has one prefix per domain, `few-shot-own` one per example
    task        the predictor reads the instruction with an open slot, the decoder reads the prompt of `input`
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from orchard.data import ByteTokenizer, Source
from orchard.errors import BadInput, closest
from orchard.papers.ifpruning.data.corpus import STAGES, Corpus
from orchard.papers.ifpruning.data.stdlib10.facts import MEMORY, PROCEDURES, Fact, drawn
from orchard.papers.ifpruning.data.stdlib10.source import Found, StdlibText, found
from orchard.papers.ifpruning.data.stdlib10.wordings import HELD_OUT, STATEMENTS, TRAINED, WORDINGS, description
from orchard.papers.ifpruning.data.text import Reading, Vocabulary, chunked, conversation, fine_tuning, numbered_answers
from orchard.papers.ifpruning.method.examples import Examples

GROUPS = {
    "letters": ("greek", "cyrillic", "arabic", "ethiopic"),
    "codes": ("entity", "status"),
    "calculation": ("arith", "weekday"),
    "python": ("pyeval", "docstring"),
}
DOCSTRING = "docstring"
MOST_ITEMS = 1000  # of a procedure whose held-out facts are few: weekday has 3,650
KINDS = ("input", "few-shot", "task")
EVALUATIONS = {  # the wording, the split of the facts, the kind of prompt
    "validation": (HELD_OUT["validation"], "validation", "input"),
    "test": (HELD_OUT["test"], "test", "input"),
    "seen": (None, "test", "input"),
    "few-shot": (HELD_OUT["test"], "test", "few-shot"),
    "few-shot-own": (HELD_OUT["test"], "test", "few-shot"),
    "task": (HELD_OUT["test"], "test", "task"),
}


class Stdlib10(Corpus):
    """The corpus. Facts that do not fit into ``longest`` with every wording are left out."""

    class Config(Corpus.Config):
        source: Source.Config = StdlibText.Config()
        longest: int = 192  # bytes of a prompt and its answer together
        items: int = 32  # of each domain in an evaluation
        chunk: int = 128  # bytes of a chunk of pre-training
        chunks: int = 2
        tables: float = (
            0.5  # share of pre-training windows that state facts; the others are sources of the standard library
        )
        kinds: list[str] = ["input"]  # of prompts in fine-tuning, each as often
        shots: int = 2

    cfg: Config

    def __init__(self, cfg: Stdlib10.Config) -> None:
        self.cfg = cfg
        for kind in cfg.kinds:
            if kind not in KINDS:
                raise BadInput(f"Stdlib10: there is no kind of prompt {kind!r}; {closest(kind, KINDS)}")
        for name, least in (("chunks", 2), ("chunk", 1), ("items", 1), ("shots", 1)):
            if getattr(cfg, name) < least:
                raise BadInput(f"Stdlib10: {name} = {getattr(cfg, name)} is too small; give at least {least}")
        if cfg.items > MOST_ITEMS:
            raise BadInput(
                f"Stdlib10: items = {cfg.items}; a held-out split has no more than {MOST_ITEMS} facts to give"
            )
        if not cfg.kinds:
            raise BadInput(f"Stdlib10: kinds is empty; give one or more of {', '.join(KINDS)}")
        self.words = Vocabulary(ByteTokenizer.Config().build())
        self.vocab_size, self.pad = self.words.size, self.words.pad
        self.domains = [domain for members in GROUPS.values() for domain in members]
        self.groups = [number for number, members in enumerate(GROUPS.values()) for _ in members]
        self.found: Found = found(cfg.source.build())
        self._prompts: dict[str, int] = {
            domain: max(len(wording.format("").encode()) for wording in WORDINGS[domain]) for domain in self.domains
        }
        self._listed = {(domain, split): self._fitting(domain, split) for domain, split in self._lists()}
        for (domain, split), facts in self._listed.items():
            if len(facts) <= cfg.shots:
                raise BadInput(
                    f"Stdlib10: longest = {cfg.longest} bytes leaves {len(facts)} facts of {domain} ({split}), and a "
                    f"prompt with {cfg.shots} shots needs one more than that; raise longest"
                )

    def _lists(self) -> Iterator[tuple[str, str]]:
        """(domain, split) of the facts that are known as lists."""
        yield from ((domain, "train") for domain in MEMORY)
        yield from ((DOCSTRING, split) for split in self.found.docstrings)

    def _fitting(self, domain: str, split: str) -> list[Fact]:
        facts = self.found.docstrings[split] if domain == DOCSTRING else self.found.tables[domain]
        return [fact for fact in facts if self._fits(domain, fact)]

    def _fits(self, domain: str, fact: Fact) -> bool:
        return self._prompts[domain] + sum(len(part.encode()) for part in fact) <= self.cfg.longest

    def facts(self, domain: str, split: str, draw: random.Random) -> Iterator[Fact]:
        """Facts that a split asks about, without end: of a list in turn, each time in another order, of a procedure as they are drawn."""
        if domain in PROCEDURES:
            yield from (fact for fact in drawn(domain, split, draw) if self._fits(domain, fact))
        listed = self._listed[domain, "train" if domain in MEMORY else split]
        while True:
            yield from draw.sample(listed, len(listed))

    def fact(self, domain: str, split: str, draw: random.Random) -> Fact:
        """One of them."""
        if domain in PROCEDURES:
            return next(self.facts(domain, split, draw))
        return draw.choice(self._listed[domain, "train" if domain in MEMORY else split])

    def count(self, domain: str, split: str) -> int:
        """How many facts a split of a listed domain has."""
        return len(self._listed[domain, "train" if domain in MEMORY else split])

    def reading(self, domain: str, fact: Fact, wording: int, kind: str, shots: list[Fact]) -> Reading:
        """An example of fine-tuning: a fact in a wording, as a kind of prompt; ``shots`` are answered before it in the same wording."""
        words, form = self.words, WORDINGS[domain][wording]
        before: list[int] = []
        for item, answer in shots:
            before += [*words.encode(form.format(item)), words.answer, *words.encode(answer), words.next]
        asked = words.encode(form.format(fact[0]))
        tokens, counts = conversation(words, before, [(asked, words.encode(fact[1]))])
        prompt = words.encode(description(domain, wording)) if kind == "task" else [*before, *asked]
        return Reading(tokens, counts, [words.bos, *prompt], self.domains.index(domain))

    def shots(self, domain: str, besides: list[Fact], draw: random.Random) -> list[Fact]:
        """Training facts for a few-shot prompt: different, and none of those that the prompt asks about."""
        chosen: list[Fact] = []
        while len(chosen) < self.cfg.shots:
            fact = self.fact(domain, "train", draw)
            if fact not in chosen and fact not in besides:
                chosen.append(fact)
        return chosen

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        draw = random.Random(f"stdlib10 {stage} {seed} {number}")
        if stage == "sft":
            return fine_tuning(self.words, [self._drawn(draw) for _ in range(size)])
        if stage not in STAGES:
            raise BadInput(f"Stdlib10: there is no stage {stage!r}; {closest(stage, STAGES)}")
        windows, domains = zip(*(self._window(draw) for _ in range(size)), strict=True)
        return chunked(self.words, np.stack(windows), domains, self.cfg.chunks, masked=stage == "cpt")

    def _drawn(self, draw: random.Random) -> Reading:
        """A training example: any domain, any training fact, any training wording, any kind of prompt."""
        domain, wording, kind = draw.choice(self.domains), draw.choice(TRAINED), draw.choice(self.cfg.kinds)
        fact = self.fact(domain, "train", draw)
        return self.reading(domain, fact, wording, kind, self.shots(domain, [fact], draw) if kind == "few-shot" else [])

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
        if name not in EVALUATIONS:
            raise BadInput(f"Stdlib10: there is no evaluation {name!r}; {closest(name, EVALUATIONS)}")
        wording, split, kind = EVALUATIONS[name]
        readings = []
        for domain in self.domains:
            draw = random.Random(
                f"stdlib10 {domain} {split}"
            )  # one stream per split: the kinds of prompts share the facts
            facts = self.evaluated(domain, split, draw)
            shared = self.shots(domain, facts, draw) if name == "few-shot" else []
            for fact in facts:
                shots = self.shots(domain, [fact], draw) if name == "few-shot-own" else shared
                number = draw.choice(TRAINED) if wording is None else wording
                readings.append(self.reading(domain, fact, number, kind, shots))
        return fine_tuning(self.words, readings)

    def prompts(self, split: str) -> Examples:
        """One example per wording of a split and domain, about one test fact of the domain in all of them."""
        if split not in ("seen", *HELD_OUT):
            raise BadInput(f"Stdlib10: there are no prompts of {split!r}; {closest(split, ('seen', *HELD_OUT))}")
        wordings = TRAINED if split == "seen" else [HELD_OUT[split]]
        return self._about_one_fact(wordings, "input")

    def tasks(self) -> Examples:
        """The validation wording of each domain with its slot left open."""
        return self._about_one_fact([HELD_OUT["validation"]], "task")

    def _about_one_fact(self, wordings: Sequence[int], kind: str) -> Examples:
        facts = [self.fact(domain, "test", random.Random(f"stdlib10 {domain} prompts")) for domain in self.domains]
        pairs = zip(self.domains, facts, strict=True)
        return fine_tuning(
            self.words, [self.reading(domain, fact, n, kind, []) for domain, fact in pairs for n in wordings]
        )

    def evaluated(self, domain: str, split: str, draw: random.Random) -> list[Fact]:
        """Different facts of a split: ``items`` of them, or all but ``shots`` where there are fewer."""
        facts: dict[Fact, None] = {}
        listed = self._listed.get((domain, "train" if domain in MEMORY else split))
        most = self.cfg.items if listed is None else min(self.cfg.items, len(listed) - self.cfg.shots)
        for fact in self.facts(domain, split, draw):
            facts[fact] = None
            if len(facts) >= most:
                break
        return list(facts)

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        numbers = numbered_answers(self.words, examples)
        numbers[examples.domain == self.domains.index(DOCSTRING)] = -1  # any good sentence would do: no exact match
        return numbers
