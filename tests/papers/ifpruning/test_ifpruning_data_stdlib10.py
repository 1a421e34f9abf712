"""Stdlib-10: its facts against who knows them, what is held out, what a mask may be chosen from, batches by number."""

from __future__ import annotations

import calendar
import errno
import html
import http.client
import os
import random
import re
import shutil
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from orchard.data import LocalText
from orchard.data.source import split_of
from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import STAGES
from orchard.papers.ifpruning.data.stdlib10.corpus import DOCSTRING, EVALUATIONS, GROUPS, Stdlib10
from orchard.papers.ifpruning.data.stdlib10.source import (
    MEMORY,
    PROCEDURES,
    SCRIPTS,
    StdlibText,
    documented,
    drawn,
    first_sentence,
    memory,
    roman,
)
from orchard.papers.ifpruning.data.stdlib10.wordings import HELD_OUT, STATEMENTS, TRAINED, WORDINGS, description
from orchard.papers.ifpruning.explorers.examples import browse_stdlib10, composition
from orchard.papers.ifpruning.method.examples import Examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Stdlib10:
    """A corpus with few items, and of the standard library with eighty files."""
    base = tmp_path_factory.mktemp("library")
    (base / "text" / "python").mkdir(parents=True)
    for path in sorted(Path(os.__file__).parent.glob("*.py"))[:80]:
        shutil.copy(path, base / "text" / "python")
    source = StdlibText.Config(text=LocalText.Config(path=str(base / "text")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHARD_CACHE", str(base / "cache"))
        return Stdlib10.Config(source=source, items=5, chunk=31, chunks=3).build()


def same(first: Examples, second: Examples) -> bool:
    return all(torch.equal(value, getattr(second, name)) for name, value in vars(first).items())


def asked(corpus: Stdlib10, examples: Examples) -> list[tuple[str, str]]:
    """Domain and last prompt of each example of fine-tuning."""
    words, found = corpus.words, []
    for row, domain in zip(examples.tokens.tolist(), examples.domain.tolist(), strict=True):
        until = len(row) - 1 - row[::-1].index(words.answer)
        before = row[:until]
        start = len(before) - 1 - before[::-1].index(words.next) if words.next in before else 0
        found.append((corpus.domains[domain], words.decode(before[start + 1 :])))
    return found


def pattern(domain: str, wording: int) -> re.Pattern[str]:
    head, tail = WORDINGS[domain][wording].split("{}")
    return re.compile(f"{re.escape(head)}(?P<item>.+){re.escape(tail)}", re.DOTALL)


def read_as(domain: str, prompt: str) -> set[int]:
    """Which wordings of a domain a prompt can be."""
    return {wording for wording in range(8) if pattern(domain, wording).fullmatch(prompt)}


def fact_of(domain: str, item: str) -> str:
    """The fact that an item asks for: sums and products in either order are one."""
    parts = item.split(" ")
    return " ".join([*sorted(parts[::2]), parts[1]]) if domain == "arith" and parts[1] in "+*" else item


def test_names_of_characters() -> None:
    facts = memory()
    words = [unicodedata.name(chr(point), "").split(" ")[0] for point in range(0x110000)]
    for script in SCRIPTS:
        items = [item for item, _ in facts[script]]
        assert len(set(items)) == len(items)
        for item, name in facts[script]:
            assert name.startswith(f"{script.upper()} ")
            assert f"U+{ord(unicodedata.lookup(name)):04X}" == item
        assert len(items) == words.count(script.upper())


def test_entities_and_messages() -> None:
    facts = memory()
    for item, answer in facts["entity"]:
        assert html.unescape(item) == "".join(chr(int(point[2:], 16)) for point in answer.split(" "))
    assert len(facts["entity"]) == len(dict(facts["entity"])) > 2000
    phrases = {f"HTTP {code}": phrase for code, phrase in http.client.responses.items()}
    for item, answer in facts["status"]:
        assert answer == (phrases[item] if item in phrases else os.strerror(getattr(errno, item)))
    assert {"HTTP 404", "ENOENT"} <= {item for item, _ in facts["status"]}


def test_arithmetic() -> None:
    letters = {"M": 1000, "D": 500, "C": 100, "L": 50, "X": 10, "V": 5, "I": 1}
    assert [roman(n) for n in (4, 9, 1994, 3999)] == ["IV", "IX", "MCMXCIV", "MMMCMXCIX"]
    kinds = set()
    for item, answer in islice(drawn("arith", "train", random.Random(0)), 300):
        number = int(item.split(" ")[0])
        kinds.add(item.split(" ", 1)[1] if "in" in item else item.split(" ")[1])
        if item.endswith("in base 16"):
            assert int(answer, 16) == number
        elif item.endswith("in roman numerals"):
            values = [letters[letter] for letter in answer]
            signed = [-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True)]
            assert sum(signed) == number
        else:
            assert int(answer) == eval(item)
            assert all(100 <= int(part) <= 999 for part in item.split(" ")[::2])
    assert kinds == {"+", "-", "*", "in base 16", "in roman numerals"}


def test_weekdays() -> None:
    for item, answer in islice(drawn("weekday", "test", random.Random(0)), 100):
        year, month, day = map(int, item.split("-"))
        assert 1900 <= year <= 2099
        assert (
            answer
            == ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")[calendar.weekday(year, month, day)] + "day"
        )


def test_python_expressions() -> None:
    known = {name: __builtins__[name] for name in ("len", "sorted", "sum", "max", "min")}
    shapes = set()
    for item, answer in islice(drawn("pyeval", "train", random.Random(0)), 500):
        assert repr(eval(item, {"__builtins__": known})) == answer
        shapes.add(re.sub(r"'\w*'|-?\d+(, \d+)*", "", item))
    assert len(shapes) > 12


def test_wordings() -> None:
    assert sorted(WORDINGS) == sorted(domain for members in GROUPS.values() for domain in members)
    texts = [text for forms in WORDINGS.values() for text in forms]
    assert len(set(texts)) == len(texts) == 80
    assert all(text.count("{}") == 1 and not set("{}") & set(text.replace("{}", "")) for text in texts)
    assert sorted({*TRAINED, *HELD_OUT.values()}) == list(range(8))
    assert not set(TRAINED) & set(HELD_OUT.values())
    assert description("greek", 0) == "Name of the Greek character ___?"
    for domain, forms in STATEMENTS.items():  # prose of pre-training is no held-out wording
        for form in forms:
            assert not read_as(domain, form.format("a", "b")) & set(HELD_OUT.values())


def test_documentation_of_functions() -> None:
    source = '''
class Reader:
    def read(self, size: int = -1, *, fast=False) -> bytes:
        """Read at most size
        bytes.  More here.

        And here."""
        def inner(): "Nested one"
    def bare(self): pass
async def wait(): """Wait!"""
'''
    assert documented("pack/age/__init__.py", source) == [
        ("pack.age.Reader.read(self, size: int=-1, *, fast=False)", "Read at most size bytes."),
        ("pack.age.Reader.read.inner()", "Nested one"),
        ("pack.age.wait()", "Wait!"),
    ]
    assert documented("old.py", "print 'python 2'") == []
    assert first_sentence("Is it 3.5 wide? Yes.") == "Is it 3.5 wide?"


def test_manifest_names_the_unicode_version(corpus: Stdlib10) -> None:
    source = corpus.cfg.source.build()
    assert source.machine_bound
    assert source.manifest().versions["unicode"] == unicodedata.unidata_version
    tables = {d.name: d.text for d in source.documents("train") if d.name.startswith("table/")}
    assert set(tables) == {f"table/{domain}" for domain in MEMORY}
    assert "U+03B1\tGREEK SMALL LETTER ALPHA" in tables["table/greek"].split("\n")
    assert corpus.found.tables == memory()


def test_text_without_the_standard_library(tmp_path: Any) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(f"a text for {split}\n")
    with pytest.raises(BadInput, match=r"holds no file of it: use DATA = \"embedded\""):
        Stdlib10.Config(source=StdlibText.Config(text=LocalText.Config(path=str(tmp_path)))).build()


def test_training_holds_out_wordings_and_facts(corpus: Stdlib10) -> None:
    prompts = []
    for number in range(8):
        prompts += asked(corpus, corpus.batch("sft", 64, 3, number))
    assert {domain for domain, _ in prompts} == set(corpus.domains)
    held_out = {name: asked(corpus, corpus.evaluation(name)) for name in HELD_OUT}
    for domain, prompt in prompts:
        assert read_as(domain, prompt) & set(TRAINED)
        assert not read_as(domain, prompt) <= set(HELD_OUT.values())
    for name, found in held_out.items():
        assert all(HELD_OUT[name] in read_as(domain, prompt) for domain, prompt in found)
        assert not set(found) & set(prompts)
    trained: dict[str, set[str]] = {domain: set() for domain in PROCEDURES}
    for domain, prompt in prompts:
        if domain in PROCEDURES:
            trained[domain] |= {
                fact_of(domain, found.group("item"))
                for wording in TRAINED
                if (found := pattern(domain, wording).fullmatch(prompt))
            }
    for name, found in held_out.items():
        for domain, prompt in found:
            if domain in PROCEDURES:
                item = pattern(domain, HELD_OUT[name]).fullmatch(prompt).group("item")  # type: ignore[union-attr]
                assert fact_of(domain, item) not in trained[domain]


@pytest.mark.parametrize("domain", PROCEDURES)
def test_splits_share_no_fact(domain: str) -> None:
    draws = {
        split: {fact_of(domain, item) for item, _ in islice(drawn(domain, split, random.Random(1)), 400)}
        for split in ("train", "validation", "test")
    }
    assert not draws["train"] & draws["test"]
    assert not draws["train"] & draws["validation"]
    assert not draws["validation"] & draws["test"]


def test_docstrings_of_other_files(corpus: Stdlib10) -> None:
    found = corpus.found.docstrings
    modules = {
        split: {item.partition("(")[0].rpartition(".")[0] for item, _ in facts} for split, facts in found.items()
    }
    assert all(modules.values())
    assert not set(found["train"]) & set(found["test"])
    assert "greek" not in found


def test_statements_of_pretraining_are_training_facts(corpus: Stdlib10) -> None:
    text = "".join(corpus.words.decode(row) for n in range(8) for row in corpus.batch("cpt", 64, 0, n).tokens)
    dates = re.findall(r"(?:19|20)\d\d-\d\d-\d\d", text)
    assert len(dates) > 20
    assert all(split_of(f"weekday/{date}") == "train" for date in dates)
    assert not any(WORDINGS[domain][n].format("U+") in text for domain in SCRIPTS for n in HELD_OUT.values())


def test_batches_by_number(corpus: Stdlib10) -> None:
    other = Stdlib10(corpus.cfg)
    for stage in STAGES:
        first = corpus.batch(stage, 7, 0, 4)
        assert same(first, other.batch(stage, 7, 0, 4))
        for seed, number in ((1, 4), (0, 5)):
            drawn = corpus.batch(stage, 7, seed, number).tokens[:, : first.tokens.shape[1]]
            assert not torch.equal(first.tokens, drawn)


def test_chunks_and_their_masks(corpus: Stdlib10) -> None:
    chunk = 31
    examples = corpus.batch("cpt", 6, 0, 0)
    assert examples.tokens.shape == (6, 1 + 3 * chunk)
    assert examples.prompts.shape == (6, 2, 1 + chunk)
    assert torch.equal(examples.prompt_lengths, torch.full((6, 2), 1 + chunk))
    place = torch.arange(3 * chunk) // chunk
    assert torch.equal(examples.counts[0], torch.cat((torch.tensor([False]), place > 0)))
    for mask in range(2):
        prompt = examples.tokens[:, 1 + mask * chunk : 1 + (mask + 1) * chunk]
        assert torch.equal(examples.prompts[:, mask, 1:], prompt)
        counted = (examples.counts & (examples.span == mask)).nonzero()[:, 1].unique()
        assert torch.equal(counted, torch.arange(1 + (mask + 1) * chunk, 1 + (mask + 2) * chunk))
    assert (corpus.answers(examples) == -1).all()
    plain = corpus.batch("pretrain", 6, 0, 0)
    assert plain.counts.sum() == 6 * 3 * chunk
    assert torch.equal(plain.prompts, torch.full((6, 1, 1), corpus.words.bos))
    assert not plain.span.any()


def test_answers(corpus: Stdlib10) -> None:
    examples = corpus.evaluation("test")
    numbers = corpus.answers(examples)
    facts = {item: answer for listed in memory().values() for item, answer in listed}
    for (domain, prompt), row, number in zip(asked(corpus, examples), examples.tokens, numbers, strict=True):
        answer = corpus.words.decode(row[number == 0])
        if domain == DOCSTRING:
            assert (number == -1).all()
        else:
            assert answer.endswith("⟨eos⟩")
        if domain in MEMORY:
            item = pattern(domain, HELD_OUT["test"]).fullmatch(prompt).group("item")  # type: ignore[union-attr]
            assert answer == f"{facts[item]}⟨eos⟩"


def test_prompts_and_tasks(corpus: Stdlib10) -> None:
    for split, wordings in (("seen", set(TRAINED)), ("validation", {6}), ("test", {7})):
        examples = corpus.prompts(split)
        assert torch.bincount(examples.domain).tolist() == [len(wordings)] * 10
        for number, (domain, prompt) in enumerate(asked(corpus, examples)):
            assert number % len(wordings) in read_as(domain, prompt) or split != "seen"
            assert wordings & read_as(domain, prompt)
    tasks = corpus.tasks()
    assert tasks.domain.tolist() == list(range(10))
    for domain, row, length in zip(corpus.domains, tasks.prompts[:, 0], tasks.prompt_lengths[:, 0], strict=True):
        assert corpus.words.decode(row[1:length]) == description(domain, HELD_OUT["validation"])
    with pytest.raises(BadInput, match="no split of prompts 'train'; known: seen, test, validation"):
        corpus.prompts("train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunks": 1}, "chunks = 1 is too small; give at least 2"),
        ({"items": 5000}, "items = 5000; a held-out split has at most 1000"),
        ({"longest": 40}, r"longest = 40 bytes leaves no fact of \w+ \(\w+\); raise longest"),
    ],
)
def test_bad_settings(corpus: Stdlib10, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        corpus.cfg.clone().set(**fields).build()


def test_prompts_of_training_stop_before_what_counts(corpus: Stdlib10) -> None:
    examples = corpus.batch("sft", 40, 0, 0)
    assert examples.tokens.shape[1] % 32 == examples.prompts.shape[2] % 32 == 0
    for tokens, counts, prompt, length in zip(
        examples.tokens, examples.counts, examples.prompts[:, 0], examples.prompt_lengths[:, 0], strict=True
    ):
        first = int(counts.int().argmax())
        assert tokens[first - 1] == corpus.words.answer
        assert torch.equal(prompt[:length], tokens[: first - 1])
        assert tokens[tokens != corpus.pad][-1] == corpus.words.eos


def test_evaluations_share_their_facts_and_say_which_there_are(corpus: Stdlib10) -> None:
    found = {name: corpus.evaluation(name) for name in EVALUATIONS}
    assert all(torch.bincount(examples.domain, minlength=10).tolist() == [5] * 10 for examples in found.values())
    assert all(read_as(domain, prompt) & set(TRAINED) for domain, prompt in asked(corpus, found["seen"]))
    assert same(corpus.evaluation("test"), found["test"])
    with pytest.raises(BadInput, match="no stage 'stf'; did you mean 'sft'"):
        corpus.batch("stf", 1, 0, 0)
    with pytest.raises(BadInput, match="no evaluation 'tests'; did you mean 'test'"):
        corpus.evaluation("tests")


def test_what_is_shown_of_it(corpus: Stdlib10) -> None:
    draw, controls = browse_stdlib10(corpus)
    assert (controls["wording"], controls["kind"]) == ((0, 7), ["input", "task"])
    [axes] = draw("arith", 7, "task").axes
    assert axes.get_title(loc="left") == "arith, wording 7 (held out for test), prompt: task"
    shown = "".join(text.get_text() for text in axes.texts)
    assert "⟨answer⟩" in shown
    assert "___" in shown
    table = composition(corpus)
    assert table.domain.tolist() == corpus.domains
    assert table.facts.isna().sum() == len(PROCEDURES)
