"""One question at a time to a trained model and to a smaller one made from it: what the explorer of 05_capabilities shows."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from orchard import plot
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data import probes
from orchard.papers.moe_lottery.data.probes import Item
from orchard.papers.moe_lottery.data.world import World
from orchard.papers.moe_lottery.figures.capabilities import BAR, TINTS
from orchard.papers.moe_lottery.method.dropping import drop_experts
from orchard.papers.moe_lottery.runs.smaller import RANDOM, Smaller, dropped, five_domains, statistics_of
from orchard.plot.style import COLUMN, PALETTE, use_style
from orchard.runs import Finished
from orchard.train import load_model

WORDING = 0  # of the statement


@dataclass(frozen=True)
class Answer:
    """What one model makes of a fact: its name, what it writes and whether that is right, and the chances that it gives to the
    options of the task and to those of the statement."""

    name: str
    text: str
    outcome: str
    chances: list[list[float]]


class Examination:
    """Asks a model and what dropping leaves of it. Smaller models are made when they are first asked, and kept.

    Args:
        cfg: a run of this part with its base model: calibration windows and seed are taken from it.
        trained: the finished run of its base.
    """

    def __init__(self, cfg: Smaller.Config, trained: Finished) -> None:
        self.cfg = cfg
        self.base = load_model(trained, cfg.base)
        self.world: World = five_domains(cfg.base).build().world
        self._made: dict[tuple[str, int], Decoder] = {}

    def smaller(self, removal: str, percent: int) -> Decoder:
        """The model without `percent` % of the experts of every layer."""
        key = (removal, percent)
        if key not in self._made:
            statistics = None if removal == RANDOM else statistics_of(self.cfg.clone().set(removal=removal), self.base)
            model = copy.deepcopy(self.base)
            drop_experts(model, dropped(model, removal, percent / 100, statistics, f"{self.cfg.seed} 0"))
            self._made[key] = model.eval()
        return self._made[key]

    def items(self, fact: str, task: str, examples: int) -> tuple[Item, Item]:
        """The fact as a question after `examples` solved ones, and as a statement; the same as in the battery."""
        own = [item for item in probes.questions(self.world, [examples], 0, seed=0) if item.unit == fact]
        statement = next(item for item in own if item.task == probes.STATE and item.wording == WORDING)
        return next(item for item in own if item.task == task), statement

    def answers(self, items: tuple[Item, Item], removal: str, percent: int) -> list[Answer]:
        """Of the full model and of the smaller one."""
        models = {"full model": self.base, f"{removal}, s = {percent} %": self.smaller(removal, percent)}
        found = []
        for name, model in models.items():
            (text,) = probes.generated(model, [items[0].prompt])
            chances = [scores.softmax(dim=0).tolist() for scores in probes.likelihoods(model, items)]
            found.append(Answer(name, text, probes.outcome(items[0], text), chances))
        return found

    @use_style()
    def draw(
        self, fact: str, task: str = "name", criterion: str = "ean", dropped: int = 50, examples: int = 0
    ) -> Figure:
        """The prompt, what both models write, and what they think of the options after the arrow and in a statement."""
        items = self.items(fact, task, examples)
        both = self.answers(items, criterion, dropped)
        made, (words, *panels) = plot.figure(2 * COLUMN, 2.5, 1, 3)
        words.set_axis_off()
        prompt = items[0].prompt.rstrip()
        words.text(0, 1, prompt, va="top", family="monospace", fontsize=6.5, transform=words.transAxes)
        for row, answer in enumerate(both):
            line = f"{answer.name}: {answer.text!r}  {answer.outcome}"
            at = (0, 0.16 - 0.13 * row)
            words.text(*at, line, fontsize=7, color=TINTS[answer.outcome], transform=words.transAxes)
        for form, (panel, item, title) in enumerate(
            zip(panels, items, ("after the arrow", "in a statement"), strict=True)
        ):
            for shift, answer, tint in zip((-0.19, 0.19), both, (BAR, PALETTE[0]), strict=True):
                places = [place + shift for place in range(len(item.options))]
                panel.barh(places, [100 * p for p in answer.chances[form]], height=0.36, color=tint)
            names = [f"{option} ✓" if option == item.answer else option for option in item.options]
            panel.set_yticks(range(len(names)), names)
            panel.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 100), title=title, xlabel="chance among the options (%)")
            panel.grid(visible=False, axis="y")
        handles = [Patch(color=tint, label=answer.name) for tint, answer in zip((BAR, PALETTE[0]), both, strict=True)]
        made.legend(handles=handles, loc="outside lower center", ncols=2)
        return made
