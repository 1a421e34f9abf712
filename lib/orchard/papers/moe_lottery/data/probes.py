"""What a model still can do, asked about the same facts in several ways.

    knowledge      which value is likeliest in a statement:    "Mira has the colour " -> blue | gray | pink | teal
    instructions   "### task: name colour / Mira => "          generated, then read;  also "choose", where letters stand for values
    reasoning      "### task: add / 03 + 08 => "               sums that no training text contains
    k examples     the same, after k solved lines about taught entities (or seen sums)

Questions are about tested entities, which no training text asks about. A generated answer is *correct*, *wrong* (another of
the options) or *unparseable* (none of them): so a lost format is told from a lost fact. Beside
it stands the likelihood form, which needs no format: the rank of the true answer among the options by

    log p(option | prompt) = sum_t log p(o_t | prompt, o_<t)            (options have one length: no normalisation)

Rank score: 1 - (rank - 1) / (options - 1), ties in the middle; 1/2 by guessing. The byte `bos` stands before every prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from orchard.nn import Decoder, Sampling, generate_each
from orchard.papers.moe_lottery.data.world import ADD, CHOOSE, NAME, TESTED_ATTRIBUTES, WORDINGS, World, written

STATE = "state"  # the task of a statement
CAPABILITY = {STATE: "knowledge", NAME: "instructions", CHOOSE: "instructions", ADD: "reasoning"}
CORRECT, WRONG, UNPARSEABLE = OUTCOMES = ("correct", "wrong", "unparseable")
BOS = 256  # of `ByteTokenizer`, which all models of the series read
MOST = 6  # bytes of an answer, its line's end among them
AT_ONCE = 2**14  # tokens in one forward pass


@dataclass(frozen=True)
class Item:
    """A question as a model gets it. `unit`: the fact or the sum that it is about; `wording`: of a statement."""

    task: str
    shots: int
    unit: str
    prompt: str
    answer: str
    options: tuple[str, ...]
    wording: int = 0


def questions(world: World, shots: Sequence[int], sums: int, seed: int = 0, group: str = "tested") -> list[Item]:
    """The battery: every fact of a group as statements and in both instruction tasks, and `sums` held-out sums, the tasks with each
    number of examples. A function of its arguments: every model gets the same letters and examples."""
    items = []
    for entity, attribute in world.facts(group, TESTED_ATTRIBUTES):
        value, unit = world.values[entity][attribute], f"{attribute} of {entity}"
        for wording in range(len(WORDINGS)):
            prompt = world.statement(entity, attribute, wording).removesuffix(f"{value}.")
            items.append(Item(STATE, 0, unit, prompt, value, world.options[attribute], wording))
        for task in (NAME, CHOOSE):
            items += _with_examples(world, task, entity, attribute, shots, seed)
    draw = random.Random(f"sums {seed}")
    for pair in draw.sample(world.held_out(), min(sums, len(world.held_out()))):
        items += _with_examples(world, ADD, pair, "", shots, seed)
    return items


def _with_examples(
    world: World, task: str, subject: str | tuple[int, int], attribute: str, shots: Sequence[int], seed: int
) -> list[Item]:
    """One question with each number of examples: the same first line, and more of the same examples."""
    draw = random.Random(f"{task} {subject} {attribute} {seed}")
    value = world.values[subject][attribute] if isinstance(subject, str) else None
    form = world.form(task, attribute, draw, value)
    examples = world.questions(form, "taught", draw, max(shots))
    asked = world.ask(form, subject)
    prompts = {k: written(form.head, examples[:k]) + asked.prompt for k in shots}
    return [Item(task, k, asked.subject, prompt, asked.answer, asked.options) for k, prompt in prompts.items()]


def encode(text: str) -> Tensor:
    """Token ids of a prompt, bos first."""
    return torch.tensor([BOS, *text.encode()])


def outcome(item: Item, text: str) -> str:
    """What a generated answer is: correct, wrong (understood, but not right) or unparseable. The line's end may be missing only
    where the text ends; whatever else stands on the line makes it unparseable."""
    line, closed, _ = text.partition("\n")
    answer = line.strip()
    if not closed or answer not in item.options:
        return UNPARSEABLE
    return CORRECT if answer == item.answer else WRONG


@torch.no_grad()
def generated(model: Decoder, prompts: Sequence[str]) -> list[str]:
    """What the model writes after every prompt, likeliest byte by likeliest byte, to the end of the line or `MOST` bytes."""
    device = model.embedding.weight.device
    ids = [encode(prompt).to(device) for prompt in prompts]
    made = generate_each(model, ids, MOST, Sampling(), stop_token=ord("\n"))
    answers = [row[len(prompt) :].tolist() for row, prompt in zip(made, ids, strict=True)]
    return [bytes(token for token in answer if token < 256).decode("utf-8", "replace") for answer in answers]


@torch.no_grad()
def likelihoods(model: Decoder, items: Sequence[Item]) -> list[Float[Tensor, "options"]]:
    """log p of every option after the prompt, in nats. Options of one length that agree but for the last byte share a row."""
    device = model.embedding.weight.device
    rows: dict[tuple[int, str], Tensor] = {}
    for place, item in enumerate(items):
        for option in item.options:
            stem = option[:-1]
            if (place, stem) not in rows:
                rows[place, stem] = encode(item.prompt + stem)
    found: dict[tuple[int, str], Tensor] = {}
    for keys in _by_length(rows):
        batch = torch.stack([rows[key] for key in keys]).to(device)
        most = max(len(stem.encode()) for _, stem in keys)
        scores = model(batch)[:, -1 - most :].float().log_softmax(dim=-1)  # [rows, most + 1, vocab]
        inside = scores[:, :-1].gather(-1, batch[:, batch.shape[1] - most :, None])[..., 0]
        for key, own, last in zip(keys, inside, scores[:, -1], strict=True):
            size = len(key[1].encode())
            found[key] = (own[most - size :].sum() + last).double().cpu()
    wanted = [[(place, option[:-1], ord(option[-1])) for option in item.options] for place, item in enumerate(items)]
    return [torch.stack([found[place, stem][last] for place, stem, last in options]) for options in wanted]


def _by_length(rows: dict[tuple[int, str], Tensor]) -> list[list[tuple[int, str]]]:
    """Keys of rows of equal length, in batches of at most `AT_ONCE` tokens."""
    groups: dict[int, list[tuple[int, str]]] = {}
    for key, row in rows.items():
        groups.setdefault(len(row), []).append(key)
    batches = []
    for length, keys in groups.items():
        size = max(1, AT_ONCE // length)
        batches += [keys[start : start + size] for start in range(0, len(keys), size)]
    return batches


def rank(scores: Float[Tensor, "options"], true: int) -> float:
    """Place of the true option from the top, 1 is best; equal scores share the middle place. NaN where a score is NaN."""
    if scores.isnan().any():
        return float("nan")
    others = torch.cat([scores[:true], scores[true + 1 :]])
    return 1.0 + float((others > scores[true]).sum()) + 0.5 * float((others == scores[true]).sum())


def probe(model: Decoder, items: Sequence[Item]) -> pd.DataFrame:
    """One row per item: task, shots, unit, wording, options; where there is no example `rank`, `rank_score` and `first` by likelihood;
    for tasks the generated `text` and its `outcome` (statements have neither). The model must be in evaluation mode."""
    asked = [item for item in items if item.task != STATE]
    texts = dict(zip(asked, generated(model, [item.prompt for item in asked]), strict=True)) if asked else {}
    plain = [item for item in items if item.shots == 0]
    scores = dict(zip(plain, likelihoods(model, plain), strict=True))
    rows = []
    for item in items:
        text, count = texts.get(item), len(item.options)
        place = rank(scores[item], item.options.index(item.answer)) if item in scores else None
        rows.append({
            "task": item.task, "shots": item.shots, "unit": item.unit, "wording": item.wording, "options": count,
            "rank": place, "rank_score": None if place is None else 1 - (place - 1) / (count - 1),
            "first": None if place is None else float(place == 1),
            "text": text, "outcome": None if text is None else outcome(item, text),
        })  # fmt: skip
    return pd.DataFrame(rows)
