"""Dropping experts by hand: a trained model answers at once, by masking, with its loss by domain, its routing and the probes.

A choice costs two passes over a few test windows and one over a few questions, each answered by the likeliest option: no fine-tuning,
no table that was made before.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from orchard import plot
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data.probes import CAPABILITY, Item, likelihoods, questions, rank
from orchard.papers.moe_lottery.experiments.profiles import models
from orchard.papers.moe_lottery.figures.training import layer_map
from orchard.papers.moe_lottery.method.dropping import Drop, ExpertsError, masked
from orchard.papers.moe_lottery.runs.scoring import Text, nats
from orchard.papers.moe_lottery.runs.smaller import five_domains
from orchard.papers.moe_lottery.runs.suite import usage
from orchard.plot.style import INK, PALETTE
from orchard.runs import Runner, Setting
from orchard.train import choose, load_model

WINDOWS = 8  # of the test split
ITEMS = 12  # of every task
MOST_BOXES = 64  # tick boxes, one for each expert; of a larger model the lowest layers can be taken apart
BEFORE, AFTER = "#c9dcea", PALETTE[0]


@dataclass(frozen=True)
class Readings:
    """Test loss by domain and of "all" (nats/byte); load of every expert; share of right answers by capability."""

    loss: dict[str, float]
    load: Float[Tensor, "layers n"]
    right: dict[str, float]


@dataclass(frozen=True)
class Live:
    """A model and what it is measured on."""

    model: Decoder
    text: Text
    items: list[Item]

    @cached_property
    def full(self) -> Readings:
        """Readings while nothing is dropped."""
        return self.read({})

    def read(self, dropped: Drop) -> Readings:
        """Readings without some experts: one pass over the text for the loss, one for the routing, one over the questions.

        Raises ExpertsError for a choice that leaves a router too few."""
        with masked(self.model, dropped):
            sums, size = nats(self.model, self.text).sum(dim=0), self.text.counts().sum(dim=0)
            routed = usage(self.model, self.text)[0].sum(dim=2).double()
            scored = zip(self.items, likelihoods(self.model, self.items), strict=True)
        loss = {"all": float(sums.sum() / size.sum())}
        loss |= {name: float(sums[d] / size[d]) for d, name in enumerate(self.text.names) if size[d]}
        right = [float(rank(scores, item.options.index(item.answer)) == 1) for item, scores in scored]
        return Readings(loss, routed / routed.sum(dim=1, keepdim=True), by_capability(self.items, right))


def by_capability(items: Sequence[Item], values: Sequence[float]) -> dict[str, float]:
    """Mean of the values of the questions about each capability."""
    names = [CAPABILITY[item.task] for item in items]
    return {str(name): float(mean) for name, mean in pd.Series(values).groupby(names, sort=False).mean().items()}


def live(setting: Setting, run: Runner, name: str | None = None) -> Live:
    """A trained model of a setting, by default the first, ready to be taken apart; at most `ITEMS` questions of every task."""
    found = next(model for model in models(setting) if name in (None, model.name))
    model = load_model(run([found.run])[0], found.run).to(choose("auto").device)
    items = questions(five_domains(found.run).build().world, (1,), ITEMS)
    drawn, tasks = random.Random(0).sample(items, len(items)), dict.fromkeys(item.task for item in items)
    few = [item for task in tasks for item in [item for item in drawn if item.task == task][:ITEMS]]
    return Live(model, Text.evaluation(found.run, "test", WINDOWS), few)


def hand(model: Live, first: Drop | None = None) -> tuple[Callable[..., Figure], dict[str, Any]]:
    """What `orchard.widgets.explorer` needs: a figure for a set of experts, and a tick box for each of the first `MOST_BOXES`.
    `first`: what is dropped in the beginning."""
    cells = [(place, e) for place in range(len(model.full.load)) for e in range(model.full.load.shape[1])][:MOST_BOXES]
    boxes = {f"L{place} E{e}": (place, e) for place, e in cells}

    def draw(**ticked: bool) -> Figure:
        gone = [cell for name, cell in boxes.items() if ticked[name]]
        return drawn(model, {place: [e for p, e in gone if p == place] for place in dict(gone)})

    return draw, {name: e in (first or {}).get(place, ()) for name, (place, e) in boxes.items()}


@torch.no_grad()
@plot.use_style()
def drawn(model: Live, dropped: Drop) -> Figure:
    """The figure of a choice; a choice that cannot be is named in its place."""
    try:
        now = model.read(dropped)
    except ExpertsError as error:
        figure, (axes,) = plot.figure(width=5.2, height=1.2)
        axes.set_axis_off()
        words = textwrap.fill(str(error), 80)
        axes.text(0, 0.5, words, transform=axes.transAxes, va="center", fontsize=8, color=PALETTE[3])
        return figure
    return _compared(model, now, dropped)


def _compared(model: Live, now: Readings, dropped: Drop) -> Figure:
    """Loss by domain and right answers by capability, the full model pale behind; below, the load of every expert before and now."""
    full, (layers, n) = model.full, now.load.shape
    guess = by_capability(model.items, [1 / len(item.options) for item in model.items])
    figure, (left, right, *maps) = plot.figure(width=5.2, height=3.1 + 0.12 * layers, rows=2, columns=2)
    for readings, height, colour, label in ((full, 0.8, BEFORE, "full model"), (now, 0.4, AFTER, "without them")):
        left.barh(list(readings.loss), list(readings.loss.values()), height=height, color=colour, label=label)
        shares = [100 * share for share in readings.right.values()]
        right.barh(list(readings.right), shares, height=height, color=colour)
    for place, name in enumerate(now.right):
        right.vlines(100 * guess[name], place - 0.42, place + 0.42, color=INK, linestyle=":", linewidth=1)
    right.set_xlim(0, 100)
    for axes, words in ((left, "test loss (nats/byte)"), (right, "right answers (%; dotted: guessing)")):
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel(words)
    top = float(max(full.load.max(), now.load.max())) * n
    for axes, one, name in zip(maps, (full, now), ("load, full model", "load now"), strict=True):
        grid = pd.DataFrame(one.load.numpy() * n)
        for layer, experts in dropped.items() if one is now else ():
            grid.loc[layer, list(experts)] = np.nan
        image = layer_map(axes, grid, Normalize(0, top), ".1f")
        axes.set(title=name, xlabel="expert")
    figure.colorbar(image, ax=maps, pad=0.02, label="times an even share")
    figure.suptitle(
        f"{sum(map(len, dropped.values()))} of {layers * n} experts dropped: {now.loss['all']:.3f} nats/byte, "
        f"{now.loss['all'] - full.loss['all']:+.3f}", fontsize=8, x=0.02, ha="left",
    )  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
