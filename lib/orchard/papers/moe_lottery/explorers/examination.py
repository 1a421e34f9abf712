"""One question at a time to a trained model and to a smaller one made from it: what the explorer of 05_capabilities shows."""

from __future__ import annotations

import copy

from orchard.nn import Decoder
from orchard.papers.moe_lottery.data import probes
from orchard.papers.moe_lottery.data.probes import Item
from orchard.papers.moe_lottery.data.world import TESTED_ATTRIBUTES, World
from orchard.papers.moe_lottery.method.dropping import drop_experts
from orchard.papers.moe_lottery.runs.smaller import RANDOM, Smaller, dropped, five_domains, statistics_of
from orchard.runs import Finished
from orchard.train import load_model

WORDING = 0  # of the statement


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

    def facts(self) -> list[str]:
        """The facts that can be asked for, as `attribute of entity`."""
        return [f"{attribute} of {entity}" for entity, attribute in self.world.facts("tested", TESTED_ATTRIBUTES)]

    def smaller(self, removal: str, percent: int) -> Decoder:
        """The model without `percent` % of the experts of every layer."""
        key = (removal, percent)
        if key not in self._made:
            statistics = None if removal == RANDOM else statistics_of(self.cfg.clone().set(removal=removal), self.base)
            model = copy.deepcopy(self.base)
            drop_experts(model, dropped(model, removal, percent / 100, statistics, f"{self.cfg.seed} 0"))
            self._made[key] = model.eval()
        return self._made[key]

    def __call__(self, fact: str, task: str, removal: str, percent: int, examples: int) -> dict[str, object]:
        """Prompt, what the full and the smaller model write and whether that is right, and the chance each gives to the options
        after the arrow and in a statement."""
        attribute, _, entity = fact.partition(" of ")
        statement, item = self.items(entity, attribute, task, examples)
        found: dict[str, object] = {"prompt": item.prompt}
        for form, own in (("task", item), ("statement", statement)):
            found |= {f"{form} options": own.options, f"{form} answer": own.answer}
        models = {
            "full": (self.base, "full model"),
            "smaller": (self.smaller(removal, percent), f"{removal}, s = {percent} %"),
        }
        for name, (model, label) in models.items():
            (text,) = probes.generated(model, [item.prompt])
            chances = [scores.softmax(dim=0).tolist() for scores in probes.likelihoods(model, [item, statement])]
            found |= {
                f"{name} name": label, f"{name} text": text, f"{name} outcome": probes.outcome(item, text),
                f"{name} task": chances[0], f"{name} statement": chances[1],
            }  # fmt: skip
        return found

    def items(self, entity: str, attribute: str, task: str, examples: int) -> tuple[Item, Item]:
        """The fact as a statement, and as a question after `examples` solved ones; the same as in the battery."""
        battery = probes.questions(self.world, [examples], 0, seed=0)
        unit = f"{attribute} of {entity}"
        own = [item for item in battery if item.unit == unit]
        statement = next(item for item in own if item.task == probes.STATE and item.wording == WORDING)
        return statement, next(item for item in own if item.task == task)
