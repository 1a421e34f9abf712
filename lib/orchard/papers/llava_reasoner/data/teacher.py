"""The teacher: an oracle that writes chains and errs by a known law, and the annotation of short answers, which errs too.

    style     share  a chain has                      miscalculates
    careful   50 %   the listing, then the steps      each computed result with probability e
    hasty     35 %   the steps alone                  e
    sloppy    15 %   the listing, then the steps      4 e

With probability r one of the bars that the question needs, each as often, is read one off, up or down as often (up at 1, down at the
highest value). A miscalculated result is one off, up or down as often (up at 0). The teacher goes on from its error. An annotation is
flipped with probability rho: a number is one off (up at 0), a colour becomes that of another bar. All of this is independent, and
independent of what the chart looks like. The mix of styles, an assumption about real rationales, is ours and not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int8, Int64

from orchard.config import Configurable
from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data.chart_world import ChartWorld, Records, Rows
from orchard.papers.llava_reasoner.data.questions import (
    TALLEST,
    Questions,
    answer_word,
    chain,
    computed,
    named,
    needed,
    results,
    slipped,
)

STYLES = ("careful", "hasty", "sloppy")
HASTY = STYLES.index("hasty")
SLOPPY = 4  # times as many miscalculations
STYLE, ERRORS, LABELS = range(20, 23)  # streams of random numbers


@dataclass(frozen=True)
class Chains(Rows):
    """What the teacher believed and computed of each question; in words by `Chains.texts`."""

    style: Int8[np.ndarray, "chains"]  # into STYLES
    misread: Int8[np.ndarray, "chains"]  # the bar that is one off; -1: none
    belief: Int8[np.ndarray, "chains bars"]  # the values that were read
    slips: Int8[np.ndarray, "chains 2"]  # of the two results
    results: Int64[np.ndarray, "chains 2"]  # of the step before the last, of the last one: the answer

    def styles(self) -> list[str]:
        """The style of each chain in a word."""
        return [STYLES[style] for style in self.style.tolist()]

    def texts(self, records: Records, asked: Questions, forced: Int[np.ndarray, "chains"] | None = None) -> list[str]:
        """The chains in words; ``forced``: answers that they must end in, whatever the steps say."""
        self._check(records, asked)
        answers = self.results[:, 1] if forced is None else forced
        believed = Records(records.colour, self.belief)
        return [
            chain(believed.bars(i), asked.row(i), self.results[i, 0], answers[i], bool(self.style[i] != HASTY))
            for i in range(len(self))
        ]

    def right(self, records: Records, asked: Questions) -> Bool[np.ndarray, "chains"]:
        """Whether every word of a chain is right: nothing is miscalculated; what was misread is neither written nor changes a result."""
        self._check(records, asked)
        return right(records.value, asked, self.belief, self.misread, self.slips, self.style == HASTY)

    def _check(self, records: Records, asked: Questions) -> None:
        if not len(self) == len(records) == len(asked):
            raise BadInput(
                f"Chains: {len(self)} chains, {len(records)} records, {len(asked)} questions; take the same rows of all three"
            )


def right(
    value: Int[np.ndarray, "chains bars"], asked: Questions, belief: Int[np.ndarray, "chains bars"],
    misread: Int[np.ndarray, "chains"], slips: Int[np.ndarray, "chains 2"], hasty: Bool[np.ndarray, "chains"],
) -> Bool[np.ndarray, "chains"]:  # fmt: skip
    """`Chains.right` of its parts. Without a listing a misread bar that the steps do not name is harmless where the results stay."""
    rows = np.arange(len(value))
    same = (results(belief, asked) == results(value, asked)).all(1)
    harmless = hasty & same & ~named(belief, asked)[rows, misread]
    return ~slips.any(1) & ((misread < 0) | harmless)


def one_off(value: np.ndarray, up: np.ndarray | bool, highest: int) -> np.ndarray:
    """Values as they are misread: up at 1, down at the highest one."""
    return np.where((up | (value == 1)) & (value < highest), value + 1, value - 1)


class Teacher(Configurable):
    """The law of errors. Raises BadInput for what is no probability."""

    class Config(Configurable.Config):
        misread: float = 0.10  # of a chain
        miscalculate: float = 0.05  # of a computed result; sloppy: four times as much
        mix: list[float] = [0.50, 0.35, 0.15]  # careful, hasty, sloppy
        label_noise: float = 0.08  # of a short answer
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: Teacher.Config) -> None:
        self.cfg = cfg
        limits = {"misread": 1.0, "miscalculate": 1 / SLOPPY, "label_noise": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(cfg, name) <= limit:
                raise BadInput(f"Teacher.Config.{name} is {getattr(cfg, name)}: give a probability from 0 to {limit:g}")
        if len(cfg.mix) != len(STYLES) or min(cfg.mix) < 0 or abs(sum(cfg.mix) - 1) > 1e-9:
            raise BadInput(f"Teacher.Config.mix is {cfg.mix}: give three shares, of {', '.join(STYLES)}, that sum to 1")

    def slip_rates(self) -> list[float]:
        """Probability that a computed result is wrong, by style."""
        return [self.cfg.miscalculate * (SLOPPY if style == "sloppy" else 1) for style in STYLES]

    def write(self, world: ChartWorld, records: Records, asked: Questions, attempt: int = 0) -> Chains:
        """A chain for each question; those of the first ones do not depend on the others. Another attempt has the same style, new errors.

        Raises BadInput where there are not as many questions as records."""
        if len(records) != len(asked):
            raise BadInput(f"Teacher.write: {len(records)} records, {len(asked)} questions; take the same rows of both")
        n, bars = records.value.shape
        shares = np.cumsum(self.cfg.mix[:-1])
        style = np.searchsorted(shares, np.random.default_rng([self.cfg.seed, STYLE]).random(n), side="right")
        u = np.random.default_rng([self.cfg.seed, ERRORS, attempt]).random((n, 6 + bars))
        chosen = np.where(needed(records.value, asked), u[:, 6:], -1.0).argmax(1)
        misread = np.where(u[:, 0] < self.cfg.misread, chosen, -1)
        wrong = np.arange(bars) == misread[:, None]
        belief = np.where(wrong, one_off(records.value, u[:, 1:2] < 0.5, world.cfg.highest), records.value)
        rate = np.array(self.slip_rates())[style]
        slips = np.where(u[:, 4:6] < 0.5, -1, 1) * ((u[:, 2:4] < rate[:, None]) & computed(asked))
        found = results(belief, asked, slips)
        small = [part.astype(np.int8) for part in (style, misread, belief, slips)]
        return Chains(*small, found)

    def labels(self, records: Records, asked: Questions) -> Int64[np.ndarray, "questions"]:
        """The annotated short answers as numbers, of tallest as bars; those of the first questions do not depend on the others."""
        u = np.random.default_rng([self.cfg.seed, LABELS]).random((len(asked), 2))
        answers, count = results(records.value, asked)[:, 1], (records.value > 0).sum(1)
        near = slipped(answers, np.where(u[:, 1] < 0.5, -1, 1))
        distractor = (answers + 1 + (u[:, 1] * (count - 1)).astype(np.int64)) % count
        flipped = np.where(asked.task == TALLEST, distractor, near)
        return np.where(u[:, 0] < self.cfg.label_noise, flipped, answers)


def words(records: Records, asked: Questions, answers: Sequence[int] | Int[np.ndarray, "questions"]) -> list[str]:
    """Answers, as `Teacher.labels` gives them, in words."""
    return [answer_word(records.bars(i), asked.row(i), answers[i]) for i in range(len(asked))]
