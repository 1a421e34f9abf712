"""Instructions of one's own: forms of rows, what is read and counts, splits, one message for each kind of bad row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from orchard.data import DataError
from orchard.errors import BadInput
from orchard.papers.ifpruning.data.instructions import (
    HubInstructions,
    InstructionRows,
    Instructions,
    human,
    instruction_source,
    is_row,
)

COLOURS = ("red", "green", "blue", "grey", "pink", "teal", "navy")


def write(folder: Path, name: str, rows: list[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def paint(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"Which colour has thing {number}?", "output": f"It is {COLOURS[number % 7]}.", **more}


def config(folder: Path, **fields: Any) -> Instructions.Config:
    return Instructions.Config(source=InstructionRows.Config(path=str(folder)), **fields)


def build(folder: Path, **fields: Any) -> Instructions:
    return config(folder, **fields).build()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three domains in three forms: by file, by the folder of a split's file, by field."""
    write(tmp_path, "paint.jsonl", [paint(n) for n in range(80)])
    write(tmp_path / "sums", "train.jsonl", [{"question": f"{n} + 1?", "answer": f"{n + 1}"} for n in range(70)])
    talks = [
        {
            "messages": [
                {"role": "system", "content": f"Be brief, {n}."},
                {"role": "user", "content": f"Héllo {n}"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "And bye?"},
                {"role": "assistant", "content": f"Bye {n}!"},
            ],
            "domain": "talk",
        }
        for n in range(60)
    ]
    write(tmp_path, "anything.jsonl", talks)
    return tmp_path


def shown(corpus: Instructions, name: str, domain: str) -> list[tuple[str, str, list[str]]]:
    """What the predictor reads, what the decoder reads, and the answers, of the examples of a domain."""
    examples = corpus.evaluation(name)
    numbers = corpus.answers(examples)
    found = []
    for i in (examples.domain == corpus.domains.index(domain)).nonzero()[:, 0].tolist():
        length = int(examples.prompt_lengths[i, 0])
        answers = [corpus.words.decode(examples.tokens[i][numbers[i] == n]) for n in range(int(numbers[i].max()) + 1)]
        text = corpus.words.decode(examples.tokens[i]).replace("⟨pad⟩", "")
        found.append((corpus.words.decode(examples.prompts[i, 0, :length]), text, answers))
    return found


def test_domains_and_forms(mixed: Path) -> None:
    corpus = build(mixed, items=200)
    assert corpus.domains == ["paint", "sums", "talk"]
    assert corpus.groups == [0, 1, 2]
    assert corpus.vocab_size == 264
    prompt, text, answers = shown(corpus, "seen", "sums")[0]
    number = int(re.fullmatch(r"⟨bos⟩(\d+) \+ 1\?", prompt).group(1))  # type: ignore[union-attr]
    assert text == f"{prompt}⟨answer⟩{number + 1}⟨eos⟩"
    assert answers == [f"{number + 1}⟨eos⟩"]


def test_one_mask_for_a_conversation(mixed: Path) -> None:
    for name in ("seen", "validation", "test"):
        for prompt, text, answers in shown(build(mixed), name, "talk"):
            n = prompt.removeprefix("⟨bos⟩Héllo ")
            assert prompt == f"⟨bos⟩Héllo {n}"  # the first human message, no system, no later turn
            assert text == f"⟨bos⟩Be brief, {n}.⟨next⟩Héllo {n}⟨answer⟩Hi.⟨eos⟩⟨next⟩And bye?⟨answer⟩Bye {n}!⟨eos⟩"
            assert answers == ["Hi.⟨eos⟩", f"Bye {n}!⟨eos⟩"]


