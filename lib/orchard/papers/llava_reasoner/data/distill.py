"""Four ways to distil chains from the teacher, and how often what they give is right, in closed form.

    policy       kept                                  label      chain
    filter       teacher's answer = annotation         both       as written                       the paper
    all          everything                            annotation as written                       no filter
    rationalise  everything                            annotation forced to end in the annotation  a teacher that is shown the answer
    gold         everything                            the truth  without an error                 upper bound

With T the teacher's answer, G the truth, L the annotation (flipped with probability rho), independent of one another given G:

    P(kept)         = (1 - rho) P(T = G) + rho P(L = T | T != G) P(T != G)
    P(label right | kept) = (1 - rho) P(T = G) / P(kept)        P(chain right | kept) = (1 - rho) P(chain right) / P(kept)

A filter that is independent of the errors could only choose among labels. This one lets through a wrong chain that ends in the right answer
by luck, and a wrong answer that the annotation shares. P is the sum over all values of the bars, misreadings and miscalculations: exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int64

from orchard.errors import BadInput, closest
from orchard.papers.llava_reasoner.data.chart_world import ChartWorld, Records
from orchard.papers.llava_reasoner.data.questions import (
    COUNT_ABOVE,
    KNOW,
    LOOKUP,
    RANGE_PLUS,
    TALLEST,
    TASKS,
    Questions,
    computed,
    gold,
    named,
    needed,
    results,
    slipped,
    task_number,
)
from orchard.papers.llava_reasoner.data.teacher import HASTY, Teacher, one_off, words

POLICIES = ("filter", "all", "rationalise", "gold")
MOST = 10_000  # combinations of values that are enumerated


@dataclass(frozen=True)
class Distilled:
    """What a policy gives: rows of the questions, the chain of each, its label (a short answer), the style of its chain."""

    rows: Int64[np.ndarray, "kept"]
    chains: list[str]
    labels: list[str]
    styles: list[str]


def distil(
    policy: str, world: ChartWorld, records: Records, asked: Questions, teacher: Teacher, tries: int = 1
) -> Distilled:
    """Chains and labels by a policy. ``tries``: of the filter; a question whose chain disagrees with the annotation is asked again.

    Raises BadInput for an unknown policy, and for no try."""
    if policy not in POLICIES:
        raise BadInput(f"distil: there is no policy {policy!r}; {closest(policy, POLICIES)}")
    if tries < 1:
        raise BadInput(f"distil: tries = {tries}; give 1 or more")
    chains, labels = teacher.write(world, records, asked), teacher.labels(records, asked)
    rows = np.arange(len(asked))
    if policy == "gold":
        answers, listed = gold(records, asked)
        unlisted = gold(records, asked, listed=False)[1]
        texts = [unlisted[i] if chains.style[i] == HASTY else listed[i] for i in rows]
        return Distilled(rows, texts, answers, chains.styles())
    if policy != "filter":
        texts = chains.texts(records, asked, labels if policy == "rationalise" else None)
        return Distilled(rows, texts, words(records, asked, labels), chains.styles())
    found: dict[int, tuple[str, str, str]] = {}
    for attempt in range(tries):
        chains = teacher.write(world, records, asked, attempt)
        kept = np.array([i for i in np.flatnonzero(chains.results[:, 1] == labels) if i not in found], dtype=np.int64)
        part = records.take(kept), asked.take(kept)
        taken = chains.take(kept)
        new = zip(taken.texts(*part), words(*part, labels[kept]), taken.styles(), strict=True)
        found |= dict(zip(kept.tolist(), new, strict=True))
    rows = np.array(sorted(found), dtype=np.int64)
    columns = [[found[i][column] for i in rows.tolist()] for column in range(3)]
    return Distilled(rows, *columns)


def precisions(world: ChartWorld, teacher: Teacher, tasks: Sequence[str] = TASKS[:KNOW]) -> pd.DataFrame:
    """What one try of each policy gives, by the law of the world and of the teacher, tasks in equal parts: index policy, columns kept
    (of all questions) and, of what is kept, label (the short answer is right), answer (the chain ends in the truth), chain
    (every word is right).

    Raises BadInput for an unknown task or none, for charts of varying size, and for a world that is too large to be enumerated."""
    if not tasks:
        raise BadInput(f"precisions: no task is given; give some of {', '.join(TASKS)}")
    cfg = world.cfg
    if cfg.fewest < cfg.bars or cfg.highest**cfg.bars > MOST:
        raise BadInput(
            f"precisions: {cfg.fewest} ... {cfg.bars} bars with {cfg.highest} values; the law is enumerated for one number of bars and at "
            f"most {MOST} combinations: measure it on drawn charts instead"
        )
    masses = np.mean([_masses(world, teacher, task_number(task)) for task in tasks], axis=0)
    table = pd.DataFrame(masses, index=pd.Index(POLICIES, name="policy"), columns=["kept", "label", "answer", "chain"])
    parts = ["label", "answer", "chain"]
    table[parts] = table[parts].div(table["kept"], axis=0)
    return table


def _masses(world: ChartWorld, teacher: Teacher, task: int) -> np.ndarray:
    """[policies, 4]: probability of a question to be kept, and to be kept with a right label, answer, chain."""
    cfg, rho = world.cfg, teacher.cfg.label_noise
    value = np.stack(np.meshgrid(*[np.arange(1, cfg.highest + 1)] * cfg.bars, indexing="ij"), axis=-1).reshape(
        -1, cfg.bars
    )
    found = np.zeros((len(POLICIES), 4))
    for asked, weight in _questions(world, task, len(value)):
        truth = results(value, asked)
        for belief, bar, of_reading in _readings(teacher, value, asked, cfg.highest):
            read = results(belief, asked)
            whole, ending = _unharmed(value, belief, asked, bar, truth, read)
            for slips, of_slips in _slips(teacher, asked):
                answer = slipped(read[:, 1] - read[:, 0] + slipped(read[:, 0], slips[0]), slips[1])
                agrees = answer == truth[:, 1]
                kept = np.where(agrees, 1 - rho, rho * _flip(answer, truth[:, 1], task, cfg.bars))
                shares = np.array(teacher.cfg.mix) * of_slips
                both, unlisted = shares.sum(), shares[HASTY]
                clean, mendable = not any(slips), not slips[0]
                correct = clean * ((both - unlisted) * (bar < 0) + unlisted * whole.mean())
                mended = mendable * ((both - unlisted) * (bar < 0) + unlisted * ending.mean())
                p = weight * of_reading
                answered = (1 - rho) * agrees.mean() * both
                found[0] += p * np.array([kept.mean() * both, answered, answered, (1 - rho) * correct])
                found[1] += p * np.array([both, (1 - rho) * both, agrees.mean() * both, correct])
                found[2] += p * np.array([both, (1 - rho) * both, (1 - rho) * both, (1 - rho) * mended])
                found[3] += p * both
    return found


def _questions(world: ChartWorld, task: int, count: int) -> Iterator[tuple[Questions, float]]:
    """The questions of a task with their probabilities; where the place of bars makes no difference, those of the first bars."""
    cfg = world.cfg
    ways = {
        TALLEST: [(-1, -1, -1)], COUNT_ABOVE: [(-1, -1, t) for t in range(1, cfg.highest)],
        RANGE_PLUS: [(bar, -1, -1) for bar in range(cfg.bars)], KNOW: [(0, 0, -1), (0, 1, -1)], LOOKUP: [(0, -1, -1)],
    }.get(task, [(0, 1, -1)])  # fmt: skip
    for way in ways:
        columns = (np.full(count, number, dtype=np.int8) for number in (task, *way))
        yield Questions(*columns), 1 / len(ways)


def _readings(
    teacher: Teacher, value: Int[np.ndarray, "cases bars"], asked: Questions, highest: int
) -> Iterator[tuple[np.ndarray, int, float]]:
    """(belief, the misread bar or -1, probability)."""
    yield value, -1, 1 - teacher.cfg.misread
    bars = np.flatnonzero(needed(value[:1], asked.take(np.arange(1)))[0]).tolist()
    for bar, up in itertools.product(bars, (False, True)):
        belief = value.copy()
        belief[:, bar] = one_off(value[:, bar], up, highest)
        yield belief, bar, teacher.cfg.misread / len(bars) / 2


def _slips(teacher: Teacher, asked: Questions) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """(slips of the two results, their probability by style)."""
    each = [(0, -1, 1) if there else (0,) for there in computed(asked.take(np.arange(1)))[0]]
    for slips in itertools.product(*each):
        chances = []
        for rate in teacher.slip_rates():
            factors = [rate / 2 if slip else 1 - rate for slip, ways in zip(slips, each, strict=True) if len(ways) > 1]
            chances.append(float(np.prod(factors)))
        yield slips, chances


def _flip(answer: np.ndarray, truth: np.ndarray, task: int, bars: int) -> np.ndarray:
    """Probability that a flipped annotation of this truth is this other answer."""
    if task == TALLEST:
        return (answer != truth) / (bars - 1)
    return (0.0 + (slipped(truth, -1) == answer) + (truth + 1 == answer)) / 2


def _unharmed(
    value: np.ndarray, belief: np.ndarray, asked: Questions, bar: int, truth: np.ndarray, read: np.ndarray
) -> tuple[Bool[np.ndarray, "cases"], Bool[np.ndarray, "cases"]]:
    """Of chains without a listing: whether a misreading leaves every word right, and whether it does once the last word is the truth."""
    whole = (read == truth).all(1) & ~named(belief, asked)[:, bar] if bar >= 0 else np.ones(len(value), dtype=bool)
    last_alone = (asked.task == LOOKUP) | ((asked.task == KNOW) & (asked.bar != asked.other))
    last_alone |= (asked.task == TALLEST) & (belief.max(1) == value.max(1))
    return whole, whole | last_alone
