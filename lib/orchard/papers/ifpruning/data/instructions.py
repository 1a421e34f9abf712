"""Instructions of your own: rows of JSONL or parquet, and plain text for continued pre-training.

    {"instruction", "input"?, "output", "domain"?}     {"messages": [{"role", "content"} ...], "domain"?}
    {"question", "answer"}, {"prompt", "completion"}, {"prompt", "canonical_solution"}    the same under other names

The domain of a row is its field, else the stem of its file, or the folder's name where the stem is that of a split (gsm8k/train.jsonl).
A row is a document, so de-duplication, manifest and splits are those of every source; its split is hashed from the first human message, so
that no instruction is asked in two splits. There are no paraphrases here: `validation` and `test` are held-out rows.

Messages are of a system or of none, then of user and assistant in turn. The predictor reads the first human message only, and its one mask
serves every turn (section 3.2 of the paper); all answers of the assistant count. What a system says is read by the decoder alone. A prompt
longer than the predictor's context is an error, since a mask chosen from half an instruction belongs to another task; an answer that is too
long is cut, with a warning.
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import SPLITS, ByteTokenizer, DataError, Document, HubText, LocalText, Source, Tokenizer, text_source
from orchard.data.source import Row, named_split
from orchard.papers.ifpruning.data.corpus import STAGES, Corpus, Reading, Vocabulary
from orchard.papers.ifpruning.method.examples import Examples

FORMS = (("instruction", "output"), ("question", "answer"), ("prompt", "completion"), ("prompt", "canonical_solution"))
TURN, ROLE = "\x1e", "\x1f"  # a document is: TURN domain TURN role ROLE text TURN role ROLE text ...
TEXT = "text"  # the domain of plain text
PROMPTS = 8  # rows of a domain that stand for its prompts
EVALUATIONS = {"validation": "validation", "test": "test", "seen": "train"}


class _Rows(Source):
    """What turns the rows of a source of text into instructions; stands before that source among the bases."""

    def describe(self) -> dict[str, Any]:
        about = super().describe()
        return about | {"split_rule": f"{about['split_rule']}; rows with instructions: of their first human message"}

    def rows(self) -> Iterator[Row]:
        for row in super().rows():
            yield dataclasses.replace(row, key=human(row.text)) if is_row(row.text) else row

    def domain(self, path: Path) -> str:
        """The domain of rows that name none."""
        return path.parent.name if named_split(path.stem) else path.stem

    def row_document(self, row: dict[str, Any], path: Path, place: str) -> str:
        domain = row.get("domain")
        if domain is None:
            domain = self.domain(path)
        if not isinstance(domain, str) or not domain.strip():
            raise DataError(f'{place} has the domain {domain!r}; "domain" is a name, or leave the field out')
        turns = _messages(row["messages"], place) if row.get("messages") is not None else _pair(row, place)
        if any(mark in text for text in [domain, *(said for _, said in turns)] for mark in (TURN, ROLE)):
            raise DataError(f"{place} holds the control character U+001E or U+001F; remove it from that row")
        try:
            return "".join([TURN, domain, *(f"{TURN}{role}{ROLE}{text}" for role, text in turns)]).encode().decode()
        except UnicodeEncodeError:
            raise DataError(f"{place} holds an unpaired surrogate, which is no text; mend or remove that row") from None


class InstructionRows(_Rows, LocalText):
    """Rows of instructions from a file or a folder, with the text files of the folder beside them."""

    class Config(LocalText.Config):
        pass


class HubInstructions(_Rows, HubText):
    """Rows of instructions from a data set on the hub, such as allenai/tulu-v2-sft-mixture."""

    class Config(HubText.Config):
        pass

    def domain(self, path: Path) -> str:
        return path.name


def instruction_source(data: str) -> Source.Config:
    """The source of instructions that DATA means, a path or a hub id. DataError for "embedded" and for what `text_source` refuses."""
    match text_source(data):
        case LocalText.Config(path=path):
            return InstructionRows.Config(path=path)
        case HubText.Config(name=name):
            return HubInstructions.Config(name=name)
    raise DataError(f"DATA = {data!r} holds no instructions: give a path to .jsonl or .parquet rows, or a hub id")


def _pair(row: dict[str, Any], place: str) -> list[tuple[str, str]]:
    """The two turns of a row with an instruction and its answer."""
    known = {name for name, value in row.items() if value is not None}
    form = max(FORMS, key=lambda form: len(known & set(form)))  # a whole one, else one that has a field
    if not known & set(form):
        forms = ", ".join(f'"{asked}" and "{answer}"' for asked, answer in FORMS[:2])
        raise DataError(
            f'{place} is no instruction: it needs {forms}, or "messages"; its fields: {", ".join(row) or "none"}'
        )
    texts, wanted = [], ("an instruction, or the mask has nothing to be chosen from", "an answer")
    for field, what in zip(form, wanted, strict=True):
        if field not in known:
            raise DataError(f'{place} has no field "{field}"; add {what}, or remove the row (fields: {", ".join(row)})')
        texts.append(_text(row[field], f'{place} field "{field}"', what))
    if (more := row.get("input")) is not None and form == FORMS[0]:
        if not isinstance(more, str):
            raise DataError(f'{place} field "input" holds {type(more).__name__}, not text; write it as a string')
        texts[0] += f"\n{more}" if more.strip() else ""
    return [("user", texts[0]), ("assistant", texts[1])]


def _messages(messages: Any, place: str) -> list[tuple[str, str]]:
    """The turns of a row with messages."""
    parts = messages if isinstance(messages, list) else [None]
    if not all(isinstance(part, dict) and {"role", "content"} <= set(part) for part in parts):
        raise DataError(f'{place} field "messages" must be a list of objects with "role" and "content"')
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        where = f'{place} field "messages", number {number + 1}'
        role = message["role"]
        expected = "assistant" if turns and turns[-1][0] == "user" else "user"
        if role != expected and not (role == "system" and number == 0):
            raise DataError(
                f"{where} has the role {role!r} where {expected!r} must come: a system message or none, then user and "
                "assistant in turn"
            )
        turns.append((role, _text(message["content"], where, "some text")))
    if not any(role == "user" for role, _ in turns):
        raise DataError(f'{place} field "messages" has no message of the user, which the mask is chosen from; add one')
    if turns[-1][0] == "user":
        raise DataError(f'{place} field "messages" ends with the user; add an answer or remove the message')
    return turns


def _text(value: Any, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} holds {type(value).__name__}, not text; write it as a string")
    if not value.strip():
        raise DataError(f"{where} is empty; give it {what}, or remove the row")
    return value


def is_row(text: str) -> bool:
    """Whether a document is a row, not plain text."""
    return text.startswith(TURN)


def _line(name: str) -> str:
    """Where a row stands, from the name of its document."""
    file, _, number = name.rpartition("#")
    return f"{file}, {'line' if file.lower().endswith('.jsonl') else 'row'} {number},"


def parsed(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Domain and (role, text) of each turn of a document that is a row."""
    _, domain, *turns = text.split(TURN)
    return domain, [(role, said) for role, _, said in (turn.partition(ROLE) for turn in turns)]