def test_input_completion_and_missing_fields(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", [paint(n, input=f"Thing {n} was painted.", domain=None) for n in range(60)])
    write(
        tmp_path,
        "b.jsonl",
        [{"prompt": f"def f{n}():", "completion": f"    return {n}", "input": "no"} for n in range(60)],
    )
    write(tmp_path, "c.jsonl", [paint(n, input="  ", domain="c d", id=n) for n in range(100, 160)])
    corpus = build(tmp_path)
    assert corpus.domains == ["a", "b", "c d"]
    assert "?\nThing " in shown(corpus, "seen", "a")[0][0]
    assert shown(corpus, "seen", "b")[0][0].endswith("():")
    assert shown(corpus, "seen", "c d")[0][0].endswith("?")


def test_parquet_as_jsonl(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import pandas as pd

    folder = tmp_path_factory.mktemp("parquet")
    for path in (mixed / "paint.jsonl", mixed / "anything.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pd.DataFrame(rows).to_parquet(folder / f"{path.stem}.parquet")
    corpus = build(folder)
    assert corpus.domains == ["paint", "talk"]
    assert {row[0] for row in shown(corpus, "test", "talk")} == {row[0] for row in shown(build(mixed), "test", "talk")}


def test_splits_are_of_instructions(tmp_path: Path) -> None:
    rows = [paint(n) for n in range(100)]
    again = [{"instruction": row["instruction"], "output": f"{row['output']} Yes."} for row in rows]
    write(tmp_path, "paint.jsonl", [*rows, *again, *rows])
    source = InstructionRows.Config(path=str(tmp_path)).build()
    manifest = source.manifest()
    assert manifest.rows == 200
    assert manifest.dropped == 100
    assert "of their first human message" in manifest.split_rule
    asked = {split: {human(d.text) for d in source.documents(split)} for split in ("train", "validation", "test")}
    assert not asked["train"] & (asked["validation"] | asked["test"])
    assert not asked["validation"] & asked["test"]
    assert sum(map(len, asked.values())) == 100
    corpus = build(tmp_path, items=200)
    trained = {row[0] for row in shown(corpus, "seen", "paint")}
    for name in ("validation", "test"):
        assert not trained & {row[0] for row in shown(corpus, name, "paint")}
    drawn = corpus.batch("sft", 300, 0, 0)
    assert {
        corpus.words.decode(p[0][:n]) for p, n in zip(drawn.prompts, drawn.prompt_lengths[:, 0], strict=True)
    } <= trained


@pytest.mark.parametrize("stage", ["read", "pretrain", "cpt", "sft"])
def test_batches_by_number(mixed: Path, stage: str) -> None:
    corpus = build(mixed, chunk=9, chunks=3)
    first = corpus.batch(stage, 5, 1, 2)
    corpus.batch(stage, 4, 0, 0)
    again = build(mixed, chunk=9, chunks=3).batch(stage, 5, 1, 2)
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(first).items())
    assert not torch.equal(first.tokens, corpus.batch(stage, 5, 1, 3).tokens)
    counted = first.tokens[first.counts]
    assert not (counted == corpus.pad).any()
    if stage == "sft":
        assert not (
            (first.prompts == corpus.pad).sum(dim=2)[:, 0] + first.prompt_lengths[:, 0] - first.prompts.shape[2]
        ).any()
    else:
        assert first.tokens.shape == (5, 28)
        assert (corpus.answers(first) == -1).all()


def test_text_for_pretraining(mixed: Path) -> None:
    rows_alone = build(mixed).batch("cpt", 64, 0, 0)
    assert set(rows_alone.domain.tolist()) == {0, 1, 2}
    (mixed / "novel.txt").write_text(
        "\n\n".join(f"It was a dark night, the {n}th." for n in range(900)), encoding="utf-8"
    )
    corpus = build(mixed)
    assert corpus.domains == ["paint", "sums", "talk", "text"]
    examples = corpus.batch("cpt", 64, 0, 0)
    assert set(examples.domain.tolist()) == {3}
    assert all("dark night" in corpus.words.decode(row) for row in examples.tokens)
    assert 3 not in corpus.evaluation("test").domain
    kinds = {
        d.name.partition("#")[0]: is_row(d.text)
        for d in InstructionRows.Config(path=str(mixed)).build().documents("train")
    }
    assert kinds == {"anything.jsonl": True, "novel.txt": False, "paint.jsonl": True, "sums/train.jsonl": True}


def test_prompts_and_tasks(mixed: Path) -> None:
    (mixed / "novel.txt").write_text("\n\n".join(f"A night, the {n}th." for n in range(900)), encoding="utf-8")
    corpus = build(mixed)
    assert torch.bincount(corpus.prompts("seen").domain, minlength=4).tolist() == [8, 8, 8, 0]
    assert set(corpus.prompts("test").domain.tolist()) <= {0, 1, 2}
    tasks = corpus.tasks()
    assert tasks.domain.tolist() == [0, 1, 2, 3]
    read = [
        corpus.words.decode(row[:n]) for row, n in zip(tasks.prompts[:, 0], tasks.prompt_lengths[:, 0], strict=True)
    ]
    assert read[0].startswith("⟨bos⟩Which colour has thing ")
    assert read[3] == "⟨bos⟩"


def test_long_answers_are_cut_with_a_warning(tmp_path: Path) -> None:
    rows = [paint(n) for n in range(60)]
    rows[7]["output"] = "x" * 500
    write(tmp_path, "paint.jsonl", rows)
    with pytest.warns(
        UserWarning,
        match=r"1 of 60 examples are longer than 64 tokens and are cut, paint.jsonl, line 8,.* raise longest",
    ):
        corpus = build(tmp_path, longest=64)
    assert max(len(reading.tokens) for split in corpus.readings.values() for reading in split) == 64


def talk(*messages: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "is not JSON .*; mend or remove that line"),
        ([1, 2], "is a JSON list; every line must be an object with fields"),
        ({"text": "a"}, 'is no instruction: it needs "instruction" and "output", .* or "messages"; its fields: text'),
        ({}, "its fields: none"),
        ({"instruction": "a"}, 'has no field "output"; add an answer, or remove the row .fields: instruction'),
        ({"instruction": "a", "output": None}, 'has no field "output"'),
        (
            {"output": "a"},
            'has no field "instruction"; add an instruction, or the mask has nothing to be chosen from',
        ),
        ({"question": "a", "ground_truth": "b"}, 'has no field "answer"'),
        ({"instruction": " \n", "output": "a"}, 'field "instruction" is empty; give it an instruction'),
        ({"instruction": "a", "output": ""}, 'field "output" is empty; give it an answer, or remove the row'),
        ({"instruction": ["a"], "output": "b"}, 'field "instruction" holds list, not text; write it as a string'),
        ({"instruction": "a", "input": 3, "output": "b"}, 'field "input" holds int, not text'),
        (
            {"instruction": "a", "output": "b", "domain": 3},
            'has the domain 3; "domain" is a name, or leave the field out',
        ),
        ({"instruction": "a\x1eb", "output": "b"}, r"holds the control character U\+001E or U\+001F; remove it"),
        ({"instruction": "a\ud800", "output": "b"}, "holds an unpaired surrogate"),
        ({"messages": "hello"}, 'field "messages" must be a list of objects with "role" and "content"'),
        ({"messages": [{"role": "user"}]}, 'must be a list of objects with "role" and "content"'),
        ({"messages": []}, "has no message of the user, which the mask is chosen from; add one"),
        (talk(("system", "a")), "has no message of the user"),
        (talk(("assistant", "a")), "number 1 has the role 'assistant' where 'user' must come"),
        (talk(("user", "a"), ("user", "b")), "number 2 has the role 'user' where 'assistant' must come"),
        (talk(("user", "a"), ("system", "b")), "number 2 has the role 'system' where 'assistant' must come"),
        (talk(("user", "a"), ("assistant", "b"), ("user", "c")), "ends with the user; add an answer"),
        (talk(("user", ""), ("assistant", "b")), 'field "messages", number 1 is empty'),
        (talk(("user", "a"), ("assistant", None)), 'field "messages", number 2 holds NoneType, not text'),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, message: str) -> None:
    line = row if isinstance(row, str) else json.dumps(row)
    good = json.dumps(paint(1))
    (tmp_path / "rows.jsonl").write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"rows.jsonl, line 3, .*{message}"):
        build(tmp_path)


