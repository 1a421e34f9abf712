"""RULER-lite as text: rows in RULER's format, grown to the longest context that fits, with answers that a reader can check; metrics."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchard.data import LocalText
from orchard.errors import BadInput
from orchard.papers.rattention.data import ruler_text
from orchard.papers.rattention.data.ruler_text import (
    make_rows,
    score_file,
    string_match_all,
    string_match_part,
    tokens_to_generate,
    write_rows,
)
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS

ESSAY = [f"Sentence number {i} of this essay says nothing of note." for i in range(40)]
WITHOUT_QA = [task for task in RULER_TASKS if not task.startswith("qa")]


def count(text: str) -> int:
    return len(text.split())


def rows(task: str, number: int = 3, max_length: int = 700, **fields: Any) -> list[dict[str, Any]]:
    return make_rows(task, count=number, max_length=max_length, tokens=count, essay=ESSAY, **fields)


def squad(folder: Path) -> Path:
    cells = [
        {"context": f"Town {i} has {i + 3} bridges.", "qas": [{"question": f"How many bridges has town {i}?",
         "answers": [{"text": f"{i + 3}"}, {"text": f"{i + 3} bridges"}]}, {"question": "Unanswerable?", "answers": []}]}
        for i in range(30)
    ]  # fmt: skip
    file = folder / "squad.json"
    file.write_text(json.dumps({"data": [{"paragraphs": cells}]}))
    return file


def hotpot(folder: Path) -> Path:
    content = [
        {"question": f"Who owns house {i}?", "answer": f"Person {i}", "supporting_facts": [[f"House {i}", 0], [f"Key {i}", 1]],
         "context": [[f"House {i}", [f"It is opened by key {i}."]], [f"Key {i}", ["It is old.", f" Person {i} has it."]],
                     [f"Tree {i}", ["Green."]]]}
        for i in range(10)
    ]  # fmt: skip
    file = folder / "hotpot.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("task", WITHOUT_QA)
def test_rows_have_rulers_format_and_the_longest_context_that_fits(task: str) -> None:
    made = rows(task)
    for index, row in enumerate(made):
        assert list(row) == ["index", "input", "outputs", "length", "answer_prefix"]
        assert row["index"] == index
        assert row["length"] == count(row["input"] + row["answer_prefix"]) + tokens_to_generate(task)
        step = 12 if task != "vt" and "single_1" not in task else 30  # tokens by which the context grows
        assert 700 - step < row["length"] <= 700
        assert all(answer in row["input"] for answer in row["outputs"])
        assert not any(answer in row["answer_prefix"] for answer in row["outputs"])
    assert len({row["input"] for row in made}) == 3
    assert made == rows(task)
    assert made != rows(task, seed=1)
    assert made[:2] == rows(task, 2)  # a row does not depend on how many are made
    json.dumps(made)


def solve(task: str, row: dict[str, Any]) -> list[str]:
    """The answers, read off the text."""
    text, question = row["input"].rsplit("\n", 1)
    if task.startswith("niah"):
        stated = re.findall(r"Remember this \w+: (\S+) stands for (\S+)\.", text)
        keys = question.split(": ", 1)[1].rstrip("?").split(", ")
        return [value for key in keys for name, value in stated if name == key]
    if task == "vt":
        held: dict[str, str] = {}
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
            held[name] = held.get(source, source)
        return [name for name, value in held.items() if value == question.split()[-1].rstrip(".")]
    if task == "cwe":
        words = re.findall(r"\d+\. (\w+)", text.rsplit("Remember the frequent ones.\n", 1)[1])
        counts = Counter(words).most_common()
        assert counts[9][1] == 6 * counts[10][1]
        return [word for word, _ in counts[:10]]
    counts = Counter(word for word in text.split("\n", 1)[1].split() if word != "...").most_common()
    assert counts[2][1] > counts[3][1]
    return [word for word, _ in counts[:3]]


@pytest.mark.parametrize("task", WITHOUT_QA)
def test_a_reader_of_the_text_finds_the_answers(task: str) -> None:
    for row in rows(task, number=4):
        found = solve(task, row)
        assert sorted(found) == sorted(row["outputs"])
        wanted = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}.get(task, 1)
        assert len(set(found)) == wanted


def test_uuids_are_uuids_and_multikey_2_has_no_other_text() -> None:
    assert all(
        re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", row["outputs"][0]) for row in rows("niah_multikey_3")
    )
    body = rows("niah_multikey_2")[0]["input"].split("\n")[1:-1]
    assert len(body) > 50
    assert all(line.startswith("Remember this number") for line in body)


def test_needles_of_an_essay_spread_over_all_depths() -> None:
    places = []
    for row in rows("niah_single_2", number=80, max_length=500):
        words = row["input"].split()
        places.append(words.index("Remember") / len(words))
    assert min(places) < 0.15
    assert max(places) > 0.85
    assert len({round(place, 2) for place in places}) > 20


def test_long_cwe_lists_repeat_more_often() -> None:
    text = rows("cwe", 1, max_length=4096)[0]["input"].rsplit("Remember the frequent ones.\n", 1)[1]
    counts = Counter(re.findall(r"\d+\. (\w+)", text)).most_common()
    assert [counts[9][1], counts[10][1]] == [30, 3]


@pytest.mark.parametrize(("task", "make"), [("qa_1", squad), ("qa_2", hotpot)])
def test_questions_come_from_local_files_with_their_gold_paragraphs(task: str, make: Any, tmp_path: Path) -> None:
    made = rows(task, 12, max_length=200, qa_file=make(tmp_path))
    for row in made:
        assert any(answer in row["input"] for answer in row["outputs"])
        assert row["length"] <= 200
    if task == "qa_2":
        assert all(f"opened by key {i % 10}." in row["input"] and f"Person {i % 10} has it" in row["input"]
                   for i, row in enumerate(made))  # fmt: skip
        whole = rows(task, 1, max_length=10_000, qa_file=make(tmp_path))[0]["input"]
        assert whole.count("Document") == 30  # all there are: it ends although more would fit


def test_without_a_file_questions_are_unavailable_and_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'qa_2' is unavailable: .* give qa_file=the path of a HotpotQA JSON file"):
        rows("qa_2")
    (tmp_path / "no.json").write_text('{"data": 3}')
    for task in ("qa_1", "qa_2"):
        with pytest.raises(BadInput, match=rf"no\.json cannot be read for {task} \(TypeError"):
            rows(task, qa_file=tmp_path / "no.json")
    (tmp_path / "empty.json").write_text('{"data": []}')
    with pytest.raises(BadInput, match="holds no question"):
        rows("qa_1", qa_file=tmp_path / "empty.json")


@pytest.mark.parametrize(
    ("task", "length", "message"),
    [("niah", 700, "RULER has no task 'niah'"), ("kv_overwrite", 700, "no task 'kv_overwrite'"),
     ("niah_multikey_1", 140, r"smallest example has \d+ tokens and its answer 128, more than max_length = 140")],
)  # fmt: skip
def test_bad_input(task: str, length: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rows(task, max_length=length)


def test_metrics_are_rulers() -> None:
    references = [["12", "34"], ["Paris", "paris, france"]]
    assert string_match_all(["it is 12 and 34", "PARIS"], references) == pytest.approx(100 * (1 + 0.5) / 2)
    assert string_match_all(["13", ""], references) == 0
    assert string_match_part(["34", "in PARIS"], references) == 100
    assert string_match_part(["3", "in Rome"], references) == 0
    for bad in ([], ["a"]):
        with pytest.raises(BadInput, match=f"{len(bad)} predictions for 2"):
            string_match_all(bad, references)


def test_a_file_of_predictions_is_scored(tmp_path: Path) -> None:
    made = rows("niah_multivalue", number=2)
    made[0]["pred"] = " ".join(made[0]["outputs"])
    made[1]["pred"] = made[1]["outputs"][0]
    file = write_rows(made, tmp_path / "deep" / "niah.jsonl")
    assert score_file(file, "niah_multivalue") == pytest.approx(100 * (1 + 0.25) / 2)
    assert score_file(file, "qa_1") == 100  # any reference is enough there
    del made[1]["pred"]
    with pytest.raises(BadInput, match=r"niah\.jsonl, line 2, needs 'pred'"):
        score_file(write_rows(made, file), "niah_multivalue")


def test_sentences_of_an_essay_are_those_of_docstrings(tmp_path: Path) -> None:
    text = '"""This module does one thing only. It does that\n\nquite well, one hears."""\nx = "No docstring, so it is not read here."\n'
    texts = [text, text + 'def f():\n    """A function of some kind returns nothing."""\n', "this is (no Python"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    for split in ("valid", "test"):
        sentence = f'"""Only the {split} files say this sentence."""'
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": sentence}) + "\n")
    source = LocalText.Config(path=str(tmp_path)).build()
    found = ruler_text.essay_sentences(source)
    assert found == (
        "This module does one thing only.",
        "It does that quite well, one hears.",
        "A function of some kind returns nothing.",
    )