def human(text: str) -> str:
    """The first human message of a document that is a row: all that the predictor reads."""
    return next(said for role, said in parsed(text)[1] if role == "user")


class Instructions(Corpus):
    """The corpus. Fine-tuning draws training rows, each as often; pre-training reads the plain text, or the rows where there is none."""

    class Config(Corpus.Config):
        source: Source.Config = REQUIRED  # InstructionRows.Config(path=...)
        tokenizer: Tokenizer.Config = ByteTokenizer.Config()
        longest: int = 512  # tokens of an example
        longest_prompt: int = 256  # of them of the first human message: the predictor's context
        items: int = 64  # of each domain in an evaluation
        chunk: int = 128  # tokens of a chunk of pre-training
        chunks: int = 2

    cfg: Config

    def __init__(self, cfg: Instructions.Config) -> None:
        super().__init__(cfg)
        self.check_sizes(chunks=2, chunk=1, items=1, longest_prompt=2)
        source: Source = cfg.source.build()
        self.name = source.manifest().name
        self.words = Vocabulary(cfg.tokenizer.build(source=source))
        self.vocab_size, self.pad = self.words.size, self.words.pad
        documents = {split: source.documents(split) for split in SPLITS}
        self._texts = [document for document in documents["train"] if not is_row(document.text)]
        rows = {split: [d for d in documents[split] if is_row(d.text)] for split in SPLITS}
        if not rows["train"]:
            raise DataError(
                f"{self.name} holds no row to train on: fine-tuning needs .jsonl or .parquet rows with instructions beside any text"
            )
        named = {parsed(document.text)[0] for split in SPLITS for document in rows[split]}
        self.domains = sorted(named | ({TEXT} if self._texts else set()))
        self.groups = list(range(len(self.domains)))  # nobody says which domains are related
        self._rows = rows["train"]
        whole = {split: self._read(rows[split]) for split in SPLITS}
        named_readings = [pair for split in SPLITS for pair in zip(rows[split], whole[split], strict=True)]
        cut = [row.name for row, reading in named_readings if len(reading.tokens) > cfg.longest]
        if cut:
            warnings.warn(
                f"{self.name}: {len(cut)} of {len(named_readings)} examples are longer than {cfg.longest} tokens "
                f"and are cut, {_line(cut[0])} among them; raise longest to keep their answers whole",
                stacklevel=2,
            )
        self.readings = {split: [reading.cut(cfg.longest) for reading in whole[split]] for split in SPLITS}

    def _read(self, rows: list[Document]) -> list[Reading]:
        """The rows as examples, whole. DataError for a prompt that is too long."""
        cfg, words = self.cfg, self.words
        found = [parsed(row.text) for row in rows]
        ids = iter(words.tokenizer.encode_batch([text for _, turns in found for _, text in turns]))
        readings = []
        for row, (domain, turns) in zip(rows, found, strict=True):
            said = [next(ids).tolist() for _ in turns]
            before = [*said.pop(0), words.next] if turns[0][0] == "system" else []
            prompt = [words.bos, *said[0]]
            if len(prompt) > cfg.longest_prompt or len(before) + len(prompt) + 1 >= cfg.longest:
                system = f" after {len(before)} of the system" if before else ""
                raise DataError(
                    f"{self.name}: the prompt of {_line(row.name)} has {len(prompt)} tokens{system}; the predictor reads "
                    f"at most {cfg.longest_prompt} (longest_prompt) and an example has {cfg.longest} (longest). Shorten it "
                    "or raise them"
                )
            tokens, counts = words.conversation(before, list(zip(said[::2], said[1::2], strict=True)))
            readings.append(Reading(tokens, counts, prompt, self.domains.index(domain)))
        return readings

    @cached_property
    def stream(self) -> tuple[Int[np.ndarray, "tokens"], Int[np.ndarray, "documents"], list[int]]:
        """The text of pre-training as one row of tokens, documents of a domain side by side, with the end and the domain of each document.
        DataError when it is shorter than a window."""
        parts: list[tuple[int, str]] = [(self.domains.index(TEXT), document.text) for document in self._texts]
        for row in [] if parts else self._rows:
            domain, turns = parsed(row.text)
            parts.append((self.domains.index(domain), "\n".join(said for _, said in turns) + "\n"))
        parts.sort(key=lambda part: part[0])
        ids = self.words.tokenizer.encode_batch([text for _, text in parts])
        tokens, window = np.concatenate(ids), self.cfg.chunk * self.cfg.chunks
        if len(tokens) < window:
            raise DataError(
                f"{self.name} has {len(tokens)} tokens of training text, too few for one window of {window}; "
                "give more text, or smaller chunks"
            )
        return tokens, np.cumsum([len(part) for part in ids]), [domain for domain, _ in parts]

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        draw = random.Random(f"instructions {stage} {seed} {number}")
        if stage == "sft":
            return self.words.fine_tuning(draw.choices(self.readings["train"], k=size))
        self.check("stage", stage, STAGES)
        (tokens, ends, domains), window = self.stream, self.cfg.chunk * self.cfg.chunks
        starts = np.array([draw.randrange(len(tokens) - window + 1) for _ in range(size)])
        domain = [domains[i] for i in np.searchsorted(ends, starts, side="right")]
        windows = tokens[starts[:, None] + np.arange(window)]
        return self.words.chunked(windows, domain, self.cfg.chunks, masked=stage == "cpt")

    def evaluation(self, name: str) -> Examples:
        self.check("evaluation", name, EVALUATIONS)
        readings, missing = self.readings[EVALUATIONS[name]], []
        chosen: list[Reading] = []
        for number, domain in enumerate(self.domains):
            own = [reading for reading in readings if reading.domain == number]
            if not own and domain != TEXT:
                missing.append(domain)
            draw = random.Random(f"instructions {name} {domain}")
            chosen += draw.sample(own, min(self.cfg.items, len(own)))
        if not chosen:
            raise DataError(f"{self.name} has no row for {name}: give more rows, or files called train, valid and test")
        if missing:
            warnings.warn(f"{self.name}: no row of {', '.join(missing)} is in {name}; give more rows", stacklevel=2)
        return self.words.fine_tuning(chosen)

    def prompts(self, split: str) -> Examples:
        """A few rows of a split per domain, since rows have no wordings."""
        examples = self.evaluation(split)
        place = [int((examples.domain[:i] == domain).sum()) for i, domain in enumerate(examples.domain.tolist())]
        return examples.take([i for i, earlier in enumerate(place) if earlier < PROMPTS])

    def tasks(self) -> Examples:
        """The first training row of each domain, as the example that stands for its task; bos alone for text."""
        words, first = self.words, {reading.domain: reading for reading in reversed(self.readings["train"])}
        none = [words.bos, words.answer, words.eos], [False, False, True], [words.bos]
        return words.fine_tuning([first.get(number, Reading(*none, number)) for number in range(len(self.domains))])

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        return self.words.numbered_answers(examples)