def test_prompt_longer_than_the_context(tmp_path: Path) -> None:
    write(tmp_path, "paint.jsonl", [*(paint(n) for n in range(60)), paint(10**50)])
    with pytest.raises(
        DataError, match=r"paint.jsonl, line 61, has 76 tokens; the predictor reads at most 40 .longest_prompt"
    ):
        build(tmp_path, longest_prompt=40)
    system = talk(("system", "s" * 99), ("user", "hello"), ("assistant", "hi"))
    write(tmp_path, "paint.jsonl", [*(paint(n) for n in range(60)), system])
    with pytest.raises(
        DataError, match=r"line 61, has 6 tokens after 100 of the system; .* an example has 99 .longest"
    ):
        build(tmp_path, longest=99)


def test_what_data_means(tmp_path: Path) -> None:
    assert instruction_source(str(tmp_path)) == InstructionRows.Config(path=str(tmp_path.resolve()))
    assert instruction_source("owner/Some-2.5") == HubInstructions.Config(name="owner/Some-2.5")
    for data, message in (("embedded", "holds no instructions: give a path"), ("./none.jsonl", "does not exist")):
        with pytest.raises(DataError, match=message):
            instruction_source(data)


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    def load(*args: object, **kwargs: object) -> object:
        table = datasets.Dataset.from_list([paint(n) for n in range(80)])
        return datasets.IterableDatasetDict({"train": table.to_iterable_dataset()})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, *a, **k: object())
    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = Instructions.Config(source=instruction_source("owner/Some-2.5")).build()
    assert corpus.domains == ["Some-2.5"]
    assert shown(corpus, "test", "Some-2.5")[0][0].startswith("⟨bos⟩Which colour has thing ")
    with pytest.raises(DataError, match=r"the prompt of train, row \d+, has \d+ tokens"):
        Instructions.Config(source=instruction_source("owner/Some-2.5"), longest_prompt=9).build()


def test_nothing_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("\n\n".join(f"A night, the {n}th." for n in range(900)), encoding="utf-8")
    with pytest.raises(DataError, match=r"holds no row to train on: fine-tuning needs .jsonl or .parquet rows"):
        build(tmp_path)
    write(tmp_path, "few.jsonl", [paint(n) for n in range(60)])
    corpus = build(tmp_path, chunk=9999)
    with pytest.raises(DataError, match="tokens of training text, too few for one window of 19998; give more text"):
        corpus.batch("cpt", 1, 0, 0)
    for call, message in (
        (lambda: corpus.batch("stf", 1, 0, 0), "no stage 'stf'; did you mean 'sft'"),
        (lambda: corpus.evaluation("few-shot"), "no evaluation 'few-shot'; known: seen, test, validation"),
        (lambda: build(tmp_path, chunks=1), "chunks = 1 is too small; give at least 2"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
